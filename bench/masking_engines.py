"""Which engine finds the anchors of secrets: hyperscan, google-re2, or `re`? Run: python -m bench.masking_engines

Prints a table: time for a 1 KB body, MB/s on 1 MB of JSON, time to compile, memory added. Each engine looks for the
same literals (`Detectors`), and hits are then judged by the same Python code, so only the search differs. google-re2
is no dependency of Douane; its row is left out where it is not installed.
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ext_proc.config.models import Masking
from ext_proc.masking.catalog import DEFAULT
from ext_proc.masking.names import KEYWORDS

Search = Callable[[bytes], int]


def literals() -> list[tuple[bytes, bool]]:
    """What detectors with a literal begin with, the keywords, and whether case is ignored."""
    found = [(begin.encode(), t.caseless) for d in DEFAULT for begin, t in zip(d.begins, d.triggers, strict=False)]
    return found + [(keyword, True) for keyword in KEYWORDS]


def sample(size: int) -> bytes:
    """A dashboard's JSON of at least `size` bytes, with a keyword now and then, as API traffic has."""
    widget = {
        "id": 3141592653589793,
        "definition": {
            "type": "timeseries",
            "title": "CPU by host",
            "requests": [{"q": "avg:system.cpu.user{env:prod} by {host}", "display_type": "line"}],
            "custom_links": [{"label": "logs", "link": "https://example.com/logs?query=service%3Aweb"}],
        },
        "token_count": 12,
    }
    one = json.dumps(widget).encode()
    return b"[" + b", ".join([one] * (size // len(one) + 1)) + b"]"


def with_hyperscan() -> Search:
    import hyperscan

    database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    words = literals()
    flags = [hyperscan.HS_FLAG_CASELESS if caseless else 0 for _, caseless in words]
    database.compile([w for w, _ in words], ids=list(range(len(words))), flags=flags, literal=True)

    def search(text: bytes) -> int:
        hits: list[int] = []
        database.scan(text, match_event_handler=lambda i, _s, _e, _f, _c: hits.append(i))
        return len(hits)

    return search


def _alternatives() -> bytes:
    return b"|".join((b"(?i:%s)" if caseless else b"%s") % re.escape(word) for word, caseless in literals())


def with_re2() -> Search:
    pattern = importlib.import_module("re2").compile(_alternatives())
    return lambda text: sum(1 for _ in pattern.finditer(text))


def with_re() -> Search:
    pattern = re.compile(_alternatives())
    return lambda text: sum(1 for _ in pattern.finditer(text))


def with_find() -> Search:
    exact = [w for w, caseless in literals() if not caseless]
    lower = [w.lower() for w, caseless in literals() if caseless]

    def search(text: bytes) -> int:
        lowered = text.lower()
        return sum(text.count(w) for w in exact) + sum(lowered.count(w) for w in lower)

    return search


def whole() -> Search:
    from ext_proc.masking import Known, Masker
    from ext_proc.pb import journal_pb2

    masker = Masker(Masking(), b"k" * 32, 1 << 28)
    known = [Known("token", b"eyJhbGciOiJSUzI1NiJ9." + b"x" * 900), Known("credential", b"0123456789abcdef" * 2, True)]

    def search(text: bytes) -> int:
        body = masker.exchange(known).body(journal_pb2.REQUEST, b"application/json", b"")
        return len(body.feed(text, last=True).masks)

    return search


ENGINES = {
    "hyperscan": with_hyperscan,
    "re2": with_re2,
    "re": with_re,
    "bytes.count": with_find,
    "all of masking": whole,
}


def resident() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS in /proc/self/status")


def best(search: Search, text: bytes, seconds: float = 1.0) -> float:
    """The quickest of the runs that fit into `seconds`, in seconds."""
    quickest = float("inf")
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        start = time.perf_counter()
        search(text)
        quickest = min(quickest, time.perf_counter() - start)
    return quickest


def measure(name: str) -> None:
    before = resident()
    start = time.perf_counter()
    try:
        search = ENGINES[name]()
    except ModuleNotFoundError as missing:
        print(f"{name:16} not installed ({missing.name})")
        return
    search(b"warm")
    compiled = time.perf_counter() - start
    memory = resident() - before
    small, large = sample(900), sample(1 << 20)
    bulk = len(large) / best(search, large) / 1e6
    print(f"{name:16} {best(search, small) * 1e6:10.1f} {bulk:12.0f} {compiled * 1e3:12.1f} {memory:10.1f}")


def main() -> None:
    if len(sys.argv) > 1:
        measure(sys.argv[1])
        return
    print(f"{len(literals())} literals")
    print(f"{'engine':16} {'1 KB, us':>10} {'1 MB, MB/s':>12} {'compile, ms':>12} {'RSS, MB':>10}")
    for name in ENGINES:  # a process each, so that memory is told apart
        print(subprocess.check_output([sys.executable, "-m", "bench.masking_engines", name], text=True), end="")


if __name__ == "__main__":
    main()
