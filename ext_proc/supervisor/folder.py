"""The run folder: private, owned by one supervisor, with room in its name for unix sockets."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from ext_proc.config.approvals import OPERATOR_SOCKET
from ext_proc.errors import ConfigError, DouaneError

if TYPE_CHECKING:
    from ext_proc.config import Config

SOCKET_PATH_MAX = 107  # sockaddr_un.sun_path is 108 bytes with the final zero, unix(7)
LOCK = "supervisor.lock"


class Lock:
    """One supervisor a folder. The kernel gives the lock back when the process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._fd, 20).decode(errors="replace").strip()
            os.close(self._fd)
            raise DouaneError(
                "supervisor.locked",
                f"{folder} is in use by another douane" + (f", process {holder}" if holder else ""),
                remedy="Stop that one, or give this one its own gate.run_dir (and hub.path, spool, ports).",
            ) from None
        os.ftruncate(self._fd, 0)
        os.write(self._fd, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        os.close(self._fd)


def private_folder(path: Path, what: str) -> Path:
    """Make the folder, mode 0700 and ours; ConfigError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = path.stat()
        if found.st_uid != os.geteuid():
            raise ConfigError(
                "config.folder", f"{what} {path} belongs to another user", remedy="Choose a folder of your own."
            )
        if stat.S_IMODE(found.st_mode) & 0o077:
            path.chmod(0o700)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise ConfigError("config.folder", f"{what} {path} cannot be used: {why}", remedy="Choose another.") from None
    return path


def socket_paths(config: Config) -> list[Path]:
    """Every unix socket that a process of ours binds by its full path."""
    run_dir = Path(config.gate.run_dir)
    paths = [run_dir / f"worker-{config.gate.workers - 1}.sock", run_dir / "admin.sock", run_dir / OPERATOR_SOCKET]
    if config.hub.listen.startswith("unix:"):
        paths.append(Path(config.hub.listen.removeprefix("unix:")))
    return paths


def check_socket_paths(config: Config) -> None:
    """ConfigError config.path_too_long when the kernel would refuse one of them."""
    for path in socket_paths(config):
        length = len(os.fsencode(path))
        if length > SOCKET_PATH_MAX:
            raise ConfigError(
                "config.path_too_long",
                f"the socket {path} has {length} bytes, and the kernel takes {SOCKET_PATH_MAX}",
                remedy="Choose a shorter gate.run_dir (and hub.listen), such as /tmp/douane or /run/douane.",
            )


def remove_stale_sockets(folder: Path) -> None:
    """Sockets left by a former run. Only call with the folder's lock held."""
    for path in folder.glob("*.sock"):
        if path.is_socket():
            path.unlink(missing_ok=True)
