from __future__ import annotations

from ext_proc.hub.store.vocabulary import Function, Vocabulary

VOCABULARY = Vocabulary(
    [
        Function("count", "Aggregate Functions", True, True, ""),
        Function("groupArray", "Aggregate Functions", True, False, ""),
        Function("substring", "String", False, True, ""),
        Function("mid", "", False, True, "substring"),
        Function("file", "Other", False, False, ""),
        Function("sneaky", "", False, False, "file"),
        Function("version", "Other", False, True, ""),
        Function("dictGet", "Dictionary", False, False, ""),
        Function("brandNew", "A new category", False, False, ""),
        Function("mine", "", False, False, ""),
    ],
    ["OrNull", "Array", "State", "If"],
    ["Array", "String"],
)


def test_pure_functions_in_their_own_case() -> None:
    assert all(map(VOCABULARY.function, ("count", "CoUnT", "groupArray", "SUBSTRING", "mid", "VERSION", "lambda")))
    assert not VOCABULARY.function("GROUPARRAY")


def test_combinators() -> None:
    assert all(map(VOCABULARY.function, ("countIf", "groupArrayIf", "countArrayIf", "countOrNull", "countStateIf")))
    assert not any(map(VOCABULARY.function, ("fileIf", "substringIf", "If", "countif", "")))


def test_the_rest_is_refused() -> None:
    assert not any(map(VOCABULARY.function, ("file", "sneaky", "dictGet", "brandNew", "mine", "unknown")))


def test_types() -> None:
    assert VOCABULARY.type("array")
    assert not VOCABULARY.type("file")
