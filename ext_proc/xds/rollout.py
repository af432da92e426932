"""Gives Envoy a configuration and sees that it took it; otherwise Envoy keeps, or gets back, the last good one.

Envoy applies each watched file by itself and tells nobody. What it took is seen in the file's `version_text`
statistic, which then shows the version written in the file; what it refused, in `update_rejected`, with the reason
in its log only.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ext_proc.errors import ConfigError
from ext_proc.xds.admin import Admin, AdminError
from ext_proc.xds.envoy import refused
from ext_proc.xds.files import LOG, Files, ResourceSet
from ext_proc.xds.naming import CLUSTERS_FILE, LISTENERS_FILE
from ext_proc.xds.resources import Resources

_POLL_S = 0.05
_LOG_TAIL = 64 << 10
_REJECTED = re.compile(
    r"Filesystem config update (?:rejected|failure): (.*?)(?=^\[\d{4}-|\Z)", re.DOTALL | re.MULTILINE
)


async def confirm(resources: Resources, files: Files, admin: Admin, *, timeout_s: float = 15.0) -> None:
    """At the start: wait until an Envoy started after `files.install(resources)` serves it.

    ConfigError `envoy.refused`, or `envoy.not_ready` when it does not come up in time.
    """
    rendered = files.render(resources)
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not await admin.ready():
        if asyncio.get_running_loop().time() > deadline:
            raise _not_ready(f"Envoy is not ready after {timeout_s:g} s", files)
        await asyncio.sleep(_POLL_S)
    await _Rollout(rendered, files, admin, timeout_s, {}, 0).serving(list(rendered.texts))
    files.keep(rendered)


async def apply(resources: Resources, files: Files, admin: Admin, *, timeout_s: float = 15.0) -> None:
    """Put these resources into the running Envoy, in an order in which no request is lost.

    First the clusters, old and new; then the routes; then the listeners, each confirmed before the next. Raises
    ConfigError `envoy.refused` with Envoy's reason after the last good set is back in place, and `envoy.not_ready`
    when Envoy is away: then the files hold the last good set for the next one.
    """
    files.prepare(resources.tls_hosts)
    rendered = files.render(resources)
    try:
        rollout = await _Rollout.begin(rendered, files, admin, timeout_s)
        await rollout.step([CLUSTERS_FILE])
        routes = [path for path in rendered.texts if path not in (CLUSTERS_FILE, LISTENERS_FILE)]
        # A table that nobody serves yet has no statistic: the listeners' step, which starts it, confirms it.
        await rollout.step([path for path in routes if path in files.good.texts])
        files.write(rendered, routes)
        await rollout.step([LISTENERS_FILE])
        await rollout.serving(routes)
    except (ConfigError, AdminError) as error:
        await _restore(files, admin, timeout_s)
        if isinstance(error, AdminError):
            raise _not_ready("Envoy went away while it took the configuration", files) from error
        raise
    files.keep(rendered)


async def _restore(files: Files, admin: Admin, timeout_s: float) -> None:
    """The last good set again, in the opposite order: what refers goes before what is referred to."""
    good = files.good
    if not good.texts:
        return
    paths = list(good.texts)[::-1]
    files.write(good, paths)
    files.keep(good)
    try:
        await (await _Rollout.begin(good, files, admin, timeout_s)).serving(paths)
    except (ConfigError, AdminError):
        return  # the refusal that led here is what the operator must read; readiness shows the rest


@dataclass(frozen=True, slots=True)
class _Rollout:
    """One attempt: what Envoy had rejected, and how long its log was, before it began."""

    rendered: ResourceSet
    files: Files
    admin: Admin
    timeout_s: float
    rejected: Mapping[str, int]
    log_from: int

    @classmethod
    async def begin(cls, rendered: ResourceSet, files: Files, admin: Admin, timeout_s: float) -> _Rollout:
        log = files.run_dir / LOG
        log_from = log.stat().st_size if log.is_file() else 0
        return cls(rendered, files, admin, timeout_s, await admin.rejections(), log_from)

    async def step(self, paths: Sequence[str]) -> None:
        """Write these paths; when any changed, wait until Envoy serves it."""
        if changed := self.files.write(self.rendered, paths):
            await self.serving(changed)

    async def serving(self, paths: Sequence[str]) -> None:
        """Wait until Envoy shows the paths' versions. ConfigError when it refuses one, or shows nothing in time.

        What only waits for a name service counts as served: an upstream without an address is no fault of the
        configuration, and its requests are answered `upstream.unreachable`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.timeout_s
        while True:
            rejections = await self.admin.rejections()
            if any(count > self.rejected.get(name, 0) for name, count in rejections.items()):
                raise refused(await self._reason())
            versions = await self.admin.versions()
            accepted = all(_shown(versions, path) == self.rendered.versions[path] for path in paths)
            if accepted and not await self.admin.warming():
                return
            if loop.time() > deadline:
                if accepted:
                    return
                raise refused(await self._reason())
            await asyncio.sleep(_POLL_S)

    async def _reason(self) -> str:
        """What Envoy logged on it. Its log comes to the file with a delay of its own."""
        log = self.files.run_dir / LOG
        for _ in range(20):
            if reasons := _REJECTED.findall(_tail(log, self.log_from)):
                return " ".join(reasons[-1].split())
            await asyncio.sleep(_POLL_S)
        return f"it gave no reason in {log}"


def _shown(versions: Mapping[str, str], path: str) -> str | None:
    """The version that Envoy shows for a resource file. The prefix of a route table's statistic is its listener's."""
    if path == CLUSTERS_FILE:
        return versions.get("cluster_manager.cds.version_text")
    if path == LISTENERS_FILE:
        return versions.get("listener_manager.lds.version_text")
    name = Path(path).name.removesuffix(".json")
    return next((version for stat, version in versions.items() if stat.endswith(f".rds.{name}.version_text")), None)


def _tail(path: Path, start: int) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(start, size - _LOG_TAIL))
        return file.read().decode(errors="replace")


def _not_ready(what: str, files: Files) -> ConfigError:
    return ConfigError("envoy.not_ready", what, remedy=f"Its log says why: {files.run_dir / LOG}")
