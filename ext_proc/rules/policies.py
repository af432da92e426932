"""Policies: what is denied, held or bound to obligations even where a grant allows it.

1. A grant must allow the request (`grants`); without one it is denied, and no policy is asked.
2. Any deny rule that matches denies; the first in the order of the file names it.
3. Otherwise all hold rules that match hold together: each is a requirement, the times are the smallest.
4. The obligations of all matching allow rules add up.

A rule that cannot be judged (the body cannot be read, a member is missing, the budget is used up) denies with
`policy.uninspectable`, whatever its effect. In `observe` mode a rule is only recorded.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import replace

from ext_proc.config import Config, Policy
from ext_proc.decision import NO_OBLIGATIONS, Decided, Deny, Hold, Obligations, Rate, Requirement, RuleHit
from ext_proc.errors import ConfigError
from ext_proc.rules.facts import Facts
from ext_proc.rules.operations import Operations, all_operations
from ext_proc.rules.responses import ResponseRules
from ext_proc.rules.rule import Judgement, Rule, compile_rule
from ext_proc.rules.scopes import Scopes

LARGE = 32 << 10
"""Bytes of a body from which on a caller gets the chance to do something else between two rules."""
_REMEMBERED = 1024
_LONGEST_PATH = 512
_REMEDY = "Send what the rule looks at, as plain UTF-8 and within the connection's max_inspect; or ask the operator."


class Policies:
    """The policies of one configuration. ConfigError where one of them can never work.

    Requests are matched by what they could mean to a lenient server (`Scopes.resembling`): letter case, a final
    slash, `;parameters` or needless percent-encoding do not lead around a rule.
    """

    def __init__(self, config: Config, operations: Mapping[str, Operations] | None = None) -> None:
        self._operations = all_operations(config) if operations is None else operations
        self.rules = tuple(compile_rule(policy, self._operations) for policy in config.policies)
        for policy in config.policies:
            _check_names(policy, config, self._operations)
        self._matches = {
            connection: Scopes(
                {
                    r.name: r.policy.match.requests
                    for r in self.rules
                    if r.policy.match.connection in (None, connection)
                },
                place="policies",
            )
            for connection in config.connections
        }
        self._by_name = {rule.name: rule for rule in self.rules}
        self._uses_session = any(rule.needs_session for rule in self.rules)
        self._fits: dict[tuple[str, str, str], tuple[Rule, ...]] = {}

    def operation(self, connection: str, method: str, path: str) -> str:
        """The name of a request; empty where it has none."""
        known = self._operations.get(connection)
        return "" if known is None else known.of(method, path)

    def fitting(self, connection: str, method: str, path: str) -> tuple[Rule, ...]:
        """The rules that look at such a request or its response, in the order of the file."""
        key = (connection, method, path)
        found = self._fits.get(key)
        if found is None:
            found = self._find(connection, method, path)
            if len(path) <= _LONGEST_PATH:
                if len(self._fits) >= _REMEMBERED:
                    self._fits.clear()
                self._fits[key] = found
        return found

    def needs_body(self, connection: str, method: str, path: str) -> bool:
        """Whether a rule that looks into the body fits, so that the decision must await all of it. A hold needs it as
        well: what is approved is the whole request."""
        return any(
            rule.needs_body or rule.policy.effect == "hold"
            for rule in self._requests(connection, method, path)
            if rule.enforced
        )

    def looks_at_body(self, connection: str, method: str, path: str) -> bool:
        """As `needs_body`, of rules that are only recorded, too, and not of holds: whether a coding must be undone."""
        return any(rule.needs_body for rule in self._requests(connection, method, path))

    @property
    def uses_session(self) -> bool:
        """Whether any rule looks at `session`, so that every request counts."""
        return self._uses_session

    def needs_session(self, connection: str, method: str, path: str) -> bool:
        """Whether a fitting rule looks at `session`, so that the hub must be asked."""
        return any(rule.needs_session for rule in self._requests(connection, method, path))

    def must_have_session(self, connection: str, method: str, path: str) -> bool:
        """Whether one of them is enforced, so that nothing is decided without the hub."""
        return any(rule.needs_session and rule.enforced for rule in self._requests(connection, method, path))

    def decide(self, facts: Facts) -> Deny | Decided:
        """See the module. For a large body, `deciding` lets others go first."""
        steps = self.deciding(facts)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                result: Deny | Decided = done.value
                return result

    def deciding(self, facts: Facts) -> Generator[None, None, Deny | Decided]:
        """As `decide`, pausing before each rule where the body is large. Each rule has its own budget, so between two
        pauses lies the reading of the body, or one rule."""
        exchange, hits = facts.exchange, []
        denied: Deny | None = None
        held: list[Rule] = []
        owed: list[Rule] = []
        large = facts.request is not None and facts.request.body is not None and len(facts.request.body) > LARGE
        rules = self._requests(exchange.connection, exchange.method, exchange.path)
        if large and any("request.json" in rule.looks_at for rule in rules):
            facts.gather("request.json")
        for rule in rules:
            if large:
                yield
            judgement = rule.judge(facts)
            if not judgement.matched and not judgement.uninspectable:
                continue
            hits.append(rule.hit(judgement))
            if not rule.enforced:
                continue
            if judgement.uninspectable or rule.policy.effect == "deny":
                denied = denied or _denied(rule, judgement)
            else:
                (held if rule.policy.effect == "hold" else owed).append(rule)
        if denied is not None:
            return _with_hits(denied, tuple(hits))
        return Decided(_hold(held), _obligations(owed), tuple(hits))

    def response_rules(self, connection: str, method: str, path: str) -> ResponseRules | None:
        """What is to be asked of the response to such a request; None where no rule fits."""
        rules = tuple(rule for rule in self.fitting(connection, method, path) if rule.for_responses)
        return ResponseRules(rules) if rules else None

    def has_response_rules(self, connection: str) -> bool:
        """Whether any response of the connection may be looked at, so that its routes must give us bodies."""
        return any(rule.for_responses and rule.policy.match.connection in (None, connection) for rule in self.rules)

    def _requests(self, connection: str, method: str, path: str) -> list[Rule]:
        return [rule for rule in self.fitting(connection, method, path) if not rule.for_responses]

    def _find(self, connection: str, method: str, path: str) -> tuple[Rule, ...]:
        matches = self._matches.get(connection)
        if matches is None:
            return ()
        found = [self._by_name[name] for name in matches.resembling(method, path)]
        if not any(rule.policy.match.operation for rule in found):
            return tuple(found)
        possible = self._operations[connection].possible(method, path)
        return tuple(
            r for r in found if not r.policy.match.operation or possible.intersection(r.policy.match.operation)
        )


def _check_names(policy: Policy, config: Config, operations: Mapping[str, Operations]) -> None:
    place, connection = f"policies.{policy.name}.match", policy.match.connection
    if connection is not None and connection not in config.connections:
        raise ConfigError("config.unknown_connection", f"{place}: there is no connection {connection!r}")
    where = [connection] if connection is not None else list(config.connections)
    for name in policy.match.operation:
        if not any(name in operations[one].names for one in where):
            for one in where[-1:]:
                operations[one].require(name, f"{place}.operation")


def _denied(rule: Rule, judgement: Judgement) -> Deny:
    if judgement.uninspectable:
        return Deny(
            "policy.uninspectable",
            f"the policy {rule.name} cannot be judged: {judgement.uninspectable}",
            policy=rule.name,
            remedy=_REMEDY,
        )
    message = rule.policy.message or f"the policy {rule.name} does not allow this"
    return Deny("policy.denied", message, policy=rule.name)


def _with_hits(deny: Deny, hits: tuple[RuleHit, ...]) -> Deny:
    return replace(deny, hits=hits)


def _hold(rules: list[Rule]) -> Hold | None:
    if not rules:
        return None
    policies = [rule.policy for rule in rules]
    return Hold(
        tuple(Requirement(p.name, p.approvers, p.quorum) for p in policies),
        min(p.wait for p in policies),
        min(p.validity for p in policies),
        min(p.expires for p in policies),
        next((p.message for p in policies if p.message), ""),
    )


def _obligations(rules: list[Rule]) -> Obligations:
    if not rules:
        return NO_OBLIGATIONS
    masks = [rule.policy.mask for rule in rules if rule.policy.mask is not None]
    return Obligations(
        tuple(dict.fromkeys(header for mask in masks for header in mask.headers)),
        tuple(dict.fromkeys(path for mask in masks for path in mask.json_paths)),
        tuple(Rate(r.name, r.policy.rate.limit, r.policy.rate.per) for r in rules if r.policy.rate is not None),
    )
