"""The labelled secrets and the recorded traffic, as measures of the masking.

A row of `secrets.jsonl.gz` is a text with the spans of its secrets, or one without (`label`: neg). A span counts as
found when 80 % of it is masked; rows marked `ambiguous` or `needs_path` are left out. Rows with `template` come from
one generator and are counted apart. `tuned` are the rows that the rules were tuned on, half of them by a hash of the
id; the others show what the rules are worth on what they were not made for.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ext_proc.exchange import Headers
from ext_proc.masking import ExchangeMasker
from ext_proc.pb import journal_pb2

COVERED = 0.8
SECRET_NAMED = re.compile(rb"(?i)(pass|secret|token|key|auth|credential|pwd)[a-z0-9_-]*[\\\"']*\s*[:=]\s*[\\\"']*$")
"""What stands before a mask when a field's name says that it holds a secret."""


@dataclass(slots=True)
class Score:
    """Counts over some rows: secrets and those found, masks and those on a secret, negative rows and those masked."""

    secrets: int = 0
    found: int = 0
    masks: int = 0
    right: int = 0
    negatives: int = 0
    hit: int = 0

    @property
    def recall(self) -> float:
        return self.found / max(1, self.secrets)

    @property
    def precision(self) -> float:
        return self.right / max(1, self.masks)

    @property
    def false_alarms(self) -> float:
        return self.hit / max(1, self.negatives)

    def __add__(self, other: Score) -> Score:
        return Score(*(getattr(self, n) + getattr(other, n) for n in self.__slots__))


@dataclass(slots=True)
class Traffic:
    """Counts over recorded exchanges: with a mask, with one where no field is named so, and bytes of bodies."""

    exchanges: int = 0
    touched: int = 0
    unnamed: int = 0
    bodies: int = 0
    masked: int = 0
    responses: list[bytes] = field(default_factory=list, repr=False)


def rows(corpus: Path) -> Iterator[dict[str, Any]]:
    """The labelled rows that count."""
    with gzip.open(corpus / "secrets.jsonl.gz", "rt") as lines:
        for row in map(json.loads, lines):
            if not row.get("ambiguous") and not row.get("needs_path"):
                yield row


def tuned(row: dict[str, Any]) -> bool:
    """Whether the rules were tuned on this row."""
    return not hashlib.sha256(row["id"].encode()).digest()[0] & 1


def scores(corpus: Path, masker: ExchangeMasker) -> dict[tuple[str, bool], Score]:
    """By source (`gitleaks template` apart) and half (whether `tuned`)."""
    found: dict[tuple[str, bool], Score] = defaultdict(Score)
    for row in rows(corpus):
        score = found[row["source"] + (" template" if row.get("template") else ""), tuned(row)]
        _, spans = masker.whole_text(row["text"])
        score.masks += len(spans)
        if row["label"] == "neg":
            score.negatives += 1
            score.hit += bool(spans)
            continue
        for start, end in row["spans"]:
            covered = sum(max(0, min(end, b) - max(start, a)) for a, b, _ in spans)
            score.secrets += 1
            score.found += covered >= COVERED * (end - start)
        score.right += sum(any(a < end and start < b for start, end in row["spans"]) for a, b, _ in spans)
    return found


def pairs(corpus: Path) -> Iterator[dict[str, Any]]:
    """The recorded exchanges."""
    for name in ("datadog-client", "datadog-terraform"):
        with gzip.open(corpus / f"{name}.jsonl.gz", "rt") as lines:
            yield from map(json.loads, lines)


def traffic(corpus: Path, exchange: ExchangeMasker) -> Traffic:
    """What is masked in the recorded exchanges. AssertionError when a body passes on other than it came."""
    count = Traffic()
    for pair in pairs(corpus):
        before = [*_target(pair, exchange)]
        for side, direction in (("request", journal_pb2.REQUEST), ("response", journal_pb2.RESPONSE)):
            fields = Headers([(n.lower(), str(v).encode()) for n, v in pair[f"{side}_headers"]])
            _, masks = exchange.headers(side, fields)
            before += [
                fields.items[m.index][0].encode() + b": " for m in masks if m.detector not in ("cookie", "set-cookie")
            ]
            sent = body(pair, side)
            coding = (fields.first("content-encoding") or b"") if side == "request" else b""
            step = exchange.body(direction, fields.first("content-type") or b"", coding).feed(sent, last=True)
            assert step.release == sent
            assert step.masks or step.record == sent
            before += [step.record[max(0, m.start - 60) : m.start] for m in step.masks]
            count.bodies += len(sent)
            count.masked += sum(m.original_length for m in step.masks)
            if side == "response" and sent:
                count.responses.append(sent)
        count.exchanges += 1
        count.touched += bool(before)
        count.unnamed += any(not SECRET_NAMED.search(text) for text in before)
    return count


def _target(pair: dict[str, Any], exchange: ExchangeMasker) -> Iterator[bytes]:
    url = urlsplit(pair["url"])
    for place, text in (("path", url.path), ("query", url.query)):
        stored, masks = exchange.text(place, text)
        yield from (stored.encode()[: m.start] for m in masks)


def body(pair: dict[str, Any], side: str) -> bytes:
    """A recorded body as it was on the wire."""
    raw = pair[f"{side}_body"] or ""
    return base64.b64decode(raw) if pair.get(f"{side}_body_b64") else str(raw).encode()
