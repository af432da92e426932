"""Stage 4: the real credential. What the caller sent in its place is removed; the injected name occurs once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import quote, unquote_plus

from ext_proc.config.credentials import SIGNATURE_HEADERS
from ext_proc.credentials import Credentials, Injection, Signature
from ext_proc.credentials.sigv4 import REMOVED_QUERY, ChunkSigner, Leaving
from ext_proc.exchange import Exchange, Identified

_PHP = str.maketrans(". ", "__")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a connection's requests go: what the upstream gets as Host, and what stands before each path."""

    authority: str
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Injected:
    """How the request changes on its way out. `path` is the whole `:path`, or None where it stays; `body` signs a body
    that follows: each piece goes through it. `own` (label, secret) belong to this exchange alone."""

    remove: tuple[str, ...]
    put: tuple[tuple[str, bytes], ...] = field(repr=False)
    path: str | None = field(repr=False)
    labels: tuple[str, ...]
    body: ChunkSigner | None = field(default=None, repr=False)
    own: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)

    def taken(self, names: Iterable[str]) -> tuple[str, ...]:
        """Of these fields, those that servers may read as one of the removed: behind CGI, dd_api_key is dd-api-key."""
        return tuple(name for name in names if name.replace("_", "-") in self.remove)


class CredentialStage:
    """Fetches a connection's credentials and says where they go."""

    def __init__(self, credentials: Credentials, identity_headers: Sequence[str], target: Target) -> None:
        self._credentials = credentials
        self._identity_headers = tuple(identity_headers)
        self._target = target
        self._made: tuple[tuple[Injection | Signature, ...], Injected] | None = None

    async def run(self, identified: Identified, body: bytes | None) -> Injected:
        """`body` is all of it, or None where it follows. CredentialError as in `Credentials.resolve`, and
        `credential.unsignable`."""
        exchange = identified.exchange
        resolved = await self._credentials.resolve(identified.token)
        if self._made is None or self._made[0] is not resolved:
            self._made = (resolved, self._headers(resolved))
        made = self._made[1]
        alike = made.taken(name for name, _ in exchange.headers if "_" in name)
        if alike:
            made = replace(made, remove=(*made.remove, *alike))
        queries = [i for i in resolved if isinstance(i, Injection) and i.query is not None]
        if queries:
            made = replace(made, path=_with_query(exchange, queries))
        for one in resolved:
            if isinstance(one, Signature):
                return self._signed(exchange, made, one, body)
        return made

    def _headers(self, resolved: Sequence[Injection | Signature]) -> Injected:
        injections = [one for one in resolved if isinstance(one, Injection)]
        headers = [i for i in injections if i.header is not None]
        signature = SIGNATURE_HEADERS if len(injections) < len(resolved) else ()
        names = (*self._identity_headers, *(i.header for i in headers if i.header), *signature)
        return Injected(
            remove=tuple(dict.fromkeys(names)),
            put=tuple((i.header, i.value) for i in headers if i.header),
            path=None,
            labels=tuple(one.label for one in resolved),
            own=tuple((i.label, i.secret) for i in injections if i.own),
        )

    def _signed(self, exchange: Exchange, made: Injected, signature: Signature, body: bytes | None) -> Injected:
        """Signs what leaves: after everything else has been put in its place."""
        query = exchange.query if made.path is None else made.path.partition("?")[2]
        kept = _without_names(query, REMOVED_QUERY)
        path = made.path if kept == query else exchange.path + (f"?{kept}" if kept else "")
        headers = [field for field in exchange.headers if field[0] not in made.remove]
        leaving = Leaving(exchange.method, self._target.authority, self._target.prefix + exchange.path, kept, headers)
        declared = exchange.headers.first("x-amz-content-sha256") or b""
        signed = signature.signer.sign(leaving, body, declared)
        return replace(made, put=(*made.put, *signed.put), path=path, body=signed.body)


def _without_names(query: str, names: frozenset[str]) -> str:
    pairs = query.split("&") if query else []
    return "&".join(pair for pair in pairs if unquote_plus(pair.partition("=")[0]).lower() not in names)


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
