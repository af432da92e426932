"""Stage 4: the real credential. What the caller sent in its place is removed; the injected name occurs once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import quote, unquote_plus

from ext_proc.credentials import Credentials, Injection
from ext_proc.exchange import Exchange

_PHP = str.maketrans(". ", "__")


@dataclass(frozen=True, slots=True)
class Injected:
    """How the request's head changes on its way out. `path` is the whole `:path`, or None where it stays."""

    remove: tuple[str, ...]
    put: tuple[tuple[str, bytes], ...] = field(repr=False)
    path: str | None = field(repr=False)
    labels: tuple[str, ...]

    def taken(self, names: Iterable[str]) -> tuple[str, ...]:
        """Of these fields, those that servers may read as one of the removed: behind CGI, dd_api_key is dd-api-key."""
        return tuple(name for name in names if name.replace("_", "-") in self.remove)


class CredentialStage:
    """Fetches a connection's credentials and says where they go."""

    def __init__(self, credentials: Credentials, identity_headers: Sequence[str]) -> None:
        self._credentials = credentials
        self._identity_headers = tuple(identity_headers)
        self._made: tuple[tuple[Injection, ...], Injected] | None = None

    async def run(self, exchange: Exchange) -> Injected:
        injections = await self._credentials.resolve()
        if self._made is None or self._made[0] is not injections:
            self._made = (injections, self._headers(injections))
        made = self._made[1]
        alike = made.taken(name for name, _ in exchange.headers if "_" in name)
        if alike:
            made = replace(made, remove=(*made.remove, *alike))
        queries = [i for i in injections if i.query is not None]
        return replace(made, path=_with_query(exchange, queries)) if queries else made

    def _headers(self, injections: Sequence[Injection]) -> Injected:
        headers = [i for i in injections if i.header is not None]
        return Injected(
            remove=tuple(dict.fromkeys((*self._identity_headers, *(i.header for i in headers if i.header)))),
            put=tuple((i.header, i.value) for i in headers if i.header),
            path=None,
            labels=tuple(i.label for i in injections),
        )


def _with_query(exchange: Exchange, injections: Sequence[Injection]) -> str:
    names = {_folded(i.query or "") for i in injections}
    given = exchange.query.split("&") if exchange.query else []
    kept = [pair for pair in (_without(pair, names) for pair in given) if pair is not None]
    added = [f"{quote(i.query or '', safe='')}={quote(i.value, safe='')}" for i in injections]
    return f"{exchange.path}?{'&'.join(kept + added)}"


def _without(pair: str, names: set[str]) -> str | None:
    """A parameter as it was sent, None where it is one of `names`; some servers divide at semicolons, too."""
    parts = pair.split(";")
    kept = [part for part in parts if _folded(unquote_plus(part.partition("=")[0])) not in names]
    return ";".join(kept) if kept else None


def _folded(name: str) -> str:
    """A parameter's name as lenient servers read it: in any letter case; PHP's `api.key`, ` api_key`, `api_key[]`."""
    return re.split(r"[\[\0]", name.strip(), maxsplit=1)[0].translate(_PHP).casefold()
