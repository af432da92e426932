from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING

import pytest

from ext_proc import telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, ours = list(root.handlers), root.level, logging.getLogger("douane").level
    root.handlers = []
    yield
    telemetry.configure()
    root.handlers = handlers
    root.setLevel(level)
    logging.getLogger("douane").setLevel(ours)
    telemetry._hidden.clear()


def test_a_file_gets_json_lines_and_is_private(tmp_path: Path) -> None:
    telemetry.configure(telemetry.to_file(tmp_path / "logs/a.log"))
    logging.getLogger("douane.test").info("worker %d is ready", 3, extra={"slot": 3, "body": b"1234"})
    line = json.loads((tmp_path / "logs/a.log").read_text())
    assert line["message"] == "worker 3 is ready"
    assert (line["level"], line["slot"], line["body"]) == ("info", 3, "<4 bytes>")
    assert line["ts"].endswith("+00:00")
    assert (tmp_path / "logs/a.log").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("formatter", [telemetry.JsonLines(), telemetry.Plain()])
def test_hidden_values_are_in_no_line_wherever_they_come_from(formatter: logging.Formatter) -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter)
    telemetry.configure(handler)
    telemetry.hide(["the-real-key", b"another-real-key", "", "short"])
    logger = logging.getLogger("douane.test")
    logger.info("with the-real-key inside", extra={"detail": ["another-real-key"]})
    try:
        raise ValueError("the-real-key")
    except ValueError:
        logger.exception("short is too short to hide")
    text = out.getvalue()
    assert "real-key" not in text
    assert text.count(telemetry.HIDDEN) >= 3
    assert "short is too short" in text


def test_libraries_are_heard_from_warnings_on_only() -> None:
    out = io.StringIO()
    telemetry.configure(telemetry.to_terminal(out))
    logging.getLogger("urllib3").info("chatter")
    logging.getLogger("urllib3").warning("trouble")
    logging.getLogger("douane.x").info("ours")
    assert [line.split(" ", 1)[1] for line in out.getvalue().splitlines()] == ["warning: trouble", "ours"]
