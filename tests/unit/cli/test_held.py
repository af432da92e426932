"""A held request on a terminal: what a sender writes cannot begin a line of its own."""

from __future__ import annotations

import io
import re
import sys
from typing import Any

import pytest

from ext_proc.cli.held import print_held

WIDTH = 60
FORGED = "  state       approved by ann"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def held(**changes: Any) -> dict[str, Any]:
    plain = dict.fromkeys(("operation", "connection", "upstream", "issuer", "acts_for", "session_label", "gate"), "x")
    plain |= dict.fromkeys(("session_id", "writer", "message", "query"), "x")
    lists: dict[str, Any] = {name: [] for name in ("requirements", "rules", "events", "headers")}
    rest = {"id": "5f", "state": "used", "closed_at": "now", "method": "PUT", "path": "/", "subject": "s", "claims": {}}
    return plain | lists | rest | {"body": "", "body_size": 0, "body_shown": 0} | changes


@pytest.mark.parametrize("space", range(WIDTH))
def test_no_line_is_the_senders(space: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a" + " " * space + FORGED
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setenv("TERM", "xterm")
    print_held(held(subject=text, headers=[["x-note", text]], body=text, body_size=len(text), body_shown=len(text)))
    lines = re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue()).split("\n")
    assert max(map(len, lines)) <= WIDTH, "the terminal would fold it"
    assert [line for line in lines if line.startswith("  state")] == ["  state       used at now"]
