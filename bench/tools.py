"""What the benchmark builds once into .cache: the load generator, the Go server that does nothing, mitmproxy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench.processes import CACHE, ROOT

BENCH = ROOT / "bench"


def load_tool() -> list[str]:
    """The command of the load generator and upstream: Go's where Go is, else the slower one in Python."""
    if binary := _go("load"):
        return [str(binary)]
    return [sys.executable, "-m", "bench.load"]


def noop_go() -> Path | None:
    return _go("noop_go")


def _go(name: str) -> Path | None:
    if shutil.which("go") is None:
        return None
    binary = CACHE / "bin" / name
    sources = [p for p in (BENCH / name).iterdir() if p.is_file()]
    if binary.exists() and binary.stat().st_mtime > max(p.stat().st_mtime for p in sources):
        return binary
    print(f"==> building bench/{name} with Go", flush=True)
    env = {
        **os.environ,
        "GOCACHE": str(CACHE / "go-build"),
        "GOMODCACHE": str(CACHE / "go-mod"),
        "GOFLAGS": "-modcacherw -buildvcs=false",
    }
    try:
        subprocess.run(["go", "build", "-o", binary, "."], cwd=BENCH / name, env=env, check=True)
    except subprocess.CalledProcessError:
        print(f"==> bench/{name} could not be built; going on without it", flush=True)
        return None
    return binary


def mitmdump() -> Path:
    """mitmproxy in an environment of its own (its pins clash with ours), from bench/mitmproxy.lock with hashes."""
    folder = CACHE / "mitmproxy"
    stamp = folder / "lock"
    lock = BENCH / "mitmproxy.lock"
    if not (stamp.exists() and stamp.read_bytes() == lock.read_bytes()):
        print("==> installing mitmproxy into .cache/mitmproxy (about 30 MB)", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        uv = Path(sys.executable).parent / "uv"
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
        install = ["pip", "install", "--quiet", "--require-hashes", "--no-deps", "--requirement", str(lock)]
        subprocess.run([uv, *install, "--python", folder / "bin" / "python"], check=True)
        stamp.write_bytes(lock.read_bytes())
    return folder / "bin" / "mitmdump"
