"""What policies cost: ten typical ones on a body of 2 KB, and ten on hostile bodies of 1 MB. `make bench-policies`.

In one process, without a network: parsing the body is part of it. Times are CPU times, so that what else runs on the
machine does not count. A stall is the longest time between two points at which the stage lets other requests go on.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from uuid import UUID

from ext_proc.config import Config
from ext_proc.decision import Deny
from ext_proc.exchange import Caller, Exchange, Headers, SignedClaims
from ext_proc.rules import Facts, Message, Policies

MIB = 1 << 20
ROUNDS = 2_000
CALLER = Caller("github", "repo:acme/infra", SignedClaims({"ref": "refs/heads/main"}), UUID(int=7), "acme/infra run 1")

TYPICAL = {
    "no-iframes": "widgets(request.json).exists(w, w.definition.type == 'iframe')",
    "few-widgets": "widgets(request.json).size() > 50",
    "small": "request.size > 262144",
    "no-empty-queries": "find(request.json, 'q').exists(q, q == '')",
    "titled": "!has(request.json.title) || request.json.title.size() < 3",
    "no-links-out": "find(request.json, 'url').exists(u, !u.startsWith('https://acme.example/'))",
    "tagged": "has(request.json.tags) && !request.json.tags.exists(t, t.startsWith('team:'))",
    "no-notify": "find(request.json, 'message').exists(m, m.contains('@all'))",
    "main-only": "request.method == 'DELETE' && identity.claims.ref != 'refs/heads/main'",
    "not-forced": "'true' in request.query.force",
}
"""Every one denies; none does for the honest body."""


def honest() -> bytes:
    """A dashboard of about 2 KB."""
    widgets = [
        {
            "id": n,
            "definition": {
                "type": "timeseries",
                "title": f"Requests of service {n}",
                "requests": [
                    {"q": f"sum:trace.http.request.hits{{service:s{n},env:prod}}.as_count()", "style": {"w": 1}}
                ],
            },
            "layout": {"x": 4 * n, "y": 0, "width": 4, "height": 2},
        }
        for n in range(8)
    ]
    document = {"title": "Overview", "layout_type": "ordered", "tags": ["team:sre"], "widgets": widgets}
    return json.dumps(document).encode()


def _deep() -> bytes:
    unit = b'{"widgets":[{"definition":'
    deep = unit * 60 + b'{"type":"note"}' + b"}]}" * 60
    return b'{"widgets":[' + b",".join([deep] * (MIB // (len(deep) + 1))) + b"]}"


def _encoded() -> bytes:
    text: object = {"definition": {"type": "note"}}
    while len(one := json.dumps(text)) < MIB // 3:
        text = {"widgets": [one, one]}
    return json.dumps(text).encode()


HOSTILE: dict[str, Callable[[], bytes]] = {
    "many small objects": lambda: b"[" + b",".join([b'{"a":1}'] * (MIB // 8)) + b"]",
    "one wide array": lambda: b'{"widgets":[' + b",".join([b"1"] * (MIB // 2)) + b"]}",
    "many names": lambda: json.dumps({f"k{n}": n for n in range(MIB // 16)}).encode(),
    "nested brackets": lambda: b"[" * (MIB // 2) + b"]" * (MIB // 2),
    "deep, wide": _deep,
    "duplicate keys": lambda: b"{" + b",".join([b'"a":1'] * (MIB // 6)) + b"}",
    "one long string": lambda: b'{"title":"' + b"a" * MIB + b'"}',
    "escapes": lambda: b'{"title":"' + b"\\u0061" * (MIB // 6) + b'"}',
    "many widgets": lambda: b'{"widgets":[' + b",".join([b'{"definition":{"type":"n"}}'] * (MIB // 28)) + b"]}",
    "no definitions": lambda: b'{"widgets":[' + b",".join([b"{}"] * (MIB // 3)) + b"]}",
    "JSON in JSON": _encoded,
    "many empty queries": lambda: json.dumps(
        {"x": [{"q": "s", "url": "https://acme.example/"}] * (MIB // 45)}
    ).encode(),
    "long numbers": lambda: b"[" + b",".join([b"9" * 4000] * (MIB // 4001)) + b"]",
}


def policies() -> Policies:
    rules = [{"name": name, "effect": "deny", "when": when} for name, when in TYPICAL.items()]
    connection = {"listen": "127.0.0.1:1", "upstream": "https://api.example"}
    return Policies(Config.model_validate({"version": 1, "connections": {"dd": connection}, "policies": rules}))


def facts(body: bytes) -> Facts:
    exchange = Exchange(
        exchange_id=UUID(int=1),
        connection="dd",
        method="POST",
        scheme="https",
        authority="api.example",
        path="/api/v1/dashboard",
        query="force=false",
        headers=Headers([("content-type", b"application/json")]),
        received_us=1_800_000_000_000_000,
    )
    return Facts(exchange, CALLER, request=Message(exchange.headers, body, len(body)))


def judged(rules: Policies, body: bytes) -> tuple[float, float, Deny | None]:
    """(seconds in total, the longest of them without a pause, the denial)."""
    steps = rules.deciding(facts(body))
    longest = 0.0
    began = last = time.process_time()
    while True:
        try:
            next(steps)
        except StopIteration as done:
            now = time.process_time()
            return now - began, max(longest, now - last), done.value if isinstance(done.value, Deny) else None
        now = time.process_time()
        longest, last = max(longest, now - last), now


def main() -> int:
    rules = policies()
    body = honest()
    times = [judged(rules, body)[0] for _ in range(ROUNDS)]
    assert judged(rules, body)[2] is None, "the honest body passes"
    quantiles = statistics.quantiles(times, n=100)
    print(f"ten policies, {len(body)} bytes of JSON, {ROUNDS} times, parsing included:")
    print(f"  median {quantiles[49] * 1e3:.3f} ms, p99 {quantiles[98] * 1e3:.3f} ms\n")
    print(f"{'ten policies on 1 MB of':24} {'total':>9} {'stall':>9}  outcome")
    worst = 0.0
    for name, make in HOSTILE.items():
        body = make()
        total, stall, denied = min((judged(rules, body) for _ in range(3)), key=lambda one: one[0])
        worst = max(worst, stall)
        outcome = f"{denied.reason} by {denied.policy}" if denied is not None else "passes"
        print(f"{name:24} {total * 1e3:6.1f} ms {stall * 1e3:6.1f} ms  {outcome}")
    print(f"\nlongest stall {worst * 1e3:.1f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
