"""What survives: SIGKILL in the middle of inserts, restarts, a second process on the folder, broken parts."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest
import urllib3

from tests.clickhouse.store.conftest import StoreProcess

TABLE = (
    "CREATE TABLE IF NOT EXISTS t (batch UInt32, n UInt32, body String) ENGINE = MergeTree ORDER BY (batch, n) "
    "SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1"
)
ROWS = 500


@pytest.mark.slow
def test_no_acknowledged_batch_is_lost_or_doubled_by_sigkill(fresh_store: StoreProcess) -> None:
    store = fresh_store
    store.start()
    store.do(TABLE)
    acknowledged: set[int] = set()
    batch = 0
    for round_number in range(10):
        killer = threading.Timer(0.15 + 0.03 * round_number, lambda: store.stop(signal.SIGKILL))
        killer.start()
        while killer.is_alive() or (store.process is not None and store.process.poll() is None):
            if _insert(store, batch):
                acknowledged.add(batch)
                batch += 1
            else:
                break
        killer.join()
        assert store.process is not None
        store.process.wait(10)
        store.start()
        # The batch whose answer never came is sent again, as the hub does, under the same token.
        assert _insert(store, batch)
        acknowledged.add(batch)
        batch += 1
    counts = {int(b): int(n) for b, n in store.rows("SELECT batch, count() FROM t GROUP BY batch ORDER BY batch")}
    assert counts == dict.fromkeys(sorted(acknowledged), ROWS)
    assert len(acknowledged) > 20
    assert store.stop() == 0


def _insert(store: StoreProcess, batch: int) -> bool:
    rows = b"".join(b"%d\t%d\t%s\n" % (batch, n, b"x" * 200) for n in range(ROWS))
    try:
        answer = store.ask(b"INSERT INTO t FORMAT TSV\n" + rows, user="writer", insert_deduplication_token=f"b{batch}")
    except urllib3.exceptions.HTTPError:
        return False
    return answer.status == 200


def test_second_process_is_told_who_has_the_store(fresh_store: StoreProcess) -> None:
    fresh_store.start()
    assert fresh_store.process is not None
    second = fresh_store.launch()
    assert second.wait(20) == 1
    log = fresh_store.log.read_text()
    assert "store.locked" in log
    assert f"process {fresh_store.process.pid}" in log
    assert "One process owns a store" in log
    assert fresh_store.rows("SELECT 1") == [["1"]]


def test_taken_port_is_named(fresh_store: StoreProcess, store: StoreProcess) -> None:
    fresh_store.port = store.port
    assert fresh_store.launch().wait(20) == 1
    assert "store.listen" in fresh_store.log.read_text()


def test_folder_that_the_engine_cannot_name(fresh_store: StoreProcess) -> None:
    fresh_store.folder = fresh_store.folder.with_name("a?b")
    assert fresh_store.launch().wait(20) == 1
    assert "store.path" in fresh_store.log.read_text()
    assert not fresh_store.folder.exists()


def test_sigterm_ends_cleanly_and_a_restart_finds_everything(fresh_store: StoreProcess) -> None:
    fresh_store.start()
    fresh_store.do(TABLE)
    assert _insert(fresh_store, 1)
    before = (fresh_store.folder / "writer.password").read_text()
    assert fresh_store.stop() == 0
    left = fresh_store.folder / "tmp" / "left.bin"
    left.write_bytes(b"what a killed process left")
    fresh_store.start()
    assert not left.exists()
    assert (fresh_store.folder / "writer.password").read_text() == before
    assert _insert(fresh_store, 1)  # the token is remembered over the restart
    assert fresh_store.rows("SELECT count() FROM t") == [[str(ROWS)]]


def test_sigterm_answers_what_is_open(fresh_store: StoreProcess) -> None:
    fresh_store.start()
    answers: list[list[list[str]]] = []
    sql = "SELECT count() FROM numbers(100000000) WHERE sipHash64(number) = 1"
    asking = threading.Thread(target=lambda: answers.append(fresh_store.rows(sql)))
    asking.start()
    time.sleep(0.2)
    assert fresh_store.process is not None
    fresh_store.process.send_signal(signal.SIGTERM)
    asking.join(20)
    assert answers == [[["0"]]]
    assert fresh_store.process.wait(10) == 0


def test_sigterm_gives_up_a_query_that_goes_on(fresh_store: StoreProcess) -> None:
    fresh_store.start()
    sql = "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1"
    statuses: list[int] = []
    asking = threading.Thread(target=lambda: statuses.append(fresh_store.ask(sql).status))
    asking.start()
    time.sleep(0.3)
    began = time.monotonic()
    assert fresh_store.stop() == 0
    assert time.monotonic() - began < 9
    asking.join(20)
    assert statuses == [500]


def test_broken_part_is_reported(fresh_store: StoreProcess) -> None:
    fresh_store.start()
    fresh_store.do(TABLE)
    for batch in range(2):
        assert _insert(fresh_store, batch)
    fresh_store.stop()
    parts = sorted((fresh_store.folder / "data" / "store").glob("*/*/all_*"))
    assert len(parts) == 2
    for file in parts[0].iterdir():
        if file.name in {"data.bin", "columns.txt"}:
            file.write_bytes(b"broken" + file.read_bytes()[6:])
    fresh_store.start()
    assert fresh_store.rows("SELECT count() FROM t") == [[str(ROWS)]]
    assert "store.detached_parts: 1 part(s) of douane.t" in fresh_store.log.read_text()
    ping = fresh_store.http.request("GET", fresh_store.url + "ping")
    assert ping.data == b"Ok.\n"
    assert ping.headers["X-Douane-Warning"] == "store.detached_parts=1"
    assert fresh_store.rows("SELECT count() FROM system.detached_parts") == [["1"]]


def test_inserts_leave_nothing_in_clear_behind(fresh_store: StoreProcess) -> None:
    """The needle may be in parts (compressed, here too short to be), never in a temporary file."""
    fresh_store.start()
    fresh_store.do("CREATE TABLE c (s String CODEC(ZSTD(3))) ENGINE = MergeTree ORDER BY tuple()")
    seen: set[Path] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            for folder in (fresh_store.folder / "tmp", fresh_store.folder / "data" / "tmp"):
                seen.update(folder.rglob("*"))

    watching = threading.Thread(target=watch)
    watching.start()
    for _ in range(20):
        fresh_store.do(b"INSERT INTO c FORMAT TSV\n" + b"needle\n" * 50_000)
    stop.set()
    watching.join()
    assert seen == set()
