"""Where a connection's requests go, and whose certificates are believed there."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ext_proc.config.addresses import split_url
from ext_proc.config.models import Connection
from ext_proc.errors import ConfigError

# Where Debian and Alpine, Fedora and RHEL, openSUSE, and RHEL's older layout keep the public roots.
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)


@dataclass(frozen=True, slots=True)
class Upstream:
    """An upstream URL, taken apart. `host` has no brackets; `prefix` has no final slash (`` or `/base`)."""

    host: str
    port: int
    tls: bool
    prefix: str

    @property
    def literal(self) -> bool:
        """Whether the host is an IP address, which needs no name service."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True

    @property
    def authority(self) -> str:
        """What the upstream gets as Host: the port is left out where it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def upstream(connection_name: str, connection: Connection) -> Upstream:
    """The connection's upstream. ConfigError when the URL is none."""
    parts = split_url(connection.upstream)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            "config.value",
            f"connections.{connection_name}.upstream: {connection.upstream!r} is no URL of a server",
            remedy="Write one such as https://api.example.com.",
        )
    tls = parts.scheme == "https"
    return Upstream(parts.hostname, parts.port or (443 if tls else 80), tls, parts.path.rstrip("/"))


def system_ca_bundle(environment: Mapping[str, str] = os.environ) -> Path:
    """The machine's public roots: SSL_CERT_FILE, or the distribution's bundle. ConfigError when there is none."""
    named = environment.get("SSL_CERT_FILE")
    for candidate in (named,) if named else _BUNDLES:
        if Path(candidate).is_file():
            return Path(candidate)
    raise ConfigError(
        "config.no_ca_bundle",
        f"SSL_CERT_FILE names no file: {named}" if named else "this machine has no bundle of CA certificates",
        remedy="Install the package ca-certificates, set SSL_CERT_FILE, or name upstream_ca_file at each connection.",
    )
