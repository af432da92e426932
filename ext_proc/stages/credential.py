"""Stage 4: the real credential. What the caller sent in its place is removed; the injected name occurs once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import quote, unquote_plus

from ext_proc.credentials import Credentials, Injection
from ext_proc.exchange import Exchange


@dataclass(frozen=True, slots=True)
class Injected:
    """How the request's head changes on its way out. `path` is the whole `:path`, or None where it stays."""

    remove: tuple[str, ...]
    put: tuple[tuple[str, bytes], ...] = field(repr=False)
    path: str | None = field(repr=False)
    labels: tuple[str, ...]


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
        alike = tuple(n for n, _ in exchange.headers if "_" in n and n.replace("_", "-") in made.remove)
        if alike:  # servers behind CGI read dd_api_key as dd-api-key
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
    names = {i.query for i in injections}
    kept = [p for p in exchange.query.split("&") if p and unquote_plus(p.partition("=")[0]) not in names]
    added = [f"{quote(i.query or '', safe='')}={quote(i.value, safe='')}" for i in injections]
    return f"{exchange.path}?{'&'.join(kept + added)}"
