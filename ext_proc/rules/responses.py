"""Response rules: what is flagged, masked or withheld of what an upstream answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ext_proc.decision import RuleHit
from ext_proc.rules.facts import Facts
from ext_proc.rules.rule import Rule

_BODY = frozenset({"response.body", "response.json"})


@dataclass(frozen=True, slots=True)
class ResponseDecision:
    """`pass` it (also where rules only flag), `mask` what is at `mask_json` (with `detectors`: also what they find), or
    `withhold` it: `policy`, `reason` and `message` say why."""

    action: Literal["pass", "mask", "withhold"] = "pass"
    mask_json: tuple[str, ...] = ()
    detectors: bool = False
    policy: str = ""
    reason: str = ""
    message: str = ""
    hits: tuple[RuleHit, ...] = ()


class ResponseRules:
    """Those that fit one request."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self.rules = rules

    @property
    def needs_body(self) -> bool:
        """Whether the answer must be at hand as a whole before any of it goes on."""
        return any(
            rule.enforced and (rule.policy.effect == "mask" or not rule.looks_at.isdisjoint(_BODY))
            for rule in self.rules
        )

    def decide(self, facts: Facts) -> ResponseDecision:
        """The strictest of what the matching rules say. `facts` have the response.

        A mask or withhold rule that cannot be judged withholds (`policy.uninspectable`): it cannot be told what would
        be shown. A flag rule that cannot be judged is recorded as such.
        """
        hits: list[RuleHit] = []
        withheld: tuple[Rule, str] | None = None
        masked: list[Rule] = []
        for rule in self.rules:
            judgement = rule.judge(facts)
            if not judgement.matched and not judgement.uninspectable:
                continue
            hits.append(rule.hit(judgement))
            if not rule.enforced or rule.policy.effect == "flag":
                continue
            if judgement.uninspectable or rule.policy.effect == "withhold":
                withheld = withheld or (rule, judgement.uninspectable)
            else:
                masked.append(rule)
        if withheld is not None:
            return _withhold(*withheld, tuple(hits))
        if not masked:
            return ResponseDecision(hits=tuple(hits))
        masks = [rule.policy.mask for rule in masked]
        paths = dict.fromkeys(path for mask in masks if mask is not None for path in mask.json_paths)
        return ResponseDecision("mask", tuple(paths), None in masks, masked[0].name, hits=tuple(hits))


def _withhold(rule: Rule, why: str, hits: tuple[RuleHit, ...]) -> ResponseDecision:
    reason = "policy.uninspectable" if why else "response.withheld"
    message = f"the policy {rule.name} cannot be judged: {why}" if why else rule.policy.message
    return ResponseDecision(
        "withhold",
        policy=rule.name,
        reason=reason,
        message=message or f"the policy {rule.name} withholds this answer",
        hits=hits,
    )
