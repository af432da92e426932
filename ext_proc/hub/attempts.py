"""What the events of one exchange become: attempts, and from them one finished exchange."""

from __future__ import annotations

from dataclasses import dataclass, field

from ext_proc.pb import journal_pb2 as pb

DIRECTIONS = (pb.REQUEST, pb.RESPONSE)


@dataclass(frozen=True, slots=True)
class Gate:
    """Whose events these are. `writer` is the authenticated name the hub stamped, `name` the gate's own."""

    writer: str
    name: str


@dataclass(frozen=True, slots=True)
class JournalKey:
    """One worker's life."""

    gate: Gate
    slot: int
    journal: str


@dataclass(frozen=True, slots=True)
class Ref:
    """A frame that holds a Part: where it begins in the journal, and its length with the frame's header."""

    journal: JournalKey
    offset: int
    length: int


@dataclass(slots=True)
class Body:
    """The parts of one direction in order: (form, data), or (form, where the data lies)."""

    pieces: list[tuple[int, bytes | Ref]] = field(default_factory=list)
    held: int = 0


@dataclass(slots=True)
class Attempt:
    """What one ext_proc stream left, up to now. `bodies` and `trailers` are indexed by pb.Direction."""

    opened_us: int
    end_us: int
    opened: pb.Opened
    verdict: pb.Verdict | None = None
    head: pb.ResponseHead | None = None
    response_verdict: pb.ResponseVerdict | None = None
    bodies: tuple[Body, Body] = field(default_factory=lambda: (Body(), Body()))
    trailers: list[pb.Trailers | None] = field(default_factory=lambda: [None, None])
    masks: list[pb.Mask] = field(default_factory=list)
    closed: pb.Closed | None = None
    ended: bool = False

    def add(self, kind: str | None, event: pb.Event) -> None:
        """What came beside the body."""
        if kind == "verdict":
            verdict = event.verdict
            if self.verdict is not None:  # what was held and then decided keeps its approval, and why it was held
                verdict.approval_id = verdict.approval_id or self.verdict.approval_id
                if not verdict.hits:
                    verdict.hits.extend(self.verdict.hits)
            self.verdict = verdict
        elif kind == "response_head":
            self.head = event.response_head
            self.masks.extend(self.head.masks)
        elif kind == "response_verdict":
            self.response_verdict = event.response_verdict
        elif kind == "trailers" and event.trailers.direction in DIRECTIONS:
            self.trailers[event.trailers.direction] = event.trailers
            self.masks.extend(event.trailers.masks)

    def progress(self) -> tuple[bool, bool, int]:
        """Orders ended attempts of one exchange: the one that got furthest is the record."""
        return self.head is not None, self.verdict is not None, self.opened_us


@dataclass(frozen=True, slots=True)
class Finished:
    """One exchange, ready for its row. `attempt` is None where Envoy refused before ext_proc saw the request."""

    exchange_id: bytes
    gate: Gate
    outcome: str
    attempt: Attempt | None
    access: pb.Access | None
    ended_us: int


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration that a worker loaded."""

    gate: Gate
    at_us: int
    config: pb.Config
