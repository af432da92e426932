"""Logging: JSON lines where a machine reads, short lines where a person does, and never a credential's value.

Modules log through the standard library: `logging.getLogger("douane.part")`, details as `extra={"slot": 1}`. Two
rules keep secrets out whatever a caller passes: bytes are never rendered, and every value given to `hide` is
replaced wherever it occurs, tracebacks included.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

HIDDEN = "[hidden]"
_MIN_HIDDEN = 6  # shorter values occur in innocent text
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}

_hidden: set[str] = set()


def hide(values: Iterable[str | bytes]) -> None:
    """Replace these values in everything that is logged from now on. Values under 6 characters are left alone."""
    for value in values:
        text = value.decode(errors="replace") if isinstance(value, bytes) else value
        if len(text) >= _MIN_HIDDEN:
            _hidden.add(text)


def scrub(text: str) -> str:
    """The text without the values given to `hide`."""
    for value in _hidden:
        if value in text:
            text = text.replace(value, HIDDEN)
    return text


def to_file(path: Path) -> logging.Handler:
    """Append JSON lines to `path`, made private to this user."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(JsonLines())
    return handler


def to_terminal(stream: TextIO | None = None) -> logging.Handler:
    """Short lines for a person, on standard error."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Plain())
    return handler


def configure(*handlers: logging.Handler, level: int = logging.INFO) -> None:
    """Send every `douane` log record, and warnings of libraries, to these handlers and nowhere else."""
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("douane").setLevel(level)


class JsonLines(logging.Formatter):
    """`{"ts", "level", "logger", "message", ...extra}`, one object a line; `ts` is RFC 3339 in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **details(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return scrub(json.dumps(line, ensure_ascii=False, default=_render))


class Plain(logging.Formatter):
    """`12:00:01 warning message key=value`."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        more = "".join(f" {key}={_render(value)}" for key, value in details(record).items())
        text = f"{when} {level}{record.getMessage()}{more}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return scrub(text)


def details(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller gave as `extra`."""
    return {
        key: value if isinstance(value, str | int | float | bool | None) else _render(value)
        for key, value in vars(record).items()
        if key not in _STANDARD
    }


def _render(value: object) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    return str(value)
