"""The command's root: what `douane --help` shows, and what becomes of a fault."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from ext_proc.cli import approvals, envoy, job, login, mask, policy, read, search, serve, setup, show, version
from ext_proc.cli.output import report
from ext_proc.errors import DouaneError

READ = "Read the ledger"
DECIDE = "Decide"
RUN = "Run"
SET_UP = "Set up"
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class Commands(TyperGroup):
    """Turns a fault into `error: ...` on standard error and exit code 1. Wrong usage stays 2."""

    def invoke(self, ctx: Any) -> Any:
        if os.environ.get("NO_COLOR"):  # no-color.org; Rich heeds it by itself
            ctx.color = False
        try:
            return super().invoke(ctx)
        except DouaneError as error:
            report(error)
            raise typer.Exit(1) from None
        except BrokenPipeError:
            # The reader (head, less) has had enough; leave nothing for the interpreter to flush into it.
            sys.stdout = open("/dev/null", "w")  # noqa: PTH123, SIM115 (lives until the process ends)
            raise typer.Exit(0) from None
        except OSError as error:
            if error.errno not in _UNWRITABLE:
                raise
            sys.stdout = open("/dev/null", "w")  # noqa: PTH123, SIM115 (as above)
            why = (error.strerror or str(error)).lower()
            report(DouaneError("output.unwritable", f"the output cannot be written: {why}"))
            raise typer.Exit(1) from None


app = typer.Typer(
    name="douane",
    cls=Commands,
    help=(
        "The border post for AI agents and CI jobs: papers checked, credentials attached, every exchange in the "
        "ledger.\n\n"
        "Start with `douane init`, `douane check` and `douane up`; then `douane sessions` shows who did what."
    ),
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
setup.register(app, SET_UP)
serve.register(app, RUN)
job.register(app, RUN)
approvals.register(app, DECIDE)
login.register(app, DECIDE)
read.register(app, READ)
search.register(app, READ)
show.register(app, READ)
envoy.register(app, SET_UP)
mask.register(app, SET_UP)
policy.register(app, SET_UP)
version.register(app, SET_UP)


def main() -> None:
    """The entry point of `douane`."""
    app()
