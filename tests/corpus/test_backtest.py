"""Suggested scopes over the recorded traffic: they cover all of it, are few, and cover nothing that was not seen."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from bench import recorded
from ext_proc.backtest.callers import CLAIMS
from ext_proc.backtest.judge import Judge
from ext_proc.backtest.ledger import Reader, Selection, Wanted
from ext_proc.backtest.paste import yaml
from ext_proc.backtest.run import over
from ext_proc.backtest.suggestion import Suggestion, suggest
from ext_proc.backtest.tally import Tally
from ext_proc.backtest.usage import Used
from ext_proc.backtest.values import Shown
from ext_proc.config import Config, parse
from ext_proc.config.positions import read
from ext_proc.decision import Deny
from ext_proc.exchange import Caller, SignedClaims
from ext_proc.rules import Grants

pytestmark = pytest.mark.corpus

# Requests, different methods and paths among them, and the lines that cover them.
SIZES = {"client": (2486, 1509, 750), "terraform": (6220, 1912, 443)}
START_US = 1_778_320_800_000_000


def base() -> dict[str, Any]:
    return {
        "version": 1,
        "issuers": {"github": {"issuer": recorded.CLAIMS["iss"], "audience": "douane"}},
        "connections": {"datadog": {"listen": "127.0.0.1:15001", "upstream": "https://api.datadoghq.com"}},
    }


def config(changes: dict[str, Any] | None = None) -> Config:
    whole = base()
    for name, connection in (changes or {}).get("connections", {}).items():
        whole["connections"][name] |= connection
    whole |= {"grants": (changes or {}).get("grants", [])}
    return parse(json.dumps(whole), "douane.yaml", Path("/nowhere")).config


def suggestion(rows: list[dict[str, Any]]) -> Suggestion:
    claims = tuple(json.dumps(recorded.CLAIMS[p[0]]) if p[0] in recorded.CLAIMS else "" for p in CLAIMS)
    used = [Used("datadog", r["method"], r["path"], "", 1, "2026-05-09 10:00", "github", claims) for r in rows]
    return suggest(lambda: used, config())


def pasted(found: Suggestion) -> Config:
    data, _ = read(yaml(found, since="then", until="now", grants=True), "suggestion")
    return config(data)


def over_recording(settings: Config, rows: list[dict[str, Any]]) -> Tally:
    """The rows as the ledger would give them."""

    def as_asked(n: int, row: dict[str, Any]) -> dict[str, Any]:
        headers = row["req_headers"]
        return {
            "id": str(UUID(int=n)),
            "us": START_US + n,
            **{name: row[name] for name in ("connection", "method", "host", "path", "query", "status")},
            **dict.fromkeys(("reason", "approval_id", "response_decision", "wi", "ws", "wc"), ""),
            "scheme": "https",
            "decision": "allow",
            "policy": "infra-main",
            "outcome": "complete",
            "issuer": "github",
            "subject": recorded.CLAIMS["sub"],
            "claims": json.dumps(recorded.CLAIMS),
            "sid": str(row["session_id"]),
            "label": row["session_label"],
            "masks": [],
            "req_hn": [name for name, _ in headers],
            "req_hv": [value.decode() for _, value in headers],
            "req_size": len(row["req_body"]),
            "req_form": "as_sent",
        }

    reader = Reader(lambda *_: iter(()), Selection("1", {}, 0, 1), Wanted(False, False, False))
    exchanges = (reader._recorded(as_asked(n, row)) for n, row in enumerate(rows))
    return over(exchanges, Judge(settings), Shown(settings), Tally())


@pytest.mark.parametrize("name", SIZES)
def test_the_suggestion_covers_the_recording_in_few_lines(corpus: Path, name: str) -> None:
    rows = recorded.corpus(corpus, name)
    found = suggestion(rows)
    assert (len(rows), len({(r["method"], r["path"]) for r in rows}), found.lines) == SIZES[name]
    assert (found.count, found.left_out_count) == (len(rows), 0)
    assert sum(t.use.count for scope in found.scopes["datadog"].values() for t in scope) == len(rows)

    settings = pasted(found)
    assert len(settings.grants) == 1
    tally = over_recording(settings, rows)
    assert (tally.seen, dict(tally.changes), tally.uncertain) == (len(rows), {}, 0)


@pytest.mark.parametrize("name", SIZES)
def test_the_suggestion_covers_nothing_that_was_not_seen(corpus: Path, name: str) -> None:
    rows = recorded.corpus(corpus, name)
    found = suggestion(rows)
    grants = Grants(pasted(found))
    caller = Caller("github", "s", SignedClaims(recorded.CLAIMS), UUID(int=1), "")

    def allowed(method: str, path: str) -> bool:
        return not isinstance(grants.allow("datadog", method, path, caller), Deny)

    requests = [t.request.split(" ", 1) for scope in found.scopes["datadog"].values() for t in scope]
    by_path: dict[str, set[str]] = {}
    for method, path in requests:
        by_path.setdefault(path, set()).add(method)
    for path, methods in by_path.items():
        asked = re.sub(r"\{[^}]*\}", "0a1b2c3d", path)
        others = [
            p for p in by_path if p != path and re.fullmatch(re.sub(r"\\\{[^}]*\\\}", "[^/]+", re.escape(p)), asked)
        ]
        covered = methods.union(*(by_path[p] for p in others))
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"):
            assert allowed(method, asked) == (method in covered), (method, path)
        if "/api/" in path:
            assert not allowed(next(iter(methods)), f"{asked}/never-seen/at-all")
    for never in ("/api/v1/api_key", "/api/v1/nothing", "/api/v2/never/seen", "/api/v3/dashboard"):
        assert not any(allowed(method, never) for method in ("GET", "POST", "DELETE"))


def test_another_caller_gets_nothing(corpus: Path) -> None:
    grants = Grants(pasted(suggestion(recorded.corpus(corpus, "client"))))
    for changes in ({"repository_id": "75"}, {"ref": "refs/heads/dev"}):
        caller = Caller("github", "s", SignedClaims({**recorded.CLAIMS, **changes}), UUID(int=1), "")
        assert isinstance(grants.allow("datadog", "GET", "/api/v1/monitor", caller), Deny)
