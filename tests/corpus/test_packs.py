"""The Datadog pack on recorded traffic: what each rule matches of 8,706 recorded exchanges, and that it is right to.

The recordings are those of Datadog's own clients, made to use the whole API: a rule that matches often there is not
one that matches often elsewhere. Rules that look into bodies (widgets, queries, sizes) must match almost nothing.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.policies import Guard

pytestmark = pytest.mark.corpus

CONFIG = """\
version: 1
issuers: {ci: {issuer: "https://ci.example", audience: douane}}
connections:
  datadog: {listen: "127.0.0.1:15001", upstream: "https://api.datadoghq.com"}
packs:
  - {pack: datadog, connection: datadog}
"""
COUNTS = {
    "widget-types": 4,
    "widget-count": 0,
    "payload-size": 0,
    "empty-queries": 0,
    "empty-widgets": 0,
    "empty-monitors": 1,
    "stale-time-frames": 1,
    "muting": 37,
    "muting-by-edit": 12,
    "security-muting": 55,
    "mint-credentials": 31,
    "widen-credentials": 0,
    "read-credentials": 5,
    "stored-secrets": 169,
    "sharing": 15,
    "access": 229,
    "deletions": 1594,
    "bulk-writes": 0,
    "unbounded-writes": 1,
    "mass-writes": 0,
}
"""What each rule matches of the 2,486 and 6,220 recorded exchanges."""

# What a match must look like at the least, said in another way than the pack does.
RIGHT = {
    "widget-types": r"(POST|PUT|PATCH) \S*(dashboard|powerpacks)\b.*\"type\": ?\"iframe\"",
    "empty-monitors": r"POST /api/v1/monitor .*\"query\": ?\"query\"",
    "stale-time-frames": r"POST /api/v1/dashboard .*\"time\": ?\{[^}]*\"to\": ?1712083128",
    "muting": r"(POST|PUT|PATCH) \S*(downtime|slo/correction)",
    "muting-by-edit": r"PUT \S*(synthetics/tests/.*\"status\": ?\"paused\"|monitor/.*\"draft_status\": ?\"draft\")",
    "security-muting": r"(POST|PUT|PATCH) \S*(suppressions|findings/mute|mute_rules|/state)\b",
    "mint-credentials": r"(POST|PUT) \S*(_keys|_tokens|service_accounts|private-locations|app_key_registrations/\S+) ",
    "read-credentials": r"GET \S*(api_keys|application_keys)/[^/ ]+ ",
    "stored-secrets": r"(POST|PUT|PATCH) \S*(integration|synthetics/var|actions/conn|archives|destinations)",
    "sharing": r"(POST|PUT|PATCH) \S*(dashboard/public|secure-embed)",
    "access": r"(POST|PUT|PATCH) \S*(user|role|authn|restriction|org|saml|allowlist|dataset|policies)",
    "deletions": r"DELETE |POST \S*(delete\b|/deletion/)",
    "unbounded-writes": r"POST \S*by_scope",
}


def _recorded(corpus: Path) -> Iterator[dict[str, Any]]:
    for name in ("datadog-client", "datadog-terraform"):
        with gzip.open(corpus / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            for line in lines:
                yield {**json.loads(line), "file": name}


@pytest.fixture(scope="module")
def judged(corpus: Path) -> list[tuple[dict[str, Any], set[str]]]:
    """Every recorded exchange, with the names of the rules that match it; each scenario is a session."""
    guard = Guard(CONFIG)
    sessions: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    targets: dict[tuple[str, str], set[str]] = defaultdict(set)
    found = []
    for row in _recorded(corpus):
        encoded = row["request_body_b64"]
        body = base64.b64decode(encoded) if encoded else (row["request_body"] or "").encode()
        target = re.sub(r"^https?://[^/]+", "", row["url"]) or "/"
        session = (row["file"], row["cassette"])
        if row["method"] not in ("GET", "HEAD", "OPTIONS"):
            targets[session].add(target.partition("?")[0])
            sessions[session]["window.writes"] += 1
            sessions[session]["window.targets"] = len(targets[session])
        facts = guard.facts(
            f"{row['method']} {target}",
            body,
            connection="datadog",
            headers=[(name, value) for name, value in row["request_headers"]],
            session=sessions[session],
        )
        names = set()
        for rule in guard.policies.fitting("datadog", row["method"], target.partition("?")[0]):
            judgement = rule.judge(facts)
            assert not judgement.uninspectable, (rule.name, row["cassette"], judgement.uninspectable)
            if judgement.matched:
                names.add(rule.name.removeprefix("datadog."))
        found.append((row, names))
    return found


def test_how_much_each_rule_matches(judged: list[tuple[dict[str, Any], set[str]]]) -> None:
    assert len(judged) == 2486 + 6220
    counted = Counter(name for _, names in judged for name in names)
    assert {name: counted[name] for name in COUNTS} == COUNTS
    assert set(counted) <= set(COUNTS)


def test_what_matches_is_what_the_rule_is_about(judged: list[tuple[dict[str, Any], set[str]]]) -> None:
    for row, names in judged:
        said = f"{row['method']} {re.sub(r'^https?://[^/]+', '', row['url'])} {row['request_body']}"
        for name in names:
            assert re.match(RIGHT[name], said, re.DOTALL), (name, said[:200])


def test_reads_pass_but_those_of_keys(judged: list[tuple[dict[str, Any], set[str]]]) -> None:
    matched = [names for row, names in judged if row["method"] == "GET" and names]
    assert matched == [{"read-credentials"}] * COUNTS["read-credentials"]


def test_every_answer_that_holds_a_new_credential_is_of_a_call_that_is_refused(
    judged: list[tuple[dict[str, Any], set[str]]],
) -> None:
    """Known by what upstream answered, not by where it was asked. RUM's client tokens are public by design."""
    credential = re.compile(
        r'"(key|token|publicKeyPem|privateKey|secretAccessKey)": ?"([0-9a-f]{32}|x{32,}|ddapp_\w+|ddpat_\S+)"'
    )
    answers = [(row, names) for row, names in judged if credential.search(row["response_body"] or "")]
    assert answers
    for row, names in answers:
        assert names & {"mint-credentials", "read-credentials", "sharing"}, (row["method"], row["url"])


def test_every_call_whose_path_speaks_of_muting_is_seen(judged: list[tuple[dict[str, Any], set[str]]]) -> None:
    """But for what lifts it, reads, orders or checks it."""
    for row, names in judged:
        if row["method"] in ("POST", "PUT", "PATCH") and re.search(r"mute|downtime|suppress|correction", row["url"]):
            harmless = re.search(r"/(validation|reorder|rules|by_scope|unmute)\b(?!/mute)$", row["url"])
            assert bool(names & {"muting", "security-muting"}) is not bool(harmless), row["url"]
