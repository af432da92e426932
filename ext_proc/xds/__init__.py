"""Envoy's configuration: built from douane.yaml with Envoy's own types, written, confirmed, validated.

`route_name` is for the workers too, so the rest, which imports Envoy's generated types (35 MB), is loaded when asked
for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ext_proc.xds.naming import route_name

if TYPE_CHECKING:
    from ext_proc.xds.admin import Admin
    from ext_proc.xds.ca import CertificateAuthority
    from ext_proc.xds.envoy import Envoy
    from ext_proc.xds.files import Files
    from ext_proc.xds.resources import Resources, build
    from ext_proc.xds.rollout import apply, confirm

__all__ = ["Admin", "CertificateAuthority", "Envoy", "Files", "Resources", "apply", "build", "confirm", "route_name"]

_HOMES = {
    "Admin": "admin",
    "CertificateAuthority": "ca",
    "Envoy": "envoy",
    "Files": "files",
    "Resources": "resources",
    "apply": "rollout",
    "build": "resources",
    "confirm": "rollout",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(name)
    return getattr(import_module(f"ext_proc.xds.{_HOMES[name]}"), name)
