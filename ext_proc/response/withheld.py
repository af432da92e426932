"""Why a client does not get the response to a request that was carried out."""

from __future__ import annotations

from ext_proc.decision import Deny
from ext_proc.rules import ResponseDecision

UNINSPECTABLE = "policy.uninspectable"
OVERLOADED = Deny(
    "gate.overloaded",
    "this gate holds too many responses that have not arrived yet; the request was carried out",
    http_status=503,
    remedy="Look at the upstream before trying again.",
)
UNREADABLE = Deny(
    "policy.uninspectable",
    "the response must be masked for the client, and it cannot be decoded, or is a part of a document",
    http_status=502,
    remedy="The request was carried out. Ask for the whole document, in identity, gzip, deflate, br or zstd.",
)
NO_PATHS = Deny(
    "policy.uninspectable",
    "a policy masks JSON paths in the response, which comes as events, gRPC or an upgraded stream",
    http_status=502,
    remedy="Ask for a plain JSON response, or ask the operator.",
)


def withheld_by(decision: ResponseDecision) -> Deny | None:
    if decision.action != "withhold":
        return None
    if decision.reason == UNINSPECTABLE:
        return Deny(
            "policy.uninspectable",
            decision.message or "a policy failed to look at the response",
            http_status=502,
            policy=decision.policy,
            remedy="The request was carried out. Ask for less, for plain JSON, or ask the operator.",
        )
    return Deny(
        "response.withheld",
        decision.message or f"the policy {decision.policy} withholds the response",
        policy=decision.policy,
        remedy="The request was carried out; ask the operator what may be seen of its response.",
    )


def too_large(limit: int) -> Deny:
    return Deny(
        "response.too_large",
        f"the response must be looked into, and it is over {limit} bytes; the request was carried out",
        http_status=502,
        remedy="Ask for less at a time, or let the operator raise max_inspect_response for this connection.",
    )
