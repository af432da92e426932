"""One policy, compiled: what it says about a set of facts, and why."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ext_proc.config import Policy
from ext_proc.decision import RuleHit
from ext_proc.expressions import BudgetExceeded, EvaluationError, Expression, FactUnreadable
from ext_proc.rules.conditions import condition
from ext_proc.rules.facts import BODY_FACTS, REQUEST_SCHEMA, RESPONSE_SCHEMA, Facts
from ext_proc.rules.nested import POLICY_FUNCTIONS
from ext_proc.rules.operations import Operations

RESPONSE_EFFECTS = frozenset({"flag", "mask", "withhold"})
_DIGEST = 16


@dataclass(frozen=True, slots=True)
class Judgement:
    """`matched`; or else, where it could not be said, `uninspectable` with why, in words for the caller."""

    matched: bool
    values: Mapping[str, object] = field(default_factory=dict)
    uninspectable: str = ""


_NO = Judgement(False)


@dataclass(frozen=True, slots=True)
class Rule:
    """`digest` is its version: over its definition, and over what the operations that it names stand for."""

    policy: Policy
    digest: str
    expression: Expression | None

    @property
    def name(self) -> str:
        return self.policy.name

    @property
    def enforced(self) -> bool:
        return self.policy.mode == "enforce"

    @property
    def for_responses(self) -> bool:
        return self.policy.effect in RESPONSE_EFFECTS

    @property
    def looks_at(self) -> frozenset[str]:
        """The facts that its condition touches."""
        return frozenset() if self.expression is None else self.expression.facts

    @property
    def needs_body(self) -> bool:
        return not self.looks_at.isdisjoint(BODY_FACTS)

    @property
    def needs_session(self) -> bool:
        return any(fact.startswith("session.") for fact in self.looks_at)

    def judge(self, facts: Facts) -> Judgement:
        """Whether it matches. Never raises for what a request may hold; takes its own budget, whatever others took."""
        if self.expression is None:
            return Judgement(True)
        try:
            if not self.expression.holds(facts, memo=facts.memo):
                return _NO
        except FactUnreadable as why:
            return Judgement(False, uninspectable=f"it must look into what cannot be read: {why}")
        except EvaluationError as error:
            return Judgement(False, uninspectable=f"its condition has no value for this: {error}")
        except BudgetExceeded:
            return Judgement(False, uninspectable="to judge this would take too long")
        return Judgement(True, self.expression.trace(facts, memo=facts.memo))

    def hit(self, judgement: Judgement) -> RuleHit:
        values: dict[str, Any] = dict(judgement.values)
        if judgement.uninspectable:
            values["uninspectable"] = judgement.uninspectable
        return RuleHit(self.name, self.digest, self.policy.effect, self.policy.mode, values)


def compile_rule(policy: Policy, operations: Mapping[str, Operations]) -> Rule:
    """ConfigError `config.condition` where its condition can never work."""
    expression = None
    if policy.when is not None:
        schema = RESPONSE_SCHEMA if policy.effect in RESPONSE_EFFECTS else REQUEST_SCHEMA
        expression = condition(policy.when, f"policies.{policy.name}.when", schema, POLICY_FUNCTIONS, folding=True)
    return Rule(policy, _digest(policy, operations), expression)


def _digest(policy: Policy, operations: Mapping[str, Operations]) -> str:
    requests = {
        connection: {name: known.names.get(name, ()) for name in policy.match.operation}
        for connection, known in operations.items()
        if policy.match.operation and policy.match.connection in (None, connection)
    }
    definition = policy.model_dump(mode="json", by_alias=True)
    text = json.dumps([definition, requests], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST]
