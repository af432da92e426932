"""Values that lie at hand: the environment, a file, a mounted Kubernetes Secret."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ext_proc.credentials.source import MAX_VALUE, PlainSource, unavailable, without_line_break


class EnvSource(PlainSource):
    """An environment variable of this process, looked up each time."""

    def __init__(self, name: str) -> None:
        super().__init__(f"env {name}")
        self._name = os.fsencode(name)

    async def read(self, token: bytes | None = None) -> bytes:  # noqa: ARG002
        value = os.environb.get(self._name)
        if value is None:
            raise unavailable(self.place, "is not set")
        self._recent.note(value)
        return value


class FileSource(PlainSource):
    """A regular file, read again when it, or what its symbolic link points to, changes (Kubernetes swaps the link)."""

    def __init__(self, path: str) -> None:
        super().__init__(f"file {path}")
        self._path = Path(path)
        self._stamp: tuple[int, ...] = ()
        self._value = b""

    async def read(self, token: bytes | None = None) -> bytes:  # noqa: ARG002
        try:
            stamp = _stamp(self._path.stat())
            if stamp != self._stamp:
                self._value, self._stamp = _load(self._path, self.place)
                self._recent.note(self._value)
        except OSError as error:
            self._stamp = ()
            raise unavailable(self.place, f"cannot be read ({_why(error)})") from None
        return self._value


class KubernetesSource(PlainSource):
    """A key of a Secret that is mounted as a folder.

    The kubelet writes each version of the Secret to a folder of its own and then swaps the link `..data` to it. A value
    is read through that folder, so `generation` says which version it belongs to, and `read_together` takes all keys of
    a mount from one.
    """

    def __init__(self, mount: str, key: str) -> None:
        super().__init__(f"kubernetes {mount}/{key}")
        self._mount = Path(mount)
        self._key = key
        self._value = b""

    async def read(self, token: bytes | None = None) -> bytes:  # noqa: ARG002
        link = self._mount / "..data"
        try:
            version = (str(link.readlink()), _stamp(link.lstat()))
            if self.generation != (str(self._mount), version):
                # `readlink` and `stat` of the file in that folder, never through the link, which may move on
                self._value, _ = _load(self._mount / version[0] / self._key, self.place)
                self.generation = (str(self._mount), version)
                self._recent.note(self._value)
        except FileNotFoundError:
            self.generation = None
            why = "has no such key" if link.is_dir() else "is not mounted as Kubernetes mounts a Secret (no ..data)"
            raise unavailable(self.place, why) from None
        except OSError as error:
            self.generation = None
            raise unavailable(self.place, f"cannot be read ({_why(error)})") from None
        return self._value


def _load(path: Path, place: str) -> tuple[bytes, tuple[int, ...]]:
    # Non-blocking, so that a FIFO in the file's place cannot stop the worker.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise unavailable(place, "is not a regular file")
        value = file.read(MAX_VALUE + 1)
    if len(value) > MAX_VALUE:
        raise unavailable(place, f"is larger than {MAX_VALUE >> 10} KiB")
    return without_line_break(value), _stamp(status)


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _why(error: OSError) -> str:
    return error.strerror or type(error).__name__
