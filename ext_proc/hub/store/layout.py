"""The store's folder: what lies where, the engine's configuration files, the lock.

STORE/lock                held while a process serves it; holds its process id
STORE/writer.password     mode 0600, as auditor.password
STORE/engine.xml          generated at each start, as users.xml
STORE/data/               chDB's
STORE/tmp/                sorts and joins that exceed memory spill here; emptied at each start
"""

from __future__ import annotations

import fcntl
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from ext_proc.errors import StoreError
from ext_proc.hub.store.guard import DATABASE, INFORMATION_SCHEMA_TABLES, SYSTEM_TABLES

# What the one engine user may do, below whatever the guard allows: no file, no network, no DROP or DELETE.
# DROP VIEW only because CREATE OR REPLACE VIEW asks for it; the guard refuses the statement itself.
_PRIVILEGES = (
    "SELECT, INSERT, SHOW, CREATE DATABASE, CREATE TABLE, CREATE VIEW, DROP VIEW, ALTER VIEW MODIFY QUERY, ALTER TTL, "
    "ALTER MATERIALIZE TTL, ALTER SETTINGS, ALTER ADD COLUMN, ALTER COMMENT COLUMN, ALTER MATERIALIZE COLUMN, "
    "ALTER ADD INDEX, ALTER MATERIALIZE INDEX, ALTER ADD PROJECTION, ALTER MATERIALIZE PROJECTION, "
    "ALTER ADD CONSTRAINT, ALTER MODIFY COMMENT"
)


@dataclass(frozen=True, slots=True)
class Layout:
    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    @property
    def engine_file(self) -> Path:
        return self.root / "engine.xml"

    def prepare(self, server_memory: int) -> None:
        """Make the folders, sweep what a killed process left in `tmp`, write the engine's configuration."""
        self.data.mkdir(mode=0o700, exist_ok=True)
        shutil.rmtree(self.tmp, ignore_errors=True)
        self.tmp.mkdir(mode=0o700)
        users = self.root / "users.xml"
        users.write_text(_users_xml(), encoding="utf-8")
        self.engine_file.write_text(_engine_xml(users, self.tmp, server_memory), encoding="utf-8")

    def lock(self) -> int:
        """Hold the folder until the descriptor is closed. StoreError `store.locked` if another process has it."""
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise StoreError(
                "store.locked",
                f"the store in {self.root} is in use by " + (f"process {holder}" if holder else "another process"),
                remedy="One process owns a store: stop the other `douane up` or `douane store`, "
                "or read the ledger over HTTP (store.listen) instead.",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return descriptor


def _engine_xml(users: Path, tmp: Path, server_memory: int) -> str:
    return f"""<clickhouse>
  <users_config>{escape(str(users))}</users_config>
  <tmp_path>{escape(str(tmp))}/</tmp_path>
  <user_files_path>{escape(str(tmp))}/</user_files_path>
  <display_name>douane</display_name>
  <timezone>UTC</timezone>
  <max_server_memory_usage>{server_memory}</max_server_memory_usage>
  <mark_cache_size>67108864</mark_cache_size>
  <uncompressed_cache_size>0</uncompressed_cache_size>
  <background_pool_size>2</background_pool_size>
  <background_schedule_pool_size>2</background_schedule_pool_size>
  <remote_url_allow_hosts/>
  <send_crash_reports><enabled>false</enabled></send_crash_reports>
  <access_control_improvements>
    <select_from_system_db_requires_grant>true</select_from_system_db_requires_grant>
    <select_from_information_schema_requires_grant>true</select_from_information_schema_requires_grant>
  </access_control_improvements>
</clickhouse>
"""


def _users_xml() -> str:
    tables = [f"system.{name}" for name in sorted(SYSTEM_TABLES | {"processes"})]
    for database in ("information_schema", "INFORMATION_SCHEMA"):
        tables += [f"{database}.{name}" for name in sorted(INFORMATION_SCHEMA_TABLES)]
    grants = [f"GRANT {_PRIVILEGES} ON {DATABASE}.*", *(f"GRANT SELECT ON {table}" for table in tables)]
    queries = "\n        ".join(f"<query>{grant}</query>" for grant in grants)
    return f"""<clickhouse>
  <profiles><default/></profiles>
  <quotas><default/></quotas>
  <users>
    <default>
      <password/>
      <networks><ip>::/0</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
      <grants>
        {queries}
      </grants>
    </default>
  </users>
</clickhouse>
"""
