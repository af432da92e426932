"""`douane mask`: what the masking of this configuration would do to a text."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ext_proc.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, load_config
from ext_proc.cli.output import print_json


def register(app: typer.Typer, panel: str) -> None:
    @app.command(rich_help_panel=panel)
    def mask(
        file: Annotated[
            Path | None, typer.Argument(help="The text to mask; standard input by default.", show_default=False)
        ] = None,
        config: ConfigFile = DEFAULT_CONFIG,
        as_json: AsJson = False,
    ) -> None:
        """Mask a text as the ledger would, without recording anything.

        The detectors are those of the configuration, or the default ones where there is no douane.yaml. Credentials
        and tokens of real exchanges are unknown here; fingerprints are made with a key of this run, so they differ
        from the ledger's.

        ```console
        douane mask deploy.log
        kubectl logs job/agent | douane mask --json
        ```
        """
        import secrets

        from ext_proc.config import Masking, Recording
        from ext_proc.errors import DouaneError
        from ext_proc.masking import Masker, mask_text

        masking, recording = Masking(), Recording()
        if config != DEFAULT_CONFIG or config.exists():
            loaded = load_config(config).config
            masking, recording = loaded.masking, loaded.recording
        try:
            text = file.read_text(encoding="utf-8", errors="replace") if file else sys.stdin.read()
        except OSError as error:
            raise DouaneError("mask.unreadable", f"{file}: {(error.strerror or str(error)).lower()}") from None
        masked, spans = mask_text(text, Masker(masking, secrets.token_bytes(32), recording.max_decoded))
        if not as_json:
            typer.echo(masked, nl=False)
            return
        for start, end, detector in spans:
            line = text.count("\n", 0, start) + 1
            print_json({"start": start, "end": end, "line": line, "detector": detector})
