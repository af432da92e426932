"""The head and the trailers of a response of which the client gets another body than the upstream sent."""

from __future__ import annotations

from collections.abc import Sequence

from ext_proc import codec
from ext_proc.exchange import Headers

_OF_THE_BODY = frozenset(
    {
        *("content-encoding", "etag", "accept-ranges"),
        *("digest", "content-md5", "content-digest", "repr-digest"),
    }
)
"""Fields that tell of the bytes that were sent, and of no others (RFC 9110, RFC 9530)."""


def changed_head(
    headers: Headers, changes: Sequence[tuple[str, bytes]], *, anew: bool, length: int | None
) -> codec.Answer:
    """`changes` as in `codec.forward_response_head`. `anew`: another body follows, of `length` bytes if that is known
    by now. Content-Length is told where the upstream told one; where it did not, trailers may follow."""
    if not anew:
        return codec.forward_response_head(changes)
    changes = [(name, value) for name, value in changes if name not in _OF_THE_BODY and name != "content-length"]
    remove = _present(headers)
    if headers.first("content-length") is not None:
        if length is None:
            remove.append("content-length")
        else:
            changes.append(("content-length", b"%d" % length))
    return codec.forward_response_head(changes, remove)


def changed_trailers(trailers: Headers, changes: Sequence[tuple[str, bytes]], *, anew: bool) -> codec.Answer:
    """The same for trailers."""
    if not anew:
        return codec.forward_trailers("response", changes)
    changes = [(name, value) for name, value in changes if name not in _OF_THE_BODY]
    return codec.forward_trailers("response", changes, _present(trailers))


def _present(fields: Headers) -> list[str]:
    return [name for name in sorted(_OF_THE_BODY) if fields.first(name) is not None]
