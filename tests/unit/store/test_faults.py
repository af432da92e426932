from __future__ import annotations

import pytest

from ext_proc.hub.store.faults import QueryError


@pytest.mark.parametrize(
    ("raised", "code", "name", "message"),
    [
        ("Code: 60. DB::Exception: No table a.b. (UNKNOWN_TABLE)", 60, "UNKNOWN_TABLE", "No table a.b"),
        (
            "Code: 164. DB::Exception: Code: 164. DB::Exception: No. (READONLY) (version 26.9.2.1). (READONLY)",
            164, "READONLY", "No",
        ),
        (
            "Code: 62. DB::Exception: Wrong: x: In scope SELECT formatQuerySingleLine('x (Y)'). (SYNTAX_ERROR)",
            62, "SYNTAX_ERROR", "Wrong: x",
        ),
        ("Code: 27. DB::Exception: Cannot parse\n: While. (CANNOT_PARSE_INPUT_ASSERTION_FAILED) (version 26.9.2.1)", 27,
         "CANNOT_PARSE_INPUT_ASSERTION_FAILED", "Cannot parse\n: While"),
        ("something else.", 1001, "STD_EXCEPTION", "something else"),
    ],
)  # fmt: skip
def test_from_engine(raised: str, code: int, name: str, message: str) -> None:
    error = QueryError.from_engine(RuntimeError(raised))
    assert (error.code, error.name) == (code, name)
    assert error.message == message
    assert error.text("1.2").endswith(f"({name}) (version 1.2)\n")


@pytest.mark.parametrize(
    ("code", "status"), [(516, 403), (497, 403), (62, 400), (60, 404), (159, 408), (48, 501), (1, 500)]
)
def test_status(code: int, status: int) -> None:
    assert QueryError(code, "X", "x").http_status == status
