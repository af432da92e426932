"""ClickHouse settings that a request may bring, and what each user runs under."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ext_proc.hub.store.access import User
from ext_proc.hub.store.faults import QueryError, bad

_NAME = re.compile(r"[a-z][a-z0-9_]*")

# Accepted and ignored: they steer a server's HTTP handler or caches that the store does not have.
TOLERATED = frozenset({
    "async_insert", "buffer_size", "cancel_http_readonly_queries_on_client_close", "client_protocol_version",
    "compress", "decompress", "default_format", "enable_http_compression", "http_headers_progress_interval_ms",
    "http_zlib_compression_level", "log_queries", "quota_key", "readonly", "role", "send_progress_in_http_headers",
    "session_check", "session_id", "session_timeout", "stacktrace", "wait_end_of_query", "wait_for_async_insert",
    "http_write_exception_in_output_format",
})  # fmt: skip

# Only how text is written or read; none of them opens a file (format_schema, format_template_* would).
_FORMAT = re.compile(
    r"output_format_\w+|format_csv_\w+|format_custom_\w+|format_tsv_null_representation|date_time_output_format"
    r"|bool_\w+_representation|session_timezone"
)
_INPUT = re.compile(r"input_format_\w+|date_time_input_format|cast_string_to_dynamic_use_inference")
_INSERT = frozenset(
    {"insert_deduplicate", "insert_deduplication_token", "deduplicate_blocks_in_dependent_materialized_views"}
)
# An expression in VALUES would be evaluated, file() included, without the guard having seen it.
_EXPRESSIONS = frozenset({
    "input_format_values_deduce_templates_of_expressions", "input_format_values_interpret_expressions",
})  # fmt: skip
_WRITER = frozenset({
    "max_threads", "max_insert_threads", "max_block_size", "max_memory_usage", "max_execution_time",
    "max_result_rows", "max_result_bytes", "max_rows_to_read", "mutations_sync", "alter_sync", "use_skip_indexes",
    "optimize_read_in_order",
})  # fmt: skip
# The auditor may lower these, never raise them.
_LOWERED = frozenset({"max_execution_time", "max_result_rows", "max_result_bytes", "max_threads", "max_rows_to_read"})


@dataclass(frozen=True, slots=True)
class Limits:
    """What one query may use: bytes, seconds, threads."""

    memory: int
    result_bytes: int
    seconds: int
    threads: int

    def settings(self) -> dict[str, str]:
        return {
            "max_memory_usage": str(self.memory),
            "max_bytes_before_external_group_by": str(self.memory // 2),
            "max_bytes_before_external_sort": str(self.memory // 2),
            "max_result_bytes": str(self.result_bytes),
            "max_execution_time": str(self.seconds),
            "max_threads": str(self.threads),
            # A block of the answer is rendered in memory; constants make it wide at no cost to the query's own limit.
            "max_block_size": "16384",
        }


def insert_setting_allowed(name: str) -> bool:
    """Whether INSERT may name it in its SETTINGS clause."""
    return name not in _EXPRESSIONS and (name in _INSERT or name in TOLERATED or bool(_INPUT.fullmatch(name)))


def session_settings(user: User, limits: Limits, asked: Mapping[str, str]) -> dict[str, str]:
    """What to SET before the statement. QueryError READONLY for a setting that `user` may not choose."""
    chosen = limits.settings()
    for name, value in asked.items():
        if name in TOLERATED:
            continue
        if name not in _EXPRESSIONS and (_FORMAT.fullmatch(name) or (user == "writer" and _of_writer(name))):
            chosen[name] = value
        elif name in _LOWERED:
            chosen[name] = _lowered(name, value, chosen.get(name))
        elif not _NAME.fullmatch(name):
            raise bad(f"{name!r} is not the name of a setting")
        elif user == "auditor":
            raise QueryError(164, "READONLY", f"Cannot modify '{name}' setting in readonly mode")
        else:
            raise QueryError(452, "SETTING_CONSTRAINT_VIOLATION", f"Setting {name} should not be changed")
    for name in _EXPRESSIONS:
        chosen[name] = "0"
    chosen["async_insert"] = "0"
    return chosen


def assignments(settings: Mapping[str, str]) -> str:
    """`SET a = 'x', b = '1'`."""
    return "SET " + ", ".join(f"{name} = {quoted(value)}" for name, value in settings.items())


def quoted(value: str) -> str:
    """A string literal."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _of_writer(name: str) -> bool:
    return name in _INSERT or name in _WRITER or _INPUT.fullmatch(name) is not None


def _lowered(name: str, value: str, limit: str | None) -> str:
    try:
        number = float(value)
    except ValueError:
        raise bad(f"{name} must be a number, not {value!r}") from None
    if limit is not None and not 0 < number <= float(limit):
        raise QueryError(452, "SETTING_CONSTRAINT_VIOLATION", f"Setting {name} shouldn't be greater than {limit}")
    return value
