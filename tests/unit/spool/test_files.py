"""A journal's segments: what is left after crashes, full disks and damage."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ext_proc.spool import frames
from ext_proc.spool.files import JournalFiles


def frame(n: int, size: int = 100) -> bytes:
    return frames.encode(bytes([n]) * size)


def numbers(files: JournalFiles) -> list[int]:
    found, offset = [], files.start
    while data := files.read(offset, 1 << 20):
        found += [payload[0] for _, payload in frames.scan(data)]
        offset += len(data)
    return found


def written(folder: Path, count: int = 9, per_segment: int = 3) -> JournalFiles:
    files = JournalFiles(folder, segment_size=per_segment * len(frame(1)))
    for n in range(1, count + 1):
        files.append(frame(n))
    return files


def test_segments_are_named_by_the_offset_at_which_they_begin(tmp_path: Path) -> None:
    files = written(tmp_path / "j")
    files.close()
    assert [int(p.stem) for p in sorted((tmp_path / "j").iterdir())] == [0, 324, 648]
    again = JournalFiles(tmp_path / "j")
    assert (again.start, again.end, again.size) == (0, 972, 972)
    assert numbers(again) == list(range(1, 10))


def test_offsets_survive_that_segments_were_dropped(tmp_path: Path) -> None:
    files = written(tmp_path / "j")
    assert files.drop(500) == 324
    assert files.drop(10_000) == 324  # the last stays
    files.close()
    again = JournalFiles(tmp_path / "j")
    assert (again.start, again.end) == (648, 972)
    assert numbers(again) == [7, 8, 9]
    again.append(frame(10))
    assert numbers(again) == [7, 8, 9, 10]
    again.close()


def test_files_are_private(tmp_path: Path) -> None:
    files = written(tmp_path / "j", 1)
    files.close()
    assert (tmp_path / "j").stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "j").iterdir()} == {0o600}


@pytest.mark.parametrize("torn", [frame(99)[:-1], frame(99)[:5], bytes(4096), b"\xff" * 64], ids=len)
def test_recovery_cuts_a_torn_tail(tmp_path: Path, torn: bytes) -> None:
    written(tmp_path / "j", 4).close()
    last = max((tmp_path / "j").iterdir())
    with last.open("ab") as file:
        file.write(torn)
    files = JournalFiles(tmp_path / "j")
    assert files.recover(synced=False) == []
    assert numbers(files) == [1, 2, 3, 4]
    assert last.stat().st_size == len(frame(1))
    assert files.end == 4 * len(frame(1))


def test_recovery_keeps_aside_what_cannot_follow_any_more(tmp_path: Path) -> None:
    written(tmp_path / "j").close()
    middle = sorted((tmp_path / "j").iterdir())[1]
    damaged = bytearray(middle.read_bytes())
    damaged[len(frame(1)) + 20] ^= 1
    middle.write_bytes(damaged)
    files = JournalFiles(tmp_path / "j")
    aside = files.recover(synced=False)
    assert [p.name for p in aside] == ["00000000000000000648.corrupt"]
    assert numbers(files) == [1, 2, 3, 4]
    files.remove()
    assert [p.name for p in (tmp_path / "j").iterdir()] == ["00000000000000000648.corrupt"]


def test_recovery_keeps_aside_what_follows_a_missing_segment(tmp_path: Path) -> None:
    written(tmp_path / "j").close()
    sorted((tmp_path / "j").iterdir())[1].unlink()
    files = JournalFiles(tmp_path / "j")
    assert files.end == 324
    assert [p.suffix for p in files.recover(synced=True)] == [".corrupt"]
    assert numbers(files) == [1, 2, 3]


def test_bytes_of_a_failed_write_never_count_even_when_they_cannot_be_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = JournalFiles(tmp_path / "j")
    files.append(frame(1))
    real = os.write

    def half(fd: int, data: bytes) -> int:
        if len(data) == len(frame(2)):
            return real(fd, data[:50])
        raise OSError(errno.ENOSPC, "No space left on device")

    def no_truncate(fd: int, size: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        patch.setattr(os, "ftruncate", no_truncate)
        with pytest.raises(OSError, match="No space"):
            files.append(frame(2))
    files.append(frame(3))
    assert numbers(files) == [1, 3]
    files.close()
    again = JournalFiles(tmp_path / "j")
    again.recover(synced=False)
    assert numbers(again) == [1, 3]


def test_sync_covers_segments_that_were_rolled_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fdatasync

    def note(fd: int) -> None:
        synced.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", note)
    files = JournalFiles(tmp_path / "j", segment_size=2 * len(frame(1)))
    files.keep_for_sync()
    for n in range(5):
        files.append(frame(n))
    assert files.sync() == files.end
    assert [int(name.split(".")[0]) for name in synced] == [0, 216, 432]
    synced.clear()
    files.append(frame(6))
    files.sync()
    assert len(synced) == 1
    files.close()


def test_reads_outside_of_the_journal_are_errors(tmp_path: Path) -> None:
    files = written(tmp_path / "j")
    files.drop(400)
    for offset in (0, files.end + 1):
        with pytest.raises(ValueError, match="holds offsets"):
            files.read(offset, 100)
    assert files.read(files.end, 100) == b""
    assert len(files.read(324, 1 << 20, end=432)) == len(frame(1))
    files.close()
