"""`douane mask`: what the masking of this configuration would do to a text, a HAR file, or rows of texts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from ext_proc.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, load_config
from ext_proc.cli.output import console, print_json, visible
from ext_proc.errors import DouaneError

if TYPE_CHECKING:
    from ext_proc.masking import ExchangeMasker


def register(app: typer.Typer, panel: str) -> None:
    @app.command(rich_help_panel=panel)
    def mask(
        file: Annotated[
            Path | None, typer.Argument(help="The text to mask; standard input by default.", show_default=False)
        ] = None,
        jsonl: Annotated[
            bool, typer.Option("--jsonl", help="Read JSON rows with `text`, print them with the `spans` in it.")
        ] = False,
        config: ConfigFile = DEFAULT_CONFIG,
        as_json: AsJson = False,
    ) -> None:
        """Mask a text as the ledger would, without recording anything.

        The detectors are those of the configuration, or the default ones where there is no douane.yaml. Credentials
        and tokens of real exchanges are unknown here; fingerprints are made with a key of this run, so they differ
        from the ledger's.

        A text or JSON is printed masked; of a HAR file, what would be masked in which entry and place. `--json` prints
        a row for each mask instead. `--jsonl` is for measuring: every row with a `text` comes back with `spans`, a list
        of `[start, end, detector]` in characters of it.

        ```console
        douane mask deploy.log
        kubectl logs job/agent | douane mask --json
        douane mask recorded.har
        douane mask --jsonl < rows.jsonl
        ```
        """
        masker = _masker(config)
        with _opened(file) as source:
            if jsonl:
                for row in _rows(source, file):
                    _print_ascii(_with_spans(row, masker))
                return
            text = source.read().decode("utf-8", "replace")
        from ext_proc.cli import mask_har

        entries = mask_har.entries(text)
        if entries is not None:
            mask_har.show(entries, masker, as_json=as_json)
        else:
            _show(text, masker, as_json=as_json)


def _masker(config: Path) -> ExchangeMasker:
    import secrets

    from ext_proc.config import Masking, Recording
    from ext_proc.masking import Masker

    masking, recording = Masking(), Recording()
    if config != DEFAULT_CONFIG or config.exists():
        loaded = load_config(config).config
        masking, recording = loaded.masking, loaded.recording
    return Masker(masking, secrets.token_bytes(32), recording.max_decoded).exchange()


@contextmanager
def _opened(file: Path | None) -> Iterator[IO[bytes]]:
    if file is None:
        yield sys.stdin.buffer
        return
    try:
        with file.open("rb") as source:
            yield source
    except OSError as error:
        raise DouaneError("mask.unreadable", f"{file}: {(error.strerror or str(error)).lower()}") from None


def _rows(source: IO[bytes], file: Path | None) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(source, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            why = "it is nested too deeply" if isinstance(error, RecursionError) else f"it is no JSON: {error}"
            raise _bad_row(file, number, why) from None
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise _bad_row(file, number, "it is no object with a `text`")
        yield row


def _bad_row(file: Path | None, number: int, why: str) -> DouaneError:
    return DouaneError(
        "mask.row",
        f"{file or 'standard input'}: line {number}: {why}",
        remedy='With --jsonl each line is one JSON object, such as {"text": "password=hunter2"}.',
    )


def _with_spans(row: dict[str, Any], masker: ExchangeMasker) -> dict[str, Any]:
    _, spans = masker.whole_text(row["text"])
    return row | {"spans": [list(span) for span in spans]}


def _print_ascii(row: dict[str, Any]) -> None:
    """One object on one line in ASCII, since a `text` may hold half of a surrogate pair, which UTF-8 cannot spell."""
    typer.echo(json.dumps(row))


def _show(text: str, masker: ExchangeMasker, *, as_json: bool) -> None:
    masked, spans = masker.whole_text(text)
    if as_json:
        for start, end, detector in spans:
            print_json({"start": start, "end": end, "line": text.count("\n", 0, start) + 1, "detector": detector})
    elif sys.stdout.isatty():
        show_marks(masked)
    else:
        typer.echo(masked, nl=False)


def show_marks(masked: str, *, end: str = "") -> None:
    """A masked text, its masks in colour where that is possible."""
    from rich.text import Text

    shown = Text(visible(masked, keep="\n\t"))
    shown.highlight_regex(r"\[MASKED:[^\]]*\]", "bold red")
    console().print(shown, soft_wrap=True, end=end)
