"""The files that Envoy watches, below the run folder: written atomically, only where they change, private.

Order matters, for Envoy applies each file by itself: a cluster must be there before a route names it, a route table
before a listener does, and what is gone is taken away last. `apply` confirms each step with Envoy.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from betterproto2 import Message
from envoy_data_plane.envoy.config.cluster.v3 import Cluster

from ext_proc.errors import ConfigError
from ext_proc.xds.ca import CertificateAuthority
from ext_proc.xds.naming import (
    CLUSTERS_FILE,
    DRAIN,
    LISTENERS_FILE,
    LONGEST_SILENCE,
    certificate_file,
    key_file,
    routes_file,
)
from ext_proc.xds.resources import Resources
from ext_proc.xds.typed import discovery_response
from ext_proc.xds.upstream import system_ca_bundle

BUNDLE = "ca.pem"
OWN_CA = "douane-ca.pem"
LOG = "logs/envoy.log"
"""Envoy's log, relative to the run folder."""


@dataclass(frozen=True, slots=True)
class ResourceSet:
    """The resource files of one configuration: text by path, and the version Envoy shows once it took a file.

    `clusters` also holds, by name, clusters of earlier configurations that held requests may still go to, and since
    when (monotonic seconds) they are retired.
    """

    texts: Mapping[str, str]
    versions: Mapping[str, str]
    clusters: Mapping[str, Cluster] = field(default_factory=dict)
    retired: Mapping[str, float] = field(default_factory=dict)


_NOTHING = ResourceSet({}, {})


class Files:
    """The run folder's Envoy files. `good` is the last set that was kept, to go back to."""

    def __init__(
        self, run_dir: Path, authority: CertificateAuthority, *, clock: Callable[[], float] = monotonic
    ) -> None:
        self.run_dir = run_dir
        self.good = _NOTHING
        self._authority = authority
        self._clock = clock
        self._left: dict[Path, float] = {}  # route tables of listeners that are gone, and since when

    def render(self, resources: Resources) -> ResourceSet:
        """The files for these resources, in the order in which they must be written."""
        retired = self._retired(resources)
        clusters = {cluster.name: cluster for cluster in resources.clusters}
        clusters |= {name: self.good.clusters[name] for name in retired}
        texts: dict[str, str] = {}
        versions: dict[str, str] = {}
        parts: list[tuple[str, Sequence[Message]]] = [
            (CLUSTERS_FILE, list(clusters.values())),
            *((routes_file(table.name), [table]) for table in resources.routes),
            (LISTENERS_FILE, resources.listeners),
        ]
        for path, members in parts:
            texts[path], versions[path] = discovery_response(members)
        return ResourceSet(texts, versions, clusters, retired)

    def _retired(self, resources: Resources) -> dict[str, float]:
        """Clusters to keep although the configuration has them no more: a request held on the old route needs its
        cluster when it is let go."""
        current = {cluster.name for cluster in resources.clusters}
        now = self._clock()
        since = {name: self.good.retired.get(name, now) for name in self.good.clusters if name not in current}
        return {name: at for name, at in since.items() if now - at < LONGEST_SILENCE.total_seconds()}

    def prepare(self, hosts: Sequence[str]) -> None:
        """Make the folders, a certificate for each TLS host, and the bundles that clients trust.

        ConfigError where the run folder cannot be written.
        """
        try:
            for folder in (".", "envoy", "envoy/rds", "envoy/tls", "logs"):
                path = self.run_dir / folder
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.chmod(0o700)
            self._authority.admit(hosts)
            for host in hosts:
                leaf = self._authority.leaf(host)
                self._write(key_file(host), leaf.key)
                self._write(certificate_file(host), leaf.certificate)
            self._write(OWN_CA, self._authority.certificate)
            self._write(BUNDLE, _public_roots() + self._authority.certificate)
        except OSError as error:
            raise _unwritable(self.run_dir, error) from error

    def install(self, resources: Resources) -> None:
        """Before Envoy starts: everything, and nothing that an earlier run left. ConfigError as `prepare`."""
        self.prepare(resources.tls_hosts)
        rendered = self.render(resources)
        self.write(rendered)
        self._left.clear()
        self._remove("envoy/rds", rendered.texts)
        self._remove("envoy/tls", [f(host) for host in resources.tls_hosts for f in (key_file, certificate_file)])

    def write(self, files: ResourceSet, paths: Sequence[str] | None = None) -> list[str]:
        """Write the set, or only these paths of it. Returns the paths that changed on disk."""
        try:
            return [
                path
                for path in (files.texts if paths is None else paths)
                if self._write(path, files.texts[path].encode())
            ]
        except OSError as error:
            raise _unwritable(self.run_dir, error) from error

    def keep(self, files: ResourceSet) -> None:
        """This set is good. Route tables that it does not have are removed, but only when their listeners have drained:
        until then Envoy watches them, and would count each as refused at every later change."""
        self.good = files
        now = self._clock()
        current = {self.run_dir / path for path in files.texts}
        for path in (self.run_dir / "envoy/rds").iterdir():
            if path in current:
                self._left.pop(path, None)
            elif now - self._left.setdefault(path, now) > 2 * DRAIN.total_seconds():
                del self._left[path]
                path.unlink(missing_ok=True)

    def _remove(self, folder: str, keep: Iterable[str]) -> None:
        kept = {self.run_dir / path for path in keep}
        for path in (self.run_dir / folder).iterdir():
            if path not in kept:
                path.unlink(missing_ok=True)

    def _write(self, relative: str, data: bytes) -> bool:
        path = self.run_dir / relative
        if path.is_file() and path.read_bytes() == data:
            return False
        temporary = path.with_name(f".{path.name}.new")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        temporary.replace(path)
        return True


def _public_roots() -> bytes:
    try:
        return system_ca_bundle().read_bytes().rstrip(b"\n") + b"\n"
    except ConfigError:  # no roots here: clients of this machine trust none either
        return b""


def _unwritable(run_dir: Path, error: OSError) -> ConfigError:
    return ConfigError(
        "config.run_dir",
        f"gate.run_dir {run_dir} cannot be written: {error.strerror or error}",
        remedy="Make it writable for this user, or choose another.",
    )
