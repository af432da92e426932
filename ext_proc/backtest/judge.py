"""What a configuration would decide about a recorded exchange: the gate's own grants and policies, over what the record
has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ext_proc.backtest.counters import Counters
from ext_proc.backtest.facts import RecordedFacts, at_hand, sent_size
from ext_proc.backtest.recorded import Recorded
from ext_proc.config import Config, Connection
from ext_proc.decision import Deny, Obligations, RuleHit
from ext_proc.exchange import is_interactive
from ext_proc.rules import Grants, Message, Policies, all_operations
from ext_proc.rules.rule import Rule

Outcome = Literal["allow", "deny", "hold", "uncertain"]

GRANTS = "(grants)"
"""What decided where no policy did: there is no grant, or no scope, for the request."""
MAX_INSPECT = "(max_inspect)"
"""The connection's limit: a policy must read the body, and it is larger."""
MASKING = "(masking)"
"""`masking.response: client`: what is masked in the record is masked for the client."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A rule that matched, could not be judged (as the gate could not), or is in doubt: then `doubt` says why."""

    rule: str
    effect: str
    mode: str
    values: Mapping[str, object] = field(default_factory=dict, repr=False)
    doubt: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`by`: the rules that decided. `response` is what rules say of the answer, empty where none looked; `response_by`
    is the rule that said so."""

    outcome: Outcome
    by: tuple[str, ...] = ()
    reason: str = ""
    hits: tuple[Hit, ...] = ()
    response: str = ""
    response_by: str = ""
    response_hits: tuple[Hit, ...] = ()


class Judge:
    """One configuration. Exchanges of a session come in order of time. ConfigError where a rule can never work."""

    def __init__(self, config: Config) -> None:
        operations = all_operations(config)
        self._config = config
        self._grants = Grants(config, operations)
        self._policies = Policies(config, operations)
        self._counters = Counters(config.sessions.window)

    @property
    def rules(self) -> tuple[Rule, ...]:
        return self._policies.rules

    @property
    def counts_sessions(self) -> bool:
        """Whether the order of a session's exchanges makes a difference."""
        return self._policies.uses_session or any(rule.policy.rate is not None for rule in self.rules)

    @property
    def looks_at(self) -> frozenset[str]:
        """Every fact that some rule touches."""
        return frozenset().union(*(rule.looks_at for rule in self.rules))

    @property
    def looks_at_responses(self) -> bool:
        return any(rule.for_responses for rule in self.rules)

    def decide(self, recorded: Recorded) -> Verdict:
        verdict = self._request(recorded)
        if verdict.outcome == "deny" and self._policies.uses_session:
            self._counters.deny(_session(recorded), recorded.exchange.received_us)
        return verdict

    def _request(self, recorded: Recorded) -> Verdict:
        exchange = recorded.exchange
        request = (exchange.connection, exchange.method, exchange.path)
        connection = self._config.connections.get(exchange.connection)
        if connection is None:
            return Verdict("deny", (GRANTS,), "grant.none")
        size = sent_size(recorded.request)
        streamed = _streamed(recorded, connection)
        if not streamed and (size or 0) > connection.max_inspect:
            if self._policies.needs_body(*request):
                return Verdict("deny", (MAX_INSPECT,), "policy.uninspectable")
            streamed = True
        if recorded.caller is not None:
            granted = self._grants.allow(*request, recorded.caller)
            if isinstance(granted, Deny):
                if recorded.request.masks.path:  # the sent path may have fitted
                    return Verdict("uncertain", (GRANTS,), granted.reason)
                return Verdict("deny", (GRANTS,), granted.reason)
        body = None
        if not streamed and not recorded.request.missing and self._policies.looks_at_body(*request):
            body = at_hand(recorded.request, self._config.recording.max_decoded)
        counters: Mapping[str, int] | None = None
        if self._policies.uses_session:
            counters = self._counters.count(_session(recorded), exchange, size or recorded.request.size)
        facts = RecordedFacts(
            recorded,
            self._policies.operation(*request),
            request=Message(exchange.headers, body, size),
            counters=counters,
        )
        decided = self._policies.decide(facts)
        hits = tuple(self._hits(decided.hits, facts))
        if any(hit.doubt and hit.mode == "enforce" for hit in hits):
            verdict = _doubted(hits)
        elif isinstance(decided, Deny):
            verdict = Verdict("deny", (decided.policy,), decided.reason, hits)
        elif decided.hold is not None and streamed:
            verdict = Verdict("deny", (decided.hold.requirements[0].policy,), "policy.uninspectable", hits)
        else:
            verdict = self._allowed(recorded, decided.obligations, hits)
            if decided.hold is not None and verdict.outcome == "allow":
                by = tuple(requirement.policy for requirement in decided.hold.requirements)
                verdict = Verdict("hold", by, "approval.pending", hits)
        if verdict.outcome != "deny" and recorded.response is not None:
            return self._response(recorded, facts, verdict)
        return verdict

    def _allowed(self, recorded: Recorded, obligations: Obligations, hits: tuple[Hit, ...]) -> Verdict:
        if obligations.rates:
            at_us = recorded.exchange.received_us
            exceeded = self._counters.take(_session(recorded), at_us, obligations.rates)
            if exceeded:
                return Verdict("deny", (exceeded,), "policy.rate", hits)
        return Verdict("allow", hits=hits)

    def _response(self, recorded: Recorded, facts: RecordedFacts, verdict: Verdict) -> Verdict:
        exchange, content = recorded.exchange, recorded.response
        rules = self._policies.response_rules(exchange.connection, exchange.method, exchange.path)
        if content is None:
            return verdict
        masked = self._config.masking.response == "client" and (content.masks.body or bool(content.masks.headers))
        if rules is None:
            return replace(verdict, response="mask", response_by=MASKING) if masked else verdict
        limit = self._config.connections[exchange.connection].max_inspect_response
        awaited = not is_interactive(content.headers) and (sent_size(content) or content.size) <= limit
        body = at_hand(content, limit) if awaited and rules.needs_body and not content.missing else None
        answered = RecordedFacts(
            recorded, facts["operation"], response=Message(content.headers, body, sent_size(content))
        )
        decided = rules.decide(answered)
        hits = tuple(self._hits(decided.hits, answered))
        action, by = decided.action, decided.policy
        if action == "mask" and body is None and content.size and not content.missing:
            action = "withhold"  # what cannot be awaited cannot be masked
        elif action == "pass" and masked:
            action, by = "mask", MASKING
        doubted = any(hit.doubt and hit.mode == "enforce" for hit in hits)
        return replace(verdict, response="uncertain" if doubted else action, response_by=by, response_hits=hits)

    def _hits(self, hits: tuple[RuleHit, ...], facts: RecordedFacts) -> Iterator[Hit]:
        """Those that could not be judged are judged again, to see whether it was for what the record does not have."""
        for hit in hits:
            doubt = ""
            if "uninspectable" in hit.values and facts.doubt:
                facts.doubt = ""
                next(rule for rule in self.rules if rule.name == hit.policy).judge(facts)
                doubt = facts.doubt
            yield Hit(hit.policy, hit.effect, hit.mode, hit.values, doubt)


def _doubted(hits: tuple[Hit, ...]) -> Verdict:
    """A rule that certainly denies does so whatever the others say; otherwise it is open."""
    enforced = [hit for hit in hits if hit.mode == "enforce"]
    for hit in enforced:
        if not hit.doubt and ("uninspectable" in hit.values or hit.effect == "deny"):
            reason = "policy.uninspectable" if "uninspectable" in hit.values else "policy.denied"
            return Verdict("deny", (hit.rule,), reason, hits)
    return Verdict("uncertain", tuple(hit.rule for hit in enforced if hit.doubt), hits=hits)


def _streamed(recorded: Recorded, connection: Connection) -> bool:
    headers = recorded.exchange.headers
    return connection.body == "stream" or is_interactive(headers) or headers.first("upgrade") is not None


def _session(recorded: Recorded) -> str:
    return str(recorded.caller.session_id) if recorded.caller is not None else ""
