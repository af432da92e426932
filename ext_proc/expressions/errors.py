"""What can go wrong with an expression: when it is read (with its place), and when it is evaluated."""

from __future__ import annotations


class ExpressionError(ValueError):
    """The source cannot be used. `at` is the offset in characters where; the message holds none of the data."""

    def __init__(self, message: str, at: int, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.at = at
        self.remedy = remedy


class NotCelError(ExpressionError):
    """The text is not an expression of the language at all."""

    def __init__(self, message: str, at: int, remedy: str = "") -> None:
        super().__init__(f"is not CEL: {message}", at, remedy)


class EvaluationError(Exception):
    """There is no value for these facts: a missing member, an overflow, operands of the wrong type.

    `&&`, `||`, `all` and `exists` absorb it where the other side decides. The message names types and members of the
    expression, never a value.
    """


class FactUnknown(EvaluationError):  # noqa: N818 (a value that is not there yet is no error of the rule's)
    """A fact was asked for that is not known: at load, where none is, or of a record that does not have it."""


class BudgetExceeded(Exception):  # noqa: N818 (the established name)
    """The evaluation took more steps than it may. Nothing absorbs it."""


class FactUnreadable(Exception):  # noqa: N818 (says what the fact is)
    """A fact exists and cannot be read: a body that is not JSON, say. Nothing absorbs it, so that `||` cannot hide it.

    The message says why, in words for the caller.
    """
