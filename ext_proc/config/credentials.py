"""The shape of credentials in douane.yaml: where a value comes from, and where in a request it goes."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, StringConstraints, Tag, model_validator

from ext_proc.config.base import Model
from ext_proc.config.scalars import ENV_PATTERN, Duration, HeaderName, Name, PathText, absolute_command


class SourceEnv(Model):
    env: Annotated[str, StringConstraints(pattern=ENV_PATTERN)]
    """The environment variable of the gate that holds the value."""


class SourceFile(Model):
    file: PathText
    """A file that holds the value; a final line break is dropped; re-read when it changes."""


class SourceExec(Model):
    exec: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(absolute_command)]
    """A command that prints the value."""
    lifetime: Duration = timedelta(minutes=5)
    """How long a printed value is used."""
    timeout: Duration = timedelta(seconds=10)
    """How long the command may take."""


def _source(value: Any) -> str | None:
    """Which form a source is written in, so that only its own faults are reported."""
    if isinstance(value, SourceEnv | SourceFile | SourceExec):
        return "source-" + type(value).__name__.removeprefix("Source").lower()
    named = [key for key in ("env", "file", "exec") if isinstance(value, dict) and key in value]
    return f"source-{named[0]}" if len(named) == 1 else None


CredentialSource = Annotated[
    Annotated[SourceEnv, Tag("source-env")]
    | Annotated[SourceFile, Tag("source-file")]
    | Annotated[SourceExec, Tag("source-exec")],
    Discriminator(
        _source,
        custom_error_type="source_form",
        custom_error_message="name one source; write `env: NAME`, `file: PATH` or `exec: [PROGRAM, ...]`",
    ),
]


class Credential(Model):
    name: Name | None = None
    """What the ledger calls it; by default the place it goes to."""
    header: HeaderName | None = None
    """Put the value in this header."""
    query: Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = None
    """Put the value in this query parameter."""
    bearer: bool = False
    """Put `Bearer VALUE` in `authorization`."""
    basic: str | None = None
    """Put `Basic` of this user name and the value in `authorization`."""
    source: Annotated[CredentialSource, Field(alias="from")]
    """Where the value comes from: `env`, `file` or `exec`."""

    @model_validator(mode="after")
    def _one_place(self) -> Credential:
        places = [self.header is not None, self.query is not None, self.bearer, self.basic is not None]
        if sum(places) != 1:
            raise ValueError("name exactly one place for the credential: header, query, bearer or basic")
        return self

    @property
    def place(self) -> str:
        """`header:NAME` or `query:NAME`: where the value goes, and what is removed there first."""
        if self.query is not None:
            return f"query:{self.query}"
        return f"header:{self.header or 'authorization'}"

    @property
    def label(self) -> str:
        return self.name or self.place.partition(":")[2]
