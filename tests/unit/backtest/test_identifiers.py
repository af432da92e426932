"""Identifiers by their form."""

from __future__ import annotations

import pytest

from ext_proc.backtest.identifiers import is_identifier, shape


@pytest.mark.parametrize(
    "segment",
    [
        *("0", "-1", "12345", "1.0", "2024-01-31", "1652349037"),
        *("9b1d2a10-4e5f-4a6b-8c7d-9e0f1a2b3c4d", "00000000-0000-0000-0000-00000000000"),
        *("24892d3875ee57e7a9e1320ebffa3916", "da39a3ee", "08a3dbc57bb781a5"),
        *("29d-cad-9rf", "2r3-a4g-ubz", "9c8-abc-def-0aa"),
        *("-qkKiJPYTne-113i8XJ_Nw", "AQAAAYDiB_Ol8PbzFAAAAABBWURpQl9PbEFBQU0yeXhGTG9ZV2JnQUE", "fasjyydbcgwwc2uc"),
        *("01ARZ3NDEKTSV4RRFFQ69G5FAV", "monitor:269565570", "security-rule:vcx-48m-psc"),
        *("test%40datadoghq.com", "%22foo.bar%22", "someone@example.com", "[MASKED:aws-key:0123456789ab]"),
        *("Test-Create_a_webhook_returns_OK-1652349037", "Users('7')"),
    ],
)  # fmt: skip
def test_identifiers(segment: str) -> None:
    assert is_identifier(segment)


@pytest.mark.parametrize(
    "segment",
    [
        *("", "api", "v1", "v1beta1", "v2alpha", "oauth2", "dashboard", "logs-queries", "custom_attributes"),
        *(".well-known", "swagger.json", "index.html", "by_scope", "k8s", "s3", "feed", "decade", "facade"),
        *("integration-id", "tag-indexing-rules", "system.cpu.idle", "service:default", "pagerduty", "REPLACE.ME"),
    ],
)  # fmt: skip
def test_words(segment: str) -> None:
    assert not is_identifier(segment)


def test_a_hostile_segment_takes_no_time() -> None:
    for segment in ("a" * 60_000, "a-" * 30_000, "0-" * 30_000, "a0" * 30_000, ":" * 60_000, "x" * 30_000 + "!"):
        is_identifier(segment)


def test_shape() -> None:
    assert shape("2r3-a4g-ubz") == shape("mfz-hni-gvr") == "xxx-xxx-xxx"
