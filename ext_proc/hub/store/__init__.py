"""`douane store`: ClickHouse's HTTP interface over chDB, so that every reader speaks to it as to a server.

A process of its own, the only one that imports chdb (some 300 MB). Importing this package imports nothing heavy:
the hub and the CLI take `access` from here. Start the process with spawn, never fork.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from ext_proc.config.models import Store

__all__ = ["serve"]


def serve(store_config: Store, path: Path) -> None:
    """Serve the ledger in `path` on `store_config.listen` until SIGTERM or SIGINT; then answer what is open, and close.

    The folder is made if missing, with the passwords of both users. StoreError: `store.locked` (another process has
    it), `store.unreadable` (the engine refuses the folder), `store.listen` (the port is taken), `store.path`
    (the folder's name).
    """
    from ext_proc.hub.store.server import run

    run(store_config.listen, path)
