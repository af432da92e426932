"""The Datadog pack: what each rule must catch however it is put, and what stands next to it and must pass."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ext_proc.config.packs import pack
from tests.policies import NOW_S
from tests.unit.packs.packs_under_test import guard, matched

IFRAME = {"type": "iframe", "url": "https://attacker.example"}
NOTE = {"definition": {"type": "note", "content": "hi"}}
SERIES = {"type": "timeseries", "requests": [{"q": "avg:system.cpu.user{*}"}]}


def dashboard(*definitions: dict[str, Any]) -> dict[str, Any]:
    return {"title": "t", "layout_type": "ordered", "widgets": [{"definition": d} for d in definitions]}


def group(*definitions: dict[str, Any]) -> dict[str, Any]:
    return {"type": "group", "layout_type": "ordered", "widgets": [{"definition": d} for d in definitions]}


def deep(definition: dict[str, Any], levels: int) -> dict[str, Any]:
    for _ in range(levels):
        definition = group(definition)
    return definition


def queries(*texts: str) -> dict[str, Any]:
    items = [{"data_source": "metrics", "name": f"q{n}", "query": text} for n, text in enumerate(texts)]
    return {"type": "timeseries", "requests": [{"response_format": "timeseries", "queries": items}]}


DASHBOARD, POWERPACK, MONITOR = "POST /api/v1/dashboard", "POST /api/v2/powerpacks", "POST /api/v1/monitor"
ONE_DASHBOARD, ONE_MONITOR = "PUT /api/v1/dashboard/abc-def-ghi", "PUT /api/v1/monitor/123"
UUID = "9d4cf1a1-72bd-4c13-8b0a-2ba07cbb4ec5"

CAUGHT: list[tuple[str, str, Any]] = [
    ("widget-types", DASHBOARD, dashboard(IFRAME)),
    ("widget-types", ONE_DASHBOARD, dashboard(SERIES, IFRAME)),
    ("widget-types", "PATCH /api/v1/dashboard/abc-def-ghi", dashboard(IFRAME)),
    ("widget-types", DASHBOARD, dashboard(deep(IFRAME, 1))),
    ("widget-types", DASHBOARD, dashboard(deep(IFRAME, 6))),
    ("widget-types", DASHBOARD, dashboard({"type": "split_group", "source_widget_definition": IFRAME})),
    ("widget-types", DASHBOARD, {"title": "t", "definition": IFRAME}),
    ("widget-types", DASHBOARD, {"title": "t", "tabs": [{"extra": {"widgets": [{"definition": IFRAME}]}}]}),
    ("widget-types", DASHBOARD, dashboard({**IFRAME, "type": "IFrame"})),
    ("widget-types", DASHBOARD, {"Widgets": [{"Definition": {"Type": "iframe"}}]}),
    ("widget-types", DASHBOARD, b'{"widgets":[{"definition":{"type":"\\u0069fr\\u0061me"}}]}'),
    ("widget-types", DASHBOARD, b'{"\\u0077idgets":[{"d\\u0065finition":{"typ\\u0065":"iframe"}}]}'),
    ("widget-types", DASHBOARD, b'{"widgets":[{"definition":{"type":"note","type":"iframe"}}]}'),
    ("widget-types", DASHBOARD, b'\xef\xbb\xbf{"widgets":[{"definition":{"type":"iframe"}}]}'),
    ("widget-types", DASHBOARD, json.dumps(dashboard(IFRAME)).encode("utf-16")),
    ("widget-types", DASHBOARD, {"widgets": [{"definition": json.dumps(IFRAME)}]}),
    ("widget-types", DASHBOARD, {"widgets": json.dumps([{"definition": IFRAME}])}),
    ("widget-types", "POST /api/v1/screen", {"board_title": "t", "widgets": [{"type": "iframe", "url": "https://x"}]}),
    ("widget-types", "PUT /api/v1/screen/123", {"widgets": [{"type": "iframe"}]}),
    ("widget-types", "POST /api/v1/dash", {"title": "t", "graphs": [{"definition": IFRAME}]}),
    ("widget-types", POWERPACK, {"data": {"attributes": {"group_widget": {"definition": group(IFRAME)}}}}),
    (
        "widget-types",
        f"PATCH /api/v2/powerpacks/{UUID}",
        {"data": {"attributes": {"group_widget": {"definition": group(IFRAME)}}}},
    ),
    ("widget-types", "POST /api/v2/widgets/logs_reports", {"data": {"attributes": {"definition": IFRAME}}}),
    ("widget-types", f"PUT /api/v2/widgets/logs_reports/{UUID}", {"data": {"attributes": {"definition": IFRAME}}}),
    (
        "widget-types",
        "POST /api/v1/notebooks",
        {"data": {"attributes": {"cells": [{"attributes": {"definition": IFRAME}}]}}},
    ),
    ("widget-types", "POST /API/v1/Dashboard", dashboard(IFRAME)),
    ("widget-types", "POST /api/v1/dashboard/", dashboard(IFRAME)),
    ("widget-types", "POST /api/v1/d%61shboard", dashboard(IFRAME)),
    ("widget-types", "POST /api/v1/dashboard;v=1", dashboard(IFRAME)),
    ("widget-types", "PUT /api/v1/dashboard/..%2fdashboard", dashboard(IFRAME)),
    ("widget-types", "post /api/v1/dashboard", dashboard(IFRAME)),
    ("widget-count", DASHBOARD, dashboard(*[SERIES] * 101)),
    ("widget-count", DASHBOARD, dashboard(*[group(*[SERIES] * 25)] * 4)),
    ("widget-count", POWERPACK, {"data": {"attributes": {"group_widget": {"definition": group(*[SERIES] * 101)}}}}),
    ("payload-size", DASHBOARD, {**dashboard(SERIES), "description": "x" * (256 << 10)}),
    ("payload-size", MONITOR, {"query": "avg(last_5m):avg:a{*} > 1", "message": "x" * (256 << 10)}),
    ("payload-size", "POST /api/v1/logs/config/pipelines", {"name": "x" * (256 << 10)}),
    *(
        ("empty-queries", DASHBOARD, body)
        for body in (
            dashboard({"type": "timeseries", "requests": [{"q": ""}]}),
            dashboard({"type": "timeseries", "requests": [{"q": " \t\n"}]}),
            dashboard({"type": "timeseries", "requests": [{"q": "*"}]}),
            dashboard({"type": "timeseries", "requests": [{"Q": "TODO"}]}),
            dashboard({"type": "hostmap", "requests": {"fill": {"q": "..."}}}),
            dashboard(deep({"type": "timeseries", "requests": [{"q": ""}]}, 3)),
            dashboard(queries("")),
            dashboard(queries("avg:system.cpu.user{*}", "  ")),
            dashboard(queries("$metric")),
            dashboard(queries("{{ metric }}")),
            dashboard(queries("<metric>")),
            dashboard(queries("avg:{host:a}")),
            dashboard(queries("{*}")),
            dashboard({"type": "heatmap", "requests": [{"query": {"data_source": "metrics", "query": "placeholder"}}]}),
            dashboard({"type": "split_group", "source_widget_definition": queries("")}),
        )
    ),
    ("empty-widgets", DASHBOARD, dashboard({"type": "timeseries", "requests": []})),
    ("empty-widgets", DASHBOARD, dashboard(deep({"type": "hostmap", "requests": {}}, 2))),
    ("empty-widgets", DASHBOARD, dashboard({"type": "timeseries", "Requests": [{}]})),
    ("empty-queries", "POST /api/v1/slo", {"sli_specification": {"count": {"queries": [{"query": ""}]}}}),
    ("empty-queries", "POST /api/v1/slo", {"type": "metric", "query": {"numerator": "", "denominator": "sum:a{*}"}}),
    ("empty-queries", MONITOR, {"query": "formula('a')", "options": {"variables": [{"name": "a", "query": " "}]}}),
    *(
        ("empty-monitors", send, {"type": "metric alert", "query": query})
        for send in (MONITOR, ONE_MONITOR)
        for query in ("", "  ", "*", "query", "TODO", "$query", "{{query}}", "<your query>", None, 7, ["a"])
    ),
    (
        "empty-monitors",
        "POST /api/v2/monitor/template",
        {"data": {"attributes": {"monitor_definition": {"query": ""}}}},
    ),
    (
        "stale-time-frames",
        DASHBOARD,
        dashboard({**SERIES, "time": {"type": "fixed", "from": 1712080128, "to": 1712083128}}),
    ),
    ("stale-time-frames", DASHBOARD, dashboard({**SERIES, "time": {"from": 1, "to": (NOW_S - 31 * 86400) * 1000}})),
    ("stale-time-frames", DASHBOARD, dashboard({**SERIES, "time": {"from": 1, "to": 1712083128.5}})),
    ("stale-time-frames", DASHBOARD, dashboard({**SERIES, "time": {"live_span": "2024-01-01"}})),
    ("stale-time-frames", DASHBOARD, dashboard(deep({**SERIES, "time": {"live_span": 1712080128}}, 2))),
    ("muting", "POST /api/v1/monitor/123/mute", b""),
    ("muting", "POST /api/v1/monitor/123/Mute/", b""),
    ("muting", "POST /api/v1/monitor/mute_all", b""),
    ("muting", "POST /api/v1/host/web-1/mute", {"end": 1, "override": True}),
    ("muting", "POST /api/v1/downtime", {"scope": ["*"]}),
    ("muting", "PUT /api/v1/downtime/12", {"scope": ["env:prod"], "end": None}),
    (
        "muting",
        "POST /api/v2/downtime",
        {"data": {"attributes": {"scope": "*", "monitor_identifier": {"monitor_tags": ["*"]}}}},
    ),
    ("muting", f"PATCH /api/v2/downtime/{UUID}", {"data": {"attributes": {"scope": "*"}}}),
    ("muting", "POST /api/v2/synthetics/downtimes", {}),
    ("muting", f"PUT /api/v2/synthetics/downtimes/{UUID}/tests/abc", b""),
    ("muting", "POST /api/v1/slo/correction", {}),
    ("muting", "POST /api/v2/maintenance_windows", {}),
    ("muting-by-edit", ONE_MONITOR, {"options": {"silenced": {"*": None}}}),
    (
        "muting-by-edit",
        MONITOR,
        {"query": "avg(last_5m):avg:a{*} > 1", "options": {"silenced": {"host:a": 1900000000}}},
    ),
    ("muting-by-edit", ONE_MONITOR, {"Options": {"Silenced": {"*": None}}}),
    ("muting-by-edit", ONE_MONITOR, b'{"options":{"s\\u0069lenced":{"*":null}}}'),
    ("muting-by-edit", ONE_MONITOR, {"draft_status": "draft"}),
    ("muting-by-edit", "PUT /api/v1/synthetics/tests/abc-def-ghi/status", {"new_status": "paused"}),
    ("muting-by-edit", "PUT /api/v1/synthetics/tests/api/abc-def-ghi", {"status": "paused"}),
    ("muting-by-edit", "PUT /api/v1/synthetics/tests/abc-def-ghi", {"status": "paused"}),
    (
        "muting-by-edit",
        "PATCH /api/v1/synthetics/tests/abc-def-ghi",
        {"data": [{"op": "replace", "path": "/status", "value": "paused"}]},
    ),
    ("muting-by-edit", "PATCH /api/v1/synthetics/tests/abc", {"data": [{"op": "copy", "from": "/name", "path": "/s"}]}),
    (
        "muting-by-edit",
        "PATCH /api/v1/synthetics/tests/abc",
        {"data": [{"op": "replace", "path": "", "value": {"status": "paused"}}]},
    ),
    ("security-muting", "PATCH /api/v2/security/findings/mute", {}),
    ("security-muting", "PATCH /api/v2/posture_management/findings", {}),
    ("security-muting", "POST /api/v2/security/findings/automation/mute_rules", {}),
    ("security-muting", "PATCH /api/v2/security_monitoring/configuration/suppressions/abc", {}),
    (
        "security-muting",
        "PATCH /api/v2/security_monitoring/signals/AQAAA/state",
        {"data": {"attributes": {"state": "archived"}}},
    ),
    ("security-muting", "PATCH /api/v2/security_monitoring/signals/bulk/state", {}),
    *(
        ("mint-credentials", send, {})
        for send in (
            "POST /api/v1/api_key",
            "POST /api/v2/api_keys",
            "POST /api/v2/API_KEYS",
            "POST /api/v2/api%5Fkeys",
            "POST /api/v2/api_keys//",
            "POST /api/v1/application_key",
            "POST /api/v2/current_user/application_keys",
            "POST /api/v2/service_accounts",
            f"POST /api/v2/service_accounts/{UUID}/application_keys",
            f"POST /api/v2/service_accounts/{UUID}/access_tokens",
            "POST /api/v2/personal_access_tokens",
            "POST /api/v1/synthetics/private-locations",
            "POST /api/v1/org",
            "POST /api/v2/oauth2/register",
            "POST /api/v2/cloud_auth/aws/persona_mapping",
            "POST /api/v2/cloud_auth/github/persona_mapping",
        )
    ),
    ("widen-credentials", f"PATCH /api/v2/application_keys/{UUID}", {"data": {"attributes": {"scopes": None}}}),
    (
        "widen-credentials",
        f"PATCH /api/v2/current_user/application_keys/{UUID}",
        {"data": {"attributes": {"Scopes": []}}},
    ),
    (
        "widen-credentials",
        f"PATCH /api/v2/service_accounts/{UUID}/application_keys/{UUID}",
        {"data": {"attributes": {"scopes": ["x"]}}},
    ),
    ("read-credentials", "GET /api/v1/api_key", b""),
    ("read-credentials", "GET /api/v1/api_key/abc", b""),
    ("read-credentials", f"GET /api/v2/api_keys/{UUID}", b""),
    ("read-credentials", f"GET /api/v2/current_user/application_keys/{UUID}", b""),
    *(
        ("stored-secrets", send, {})
        for send in (
            "POST /api/v1/synthetics/variables",
            f"PUT /api/v1/synthetics/variables/{UUID}",
            f"PATCH /api/v2/synthetics/variables/{UUID}/jsonpatch",
            "POST /api/v2/integration/aws/accounts",
            "PUT /api/v1/integration/aws",
            "POST /api/v1/integration/webhooks/configuration/webhooks",
            "POST /api/v2/integration/webhooks/configuration/auth-method/oauth2-client-credentials",
            "POST /api/v2/integrations/cloudflare/accounts",
            "PATCH /api/v2/integrations/an-integration-of-tomorrow/accounts/1",
            "POST /api/v2/web-integrations/databricks/accounts",
            "POST /api/v2/integration-interfaces/snowflake/accounts",
            "POST /api/v2/actions/connections",
            "POST /api/v2/logs/config/archives",
            "POST /api/v2/logs/config/custom-destinations",
            "POST /api/v2/integration/opsgenie/services",
        )
    ),
    ("sharing", "POST /api/v1/dashboard/public", {}),
    ("sharing", "POST /api/v1/dashboard/public/abc/invitation", {}),
    ("sharing", "POST /api/v2/dashboard/abc-def-ghi/shared/secure-embed", {}),
    ("access", "POST /api/v2/users", {}),
    ("access", f"PATCH /api/v2/users/{UUID}", {}),
    ("access", f"POST /api/v2/roles/{UUID}/permissions", {}),
    ("access", "POST /api/v2/restriction_policy/monitor:1", {}),
    ("access", "POST /api/v2/saml_configurations/idp_metadata", b"--x\r\n"),
    ("access", "PATCH /api/v2/ip_allowlist", {}),
    ("access", f"POST /api/v2/logs/config/restriction_queries/{UUID}/roles", {}),
    ("deletions", "DELETE /api/v1/dashboard/abc-def-ghi", b""),
    ("deletions", "DELETE /api/v2/anything/of/tomorrow", b"null"),
    ("deletions", "POST /api/v1/synthetics/tests/delete", {"public_ids": ["abc"]}),
    ("deletions", "POST /api/v2/synthetics/tests/bulk-delete", {}),
    ("deletions", "POST /api/v1/slo/bulk_delete", {}),
    ("deletions", "POST /api/v2/deletion/data/logs", {}),
    ("deletions", f"POST /api/v2/llm-obs/v1/{UUID}/datasets/delete", {}),
    ("bulk-writes", "DELETE /api/v1/dashboard", {"data": [{"id": str(n), "type": "dashboard"} for n in range(11)]}),
    ("bulk-writes", "PATCH /api/v1/dashboard", {"Data": [{"id": str(n), "type": "dashboard"} for n in range(11)]}),
    ("bulk-writes", "POST /api/v1/synthetics/tests/delete", {"public_ids": [str(n) for n in range(11)]}),
    ("bulk-writes", "POST /api/v1/slo/bulk_delete", {str(n): ["7d"] for n in range(11)}),
    (
        "bulk-writes",
        "DELETE /api/v2/security_monitoring/rules/bulk_delete",
        {"data": {"attributes": {"ruleIds": [*map(str, range(11))]}}},
    ),
    (
        "bulk-writes",
        "PATCH /api/v2/security/findings/mute",
        {"data": {"attributes": {"findings": {"data": [{}] * 11}}}},
    ),
    ("bulk-writes", "DELETE /api/v2/app-builder/apps", b"[1,2,3,4,5,6,7,8,9,10,11]"),
    ("unbounded-writes", "POST /api/v1/downtime/cancel/by_scope", {"scope": "*"}),
    ("unbounded-writes", "DELETE /api/v2/metrics/config/bulk-tags", {}),
]

PASSED: list[tuple[str, str, Any]] = [
    ("widget-types", DASHBOARD, dashboard(SERIES, {"type": "note", "content": '<iframe src="https://x"></iframe>'})),
    ("widget-types", DASHBOARD, {"title": "iframe", "description": "type: iframe", "widgets": []}),
    ("widget-types", DASHBOARD, dashboard({"type": "image", "url": "https://example.com/iframe"})),
    ("widget-types", DASHBOARD, dashboard({**SERIES, "custom_links": [{"label": "iframe", "type": "iframe"}]})),
    ("widget-types", "POST /api/v1/dashboard/lists/manual", {"name": "iframe"}),
    ("widget-types", "GET /api/v1/dashboard", b""),
    ("widget-types", MONITOR, {"widgets": [{"definition": IFRAME}]}),
    ("widget-count", DASHBOARD, dashboard(*[SERIES] * 100)),
    ("payload-size", DASHBOARD, {**dashboard(SERIES), "description": "x" * (250 << 10)}),
    ("payload-size", "POST /api/v2/series", {"series": ["x" * (300 << 10)]}),
    *(
        ("empty-queries", DASHBOARD, body)
        for body in (
            dashboard(SERIES),
            dashboard({"type": "group", "layout_type": "ordered", "widgets": []}),
            dashboard({"type": "note", "content": ""}),
            dashboard({"type": "log_stream", "query": "", "indexes": []}),
            dashboard({"type": "event_stream", "query": "*"}),
            dashboard({"type": "timeseries", "requests": [{"log_query": {"index": "*", "search": {"query": ""}}}]}),
            dashboard(
                {"type": "timeseries", "requests": [{"queries": [{"data_source": "logs", "search": {"query": "*"}}]}]}
            ),
            dashboard(
                {"type": "list_stream", "requests": [{"query": {"data_source": "logs_stream", "query_string": ""}}]}
            ),
            dashboard(queries("avg:system.cpu.user{$env} by {host}")),
            dashboard(queries("system.cpu.user")),
            dashboard(queries("sum:my.todo{*}.as_count()")),
            dashboard(queries("avg:placeholder.metric{*}")),
        )
    ),
    ("empty-widgets", DASHBOARD, dashboard(SERIES, {"type": "note", "content": ""}, {"type": "group", "widgets": []})),
    *(
        ("empty-monitors", MONITOR, {"query": query})
        for query in (
            "avg(last_1h):avg:system.load.5{*} > 4",
            "243450659 || 243450660",
            '"ntp.in_sync".by("*").last(2).count_by_status()',
            'formula("query").last("5m") > 1',
            'logs("*").index("main").rollup("count").last("5m") > 2',
        )
    ),
    ("empty-monitors", ONE_MONITOR, {"name": "only the name changes"}),
    ("empty-monitors", "POST /api/v1/monitor/validate", {"query": "query"}),
    ("stale-time-frames", DASHBOARD, dashboard({**SERIES, "time": {}})),
    ("stale-time-frames", DASHBOARD, dashboard({**SERIES, "time": {"live_span": "1h"}})),
    ("stale-time-frames", DASHBOARD, dashboard({**SERIES, "time": {"type": "live", "unit": "minute", "value": 8}})),
    (
        "stale-time-frames",
        DASHBOARD,
        dashboard({**SERIES, "time": {"type": "fixed", "from": NOW_S - 7200, "to": NOW_S - 3600}}),
    ),
    ("stale-time-frames", DASHBOARD, dashboard({**SERIES, "time": {"from": 1, "to": (NOW_S - 3600) * 1000}})),
    (
        "stale-time-frames",
        "POST /api/v1/notebooks",
        {"data": {"attributes": {"time": {"start": "2021-02-24T11:18:28Z", "end": "2021-02-24T11:20:28Z"}}}},
    ),
    ("muting", "POST /api/v1/monitor/123/unmute", b""),
    ("muting", "POST /api/v1/host/web-1/unmute", b""),
    ("muting", "GET /api/v2/downtime", b""),
    ("muting", "DELETE /api/v1/downtime/12", b""),
    ("muting", "POST /api/v1/downtime/cancel/by_scope", {"scope": "host:a"}),
    ("muting-by-edit", ONE_MONITOR, {"options": {"silenced": {}}, "draft_status": "published"}),
    ("muting-by-edit", ONE_MONITOR, {"options": {"silenced": None}, "message": "silenced"}),
    ("muting-by-edit", MONITOR, {"query": "avg(last_5m):avg:a{*} > 1", "draft_status": "draft"}),
    ("muting-by-edit", "POST /api/v1/synthetics/tests/api", {"status": "paused"}),
    ("muting-by-edit", "PUT /api/v1/synthetics/tests/abc/status", {"new_status": "live"}),
    ("security-muting", "POST /api/v2/security_monitoring/configuration/suppressions/validation", {}),
    ("security-muting", "PATCH /api/v2/security_monitoring/signals/AQAAA/assignee", {}),
    ("mint-credentials", "GET /api/v2/api_keys", b""),
    ("mint-credentials", f"PATCH /api/v2/api_keys/{UUID}", {}),
    ("mint-credentials", "POST /api/v2/users", {}),
    ("mint-credentials", "POST /api/v2/rum/applications", {}),
    ("widen-credentials", f"PATCH /api/v2/application_keys/{UUID}", {"data": {"attributes": {"name": "scopes"}}}),
    ("read-credentials", "GET /api/v2/api_keys", b""),
    ("read-credentials", "GET /api/v2/application_keys", b""),
    ("read-credentials", "GET /api/v1/validate", b""),
    ("stored-secrets", "GET /api/v1/synthetics/variables", b""),
    ("stored-secrets", "POST /api/v1/integration/slack/configuration/accounts/a/channels", {}),
    ("sharing", "GET /api/v1/dashboard/public/abc", b""),
    ("sharing", "DELETE /api/v1/dashboard/public/abc", b""),
    ("access", "GET /api/v2/users", b""),
    ("access", "POST /api/v2/team", {}),
    ("deletions", "POST /api/v1/synthetics/tests/trigger", {}),
    ("deletions", "PUT /api/v2/deletion/requests/1/cancel", b""),
    ("bulk-writes", "DELETE /api/v1/dashboard", {"data": [{"id": str(n), "type": "dashboard"} for n in range(10)]}),
    ("bulk-writes", "DELETE /api/v1/dashboard/abc", b""),
    ("bulk-writes", "POST /api/v1/dashboard", dashboard(*[SERIES] * 50)),
    ("unbounded-writes", "POST /api/v2/metrics/a.b/tags", {}),
]


@pytest.mark.parametrize(("rule", "send", "body"), CAUGHT)
def test_it_is_caught(rule: str, send: str, body: Any) -> None:
    assert rule in matched("datadog", send, body)


@pytest.mark.parametrize(("rule", "send", "body"), PASSED)
def test_its_neighbour_passes(rule: str, send: str, body: Any) -> None:
    assert rule not in matched("datadog", send, body)


def test_every_rule_has_both() -> None:
    rules = {rule.name for rule in pack("datadog").rules}
    assert {rule for rule, _, _ in CAUGHT} == rules - {"mass-writes"}
    assert {rule for rule, _, _ in PASSED} == rules - {"mass-writes"}


@pytest.mark.parametrize(
    ("session", "caught"),
    [
        ({"window.writes": 100, "window.targets": 50, "writes": 5000}, False),
        ({"window.writes": 101}, True),
        ({"window.targets": 51}, True),
    ],
)
@pytest.mark.parametrize("send", ["POST /api/v1/monitor", "DELETE /api/v1/monitor/1", "PATCH /any/thing"])
def test_mass_writes(send: str, session: dict[str, int], caught: bool) -> None:
    assert ("mass-writes" in matched("datadog", send, {}, session=session)) is caught


def test_reads_are_no_mass_writes() -> None:
    assert matched("datadog", "GET /api/v1/monitor", session={"window.writes": 101}) == set()


def test_other_widgets_may_be_forbidden() -> None:
    strict = guard("{pack: datadog, connection: datadog, settings: {forbidden_widgets: [Image, run_workflow]}}")
    for kind, decision in (("image", "deny"), ("run_workflow", "deny"), ("iframe", "allow")):
        assert strict.ask(DASHBOARD, dashboard({"type": kind}), connection="datadog").decision == decision


def test_a_rule_may_be_fooled_by_no_body_it_cannot_read() -> None:
    found = guard("{pack: datadog, connection: datadog}").ask(DASHBOARD, b"\x00{", connection="datadog")
    assert (found.decision, found.reason) == ("deny", "policy.uninspectable")


def test_names_are_those_of_datadogs_own_documents() -> None:
    """Against the official client, which is made of them."""
    import re
    from pathlib import Path

    import datadog_api_client

    known: dict[tuple[str, str], str] = {}
    endpoint = re.compile(r'"endpoint_path": "([^"]+)",\s*"operation_id": "([^"]+)",\s*"http_method": "([A-Z]+)"')
    for module in Path(str(datadog_api_client.__file__)).parent.glob("v*/api/*_api.py"):
        for path, name, method in endpoint.findall(module.read_text(encoding="utf-8")):
            known[method, re.sub(r"\{[^}]*\}", "{}", path)] = name.replace("_", "").lower()
    wrong = [
        (name, request, documented)
        for group in pack("datadog").operations.values()
        for name, requests in group.items()
        for request in requests
        if (documented := known.get((request.split()[0], re.sub(r"\{[^}]*\}", "{}", request.split()[1])), ""))
        != ("" if "." in name else name.lower())
        and (documented or "." in name)
    ]
    assert wrong == []
