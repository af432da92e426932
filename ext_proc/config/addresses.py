"""Addresses and URLs as douane.yaml writes them."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit


def is_loopback(host: str) -> bool:
    """Whether a host name or address, without port or brackets, is this machine's loopback."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def split_listen(listen: str) -> tuple[str, int]:
    """`[::1]:80` as (`::1`, 80)."""
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)


def split_url(text: str) -> SplitResult | None:
    """The URL's parts, or None when it is none or its port is not one."""
    try:
        parts = urlsplit(text)
        return parts if parts.hostname and parts.port != 0 else None
    except ValueError:
        return None


def overlap(one: str, other: str) -> bool:
    """Whether two listeners on one port would collide: equal, or one covers every address."""
    everything = ("0.0.0.0", "::")  # noqa: S104 (compared, not bound)
    return one == other or one in everything or other in everything or "localhost" in (one, other)
