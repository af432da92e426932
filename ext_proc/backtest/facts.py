"""What rules see of a recorded exchange. What the record does not have is *unknown*: looking at it is noticed, and what
comes of it is in doubt, unless something else decided."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NoReturn
from uuid import UUID

from ext_proc.backtest.recorded import MARK, Content, Recorded
from ext_proc.exchange import Caller, SignedClaims
from ext_proc.expressions import FactUnknown, Unknown
from ext_proc.masking import codings
from ext_proc.rules import Facts, Message

_BODY = ("body", "form", "parts")
_NESTED = re.compile(r"\s*[\[{]")
_IDENTITY = (
    *("identity.issuer", "identity.subject", "identity.claims", "identity.session.id", "identity.session.label"),
    *("identity.workload.issuer", "identity.workload.subject", "identity.workload.claims"),
)
_MASKED = "it is masked in the record"


def at_hand(content: Content, max_decoded: int) -> bytes | None:
    """The body without its content-codings, fetched where it is stored apart; None where the gate could not read it
    either. To be asked only where it is not `missing`."""
    body = content.fetch() if content.fetch is not None else content.body
    encoding = b",".join(content.headers.all("content-encoding"))
    if not body or not encoding or content.decoded:
        return body
    try:
        decoder = codings.decoder(encoding)
        if decoder is None:
            return body
        decoded = decoder.feed(body, max_decoded)
        decoder.finish()
    except (codings.CodingError, codings.TooLargeError):
        return None
    return decoded


def sent_size(content: Content) -> int | None:
    """Bytes as sent; None where the record does not say."""
    length = content.headers.first("content-length") or b""
    if length.isdigit() and len(length) < 20:
        return int(length)
    if content.missing or content.decoded:
        return None
    return content.size - content.masks.grown


class RecordedFacts(Facts):
    """`doubt` says what was looked at and is not known; set it to nothing before each rule."""

    def __init__(
        self,
        recorded: Recorded,
        operation: str,
        *,
        request: Message | None = None,
        response: Message | None = None,
        counters: Mapping[str, int] | None = None,
    ) -> None:
        """`request` and `response` as the gate would have had them."""
        super().__init__(
            recorded.exchange,
            recorded.caller or _NOBODY,
            recorded.workload,
            operation=operation,
            request=request,
            response=response,
            status=recorded.status,
            counters=counters,
        )
        self.doubt = ""
        self._unknown: dict[str, str] = {}
        self._veiled: dict[str, str] = {}
        if recorded.caller is None:
            self._unknown |= dict.fromkeys(_IDENTITY, "the record does not say who called")
        if recorded.request.masks.path:
            self._unknown["request.path"] = _MASKED
            self.pop("request.path")
        if recorded.request.masks.query:
            self._veiled["request.query"] = _MASKED
        for side, content in (("request", recorded.request), ("response", recorded.response)):
            if content is not None:
                self._doubt_content(side, content)
        self._masked_headers = {
            "request.headers": [recorded.exchange.headers.items[n] for n in recorded.request.masks.headers],
            "response.headers": _masked_fields(recorded.response),
        }

    def __missing__(self, path: str) -> Any:
        if path in self._unknown:
            self._raise(path, self._unknown[path])
        value = super().__missing__(path)
        if path in self._veiled:
            value = self[path] = self._veil(value, path)
        elif self._masked_headers.get(path):
            for name, text in self._masked_headers[path]:
                value[name] = [self._hidden(path) if v == text.decode("utf-8", "replace") else v for v in value[name]]
        return value

    def _doubt_content(self, side: str, content: Content) -> None:
        whole = content.missing or (_MASKED if content.masks.body else "")
        if whole:
            self._unknown |= {f"{side}.{fact}": whole for fact in _BODY}
        if content.missing:
            self._unknown[f"{side}.json"] = content.missing
        elif content.masks.body:
            self._veiled[f"{side}.json"] = _MASKED
        message = self.request if side == "request" else self.response
        if message is not None and message.size is None:
            self._unknown[f"{side}.size"] = content.missing or "the record does not say how large it was sent"

    def _raise(self, path: str, why: str) -> NoReturn:
        self.doubt = self.doubt or f"{path}: {why}"
        raise FactUnknown(path)

    def _hidden(self, path: str) -> Unknown:
        return Unknown(lambda: self._raise(path, _MASKED))

    def _veil(self, value: Any, path: str) -> Any:
        """The value with each masked text in it unknown; all of it where a name is masked, or a text in which rules
        would look for JSON."""
        hidden = self._hidden(path)
        pending = [value]
        while pending:
            at = pending.pop()
            items: Any = at.items() if isinstance(at, dict) else enumerate(at) if isinstance(at, list) else ()
            for key, child in list(items):
                if isinstance(key, str) and MARK in key:
                    return hidden
                if isinstance(child, str):
                    if MARK in child:
                        if _NESTED.match(child) and not child.startswith(MARK):
                            return hidden
                        at[key] = hidden
                else:
                    pending.append(child)
        return hidden if isinstance(value, str) and MARK in value else value


_NOBODY = Caller("", "", SignedClaims({}), UUID(int=0), "")


def _masked_fields(content: Content | None) -> list[tuple[str, bytes]]:
    return [] if content is None else [content.headers.items[n] for n in content.masks.headers]
