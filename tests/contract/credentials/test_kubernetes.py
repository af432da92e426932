"""Mounted Secrets, swapped as the kubelet swaps them: a new folder, and a link that is replaced at once."""

from __future__ import annotations

import asyncio
import itertools
import threading
from pathlib import Path

import pytest

from ext_proc.config import Credential
from ext_proc.credentials import Credentials, Injection
from ext_proc.errors import CredentialError


class Mount:
    """What the kubelet does (its atomic_writer.go): write `..TIMESTAMP`, then rename a link over `..data`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._count = itertools.count()

    def write(self, **keys: str) -> None:
        folder = self.path / f"..2026_{next(self._count)}"
        folder.mkdir()
        for name, value in keys.items():
            (folder / name).write_text(value)
        (self.path / "..data_tmp").symlink_to(folder.name)
        old = (self.path / "..data").readlink() if (self.path / "..data").is_symlink() else None
        (self.path / "..data_tmp").replace(self.path / "..data")
        for name in keys:
            link = self.path / name
            if not link.is_symlink():
                link.symlink_to(f"..data/{name}")
        if old is not None:
            for file in (self.path / old).iterdir():
                file.unlink()
            (self.path / old).rmdir()


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    return Mount(tmp_path)


def made(mount: Mount, *keys: str) -> Credentials:
    return Credentials(
        [
            Credential.model_validate(
                {"header": f"x-{key}", "from": {"kubernetes": {"mount": str(mount.path), "key": key}}}
            )
            for key in keys
        ]
    )


async def values(credentials: Credentials) -> list[str]:
    return [one.secret.decode() for one in await credentials.resolve() if isinstance(one, Injection)]


async def test_a_swap_is_seen_and_the_old_value_stays_known(mount: Mount) -> None:
    mount.write(api="a1\n", app="b1")
    credentials = made(mount, "api", "app")
    assert await values(credentials) == ["a1", "b1"]
    mount.write(api="a2", app="b2")
    assert await values(credentials) == ["a2", "b2"]
    assert {value for _, value in credentials.known()} == {b"a1", b"b1", b"a2", b"b2"}


async def test_keys_are_of_one_version_however_fast_it_is_swapped(mount: Mount) -> None:
    mount.write(api="0", app="0", third="0")
    stop = threading.Event()

    def swap() -> None:
        for n in itertools.count(1):
            if stop.is_set():
                return
            mount.write(api=str(n), app=str(n), third=str(n))
            stop.wait(0.002)

    credentials = made(mount, "api", "app", "third")
    swapping = threading.Thread(target=swap)
    swapping.start()
    seen = set()
    try:
        for _ in range(300):
            try:
                found = await values(credentials)
            except CredentialError as fault:
                assert fault.reason == "credential.unavailable"  # noqa: PT017 (it may happen, and only that)
                continue
            assert len(set(found)) == 1
            seen.add(found[0])
            await asyncio.sleep(0.001)
    finally:
        stop.set()
        swapping.join()
    assert len(seen) > 3


async def test_what_is_not_there(mount: Mount, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "api").write_text("s3cret")
    for path, key, said in ((tmp_path / "plain", "api", "no ..data"), (tmp_path, "none", "no ..data")):
        with pytest.raises(CredentialError, match=said):
            await values(made(Mount(path), key))
    mount.write(api="s3cret")
    with pytest.raises(CredentialError) as caught:
        await values(made(mount, "none"))
    assert (caught.value.reason, caught.value.http_status) == ("credential.unavailable", 503)
    assert "has no such key" in caught.value.message
