"""Keeps secrets out of the environments of processes that do not need them.

The kernel shows a process's first environment in /proc/PID/environ for as long as it lives, so unsetting a variable
is not enough. The supervisor therefore starts itself again with a small, listed environment and hands the rest over
in a sealed memory file. The workers get everything (their credentials' `env` and `exec` sources may need it) but the
store's password and what notifications are sent with; the hub gets those; nobody else gets anything.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ext_proc.config import SourceEnv
from ext_proc.config.sources import models_in

if TYPE_CHECKING:
    from ext_proc.config import Config
    from ext_proc.config.base import Model

FD_VARIABLE = "DOUANE_ENVIRONMENT_FD"

# What programs need to run at all. Anything that might be a secret stays out; DOUANE_ENVOY names a binary.
_PLAIN = frozenset(
    (
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TERM"),
        *("COLORTERM", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CI", "VIRTUAL_ENV", "LD_LIBRARY_PATH"),
        *("PYTHONPATH", "PYTHONHOME", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONWARNINGS"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "DOUANE_ENVOY", FD_VARIABLE),
    )
)


@dataclass(frozen=True, slots=True)
class Environments:
    """What each kind of child may see. `repr` shows no values."""

    everything: Mapping[str, str]
    plain: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Environments({len(self.everything)} variables)"

    def for_worker(self, config: Config) -> dict[str, str]:
        elsewhere = hub_secrets(config) - worker_secrets(config)
        return {name: value for name, value in self.everything.items() if name not in elsewhere}

    def for_hub(self, config: Config) -> dict[str, str]:
        own = hub_secrets(config)
        return {n: v for n, v in self.everything.items() if n in self.plain or n in own}

    def for_others(self) -> dict[str, str]:
        return dict(self.plain)


def named_secrets(config: Config) -> set[str]:
    """Every environment variable that the configuration takes a secret from."""
    return _named(config)


def hub_secrets(config: Config) -> set[str]:
    """Of these, what the hub needs: the store's password, and what notifications are sent with."""
    return _named(config.store, config.approvals)


def worker_secrets(config: Config) -> set[str]:
    return _named(*config.connections.values(), config.masking, config.recording)


def handed_over() -> bool:
    """Whether this is the second start of the program, see `take_over`."""
    return FD_VARIABLE in os.environ


def take_over(config: Config) -> Environments:
    """This process's environment, split. Does not return the first time if there is anything to hide: it starts the
    same program again (same process id), and the second time finds the memory file."""
    fd_text = os.environ.pop(FD_VARIABLE, None)
    if fd_text is not None:
        return _receive(int(fd_text), config)
    plain = _plain(dict(os.environ), config)
    if set(plain) == set(os.environ):
        return Environments(dict(os.environ), plain)
    fd = os.memfd_create("environment", os.MFD_ALLOW_SEALING)  # not close-on-exec: it is for the next program
    os.write(fd, json.dumps(dict(os.environ)).encode("utf-8", "surrogateescape"))
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
    sys.stdout.flush()
    sys.stderr.flush()
    command = [sys.executable, *sys.orig_argv[1:]]
    return os.execve(sys.executable, command, {**plain, FD_VARIABLE: str(fd)})  # noqa: S606 (no shell is the point)


def _receive(fd: int, config: Config) -> Environments:
    os.lseek(fd, 0, os.SEEK_SET)
    with os.fdopen(fd, "rb") as file:
        everything = json.loads(file.read().decode("utf-8", "surrogateescape"))
    return Environments(everything, _plain(everything, config))


def _plain(everything: Mapping[str, str], config: Config) -> dict[str, str]:
    secret = named_secrets(config)
    return {
        name: value
        for name, value in everything.items()
        if (name in _PLAIN or name.startswith("LC_")) and name not in secret and name != FD_VARIABLE
    }


def _named(*sections: Model) -> set[str]:
    return {source.env for one in sections for _, source in models_in(one) if isinstance(source, SourceEnv)}
