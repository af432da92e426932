"""Looks for secrets in every spelling that a record could hold them in."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote


def spellings(secret: str) -> Iterator[bytes]:
    """As it is; in hex; in URL and JSON escapes, as few as needed and all of it, in either case; in base64 and
    base64url, wherever in the encoded text it begins."""
    raw = secret.encode()
    yield raw
    yield raw.hex().encode()
    yield raw.hex().upper().encode()
    for escaped in (quote(secret, safe=""), "".join(f"%{b:02X}" for b in raw)):
        yield escaped.encode()
        yield re.sub("%..", lambda m: m[0].lower(), escaped).encode()
    yield json.dumps(secret)[1:-1].encode()
    yield json.dumps(secret)[1:-1].replace("/", r"\/").encode()
    yield "".join(rf"\u{ord(c):04x}" for c in secret).encode()
    yield "".join(rf"\u{ord(c):04X}" for c in secret).encode()
    for shift in range(3):
        # The first and last characters of the group also carry neighbouring bytes, so they are cut off.
        encoded = base64.b64encode(b"\0" * shift + raw).rstrip(b"=")
        inner = encoded[(0, 2, 3)[shift] : len(encoded) - ((shift + len(raw)) % 3 != 0)]
        yield inner
        yield inner.translate(bytes.maketrans(b"+/", b"-_"))


def find(places: Iterable[tuple[str, bytes]], secrets: Mapping[str, str]) -> list[str]:
    """`NAME in PLACE` for every secret found; `places` are names and contents."""
    wanted = {name: set(spellings(secret)) for name, secret in secrets.items()}
    return [
        f"{name} in {place}"
        for place, content in places
        for name, forms in wanted.items()
        if any(form in content for form in forms)
    ]


def files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every regular file below `folder`. One that ends while we look was a temporary one."""
    for at, _, names in os.walk(folder):
        for path in (Path(at, name) for name in sorted(names)):
            with suppress(FileNotFoundError):
                if path.is_file():
                    yield str(path.relative_to(folder)), path.read_bytes()
