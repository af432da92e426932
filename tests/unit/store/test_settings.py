from __future__ import annotations

import pytest

from ext_proc.hub.store.access import User
from ext_proc.hub.store.faults import QueryError
from ext_proc.hub.store.settings import Limits, assignments, insert_setting_allowed, session_settings

LIMITS = Limits(memory=1000, result_bytes=500, seconds=60, threads=2)


def test_limits_hold_and_can_be_lowered() -> None:
    settings = session_settings(
        "auditor", LIMITS, {"max_execution_time": "5", "output_format_json_quote_denormals": "1"}
    )
    assert settings["max_execution_time"] == "5"
    assert settings["max_memory_usage"] == "1000"
    assert settings["output_format_json_quote_denormals"] == "1"
    assert settings["input_format_values_interpret_expressions"] == "0"


@pytest.mark.parametrize(
    ("user", "name", "value", "code"),
    [
        ("auditor", "max_execution_time", "61", 452),
        ("auditor", "max_execution_time", "0", 452),
        ("auditor", "max_execution_time", "-1", 452),
        ("auditor", "max_execution_time", "nan", 452),
        ("auditor", "max_execution_time", "inf", 452),
        ("auditor", "max_execution_time", "x", 36),
        ("auditor", "max_memory_usage", "1", 164),
        ("auditor", "insert_deduplication_token", "x", 164),
        ("auditor", "format_schema", "x", 164),
        ("auditor", "a b", "x", 36),
        ("writer", "format_schema", "x", 452),
        ("writer", "input_format_values_interpret_expressions", "1", 452),
        ("writer", "additional_table_filters", "{}", 452),
        ("writer", "a = 1, b", "x", 36),
    ],
)
def test_what_may_not_be_chosen(user: User, name: str, value: str, code: int) -> None:
    with pytest.raises(QueryError) as raised:
        session_settings(user, LIMITS, {name: value})
    assert raised.value.code == code


def test_tolerated_settings_change_nothing() -> None:
    plain = session_settings("auditor", LIMITS, {})
    asked = {"readonly": "0", "session_id": "x", "wait_end_of_query": "1", "async_insert": "1", "log_queries": "1"}
    assert session_settings("auditor", LIMITS, asked) == plain


def test_insert_settings() -> None:
    assert insert_setting_allowed("insert_deduplication_token")
    assert insert_setting_allowed("input_format_null_as_default")
    assert not insert_setting_allowed("input_format_values_interpret_expressions")
    assert not insert_setting_allowed("format_schema")


def test_values_are_quoted() -> None:
    assert assignments({"a": "it's \\ x"}) == "SET a = 'it\\'s \\\\ x'"
