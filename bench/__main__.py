"""`python -m bench`: every subject in one run, in turns, so that what else the machine does falls on all alike."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict

from bench import report, tools
from bench.processes import ROOT, Group, cpu_seconds, memory
from bench.report import Sample
from bench.subjects import Running, Subject, available

SIZES = (1024, 102_400)
CONNECTIONS = (1, 32)
QUIET_LIMIT_S = 30.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5, help="measured time of each run (default 5)")
    parser.add_argument("--warmup", type=float, default=1, help="unmeasured time before it (default 1)")
    parser.add_argument("--rounds", type=int, default=3, help="turns each subject gets; medians are shown (default 3)")
    parser.add_argument("--workers", type=int, default=1, help="workers of every subject (default 1)")
    parser.add_argument("--only", nargs="+", metavar="SUBJECT", help="envoy noop-python noop-go douane mitmproxy")
    options = parser.parse_args()

    load = tools.load_tool()
    subjects = [s for s in available() if not options.only or s.name in options.only]
    if not subjects:
        parser.error(f"no subject is named {', '.join(options.only)}")
    busy = os.getloadavg()[0]
    samples: list[Sample] = []
    missing: dict[str, str] = {}
    upstream = subprocess.Popen([*load, "serve"], stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert upstream.stdout is not None
        port = int(upstream.stdout.readline())
        for turn in range(options.rounds):
            samples += _ceiling(load, port, turn, options.seconds)
            order = subjects[turn % len(subjects) :] + subjects[: turn % len(subjects)]
            for subject in order:
                if subject.name in missing:
                    continue
                print(f"\n==> round {turn + 1} of {options.rounds}: {subject.title}", flush=True)
                try:
                    with subject.start(port, options.workers) as running:
                        samples += _measure(load, subject, running, turn, options.seconds, options.warmup)
                except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                    missing[subject.name] = str(error)
                    print(f"    not measured: {error}", flush=True)
    finally:
        upstream.kill()
        upstream.wait()

    text = report.section(samples, missing, options.workers, options.seconds, load, sys.argv[1:], busy)
    out = ROOT / "bench" / "out"
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps([asdict(s) for s in samples], indent=1))
    (out / "section.md").write_text(text)
    print(f"\n{text}\nSaved: bench/out/results.json, and this section as bench/out/section.md")
    return 1 if missing else 0


def _ceiling(load: Sequence[str], port: int, turn: int, seconds: float) -> list[Sample]:
    """The load generator against the upstream itself: no subject can be measured above this."""
    with Group(ROOT) as nobody:
        direct = Running(f"http://127.0.0.1:{port}", nobody)
        subject = Subject(report.DIRECT, "No proxy: the limit of the load generator", lambda *_: nullcontext(direct))
        return _measure(load, subject, direct, turn, min(seconds, 2), 0.2)


def _measure(
    load: Sequence[str], subject: Subject, running: Running, turn: int, seconds: float, warmup: float
) -> list[Sample]:
    samples = []
    for size in SIZES:
        for connections in CONNECTIONS:
            pids = running.group.pids()
            before = cpu_seconds(pids)
            command = [
                *load,
                "run",
                f"-url={running.url}",
                f"-size={size}",
                f"-connections={connections}",
                f"-warmup={warmup}s",
                f"-duration={seconds}s",
                *(f"-header={header}" for header in running.headers),
            ]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT, timeout=60 + seconds + warmup)
            result = json.loads(done.stdout)
            running.group.check()
            used = memory(running.group.pids())
            drained = _until_quiet(running.group)
            after = cpu_seconds(running.group.pids())
            answered = max(result["all"], 1)
            cpu = {name: (spent - before.get(name, 0.0)) / answered * 1e6 for name, spent in after.items()}
            sample = Sample(
                subject=subject.name,
                title=subject.title,
                turn=turn,
                size=size,
                connections=connections,
                per_second=result["requests_per_second"],
                p50_ms=result["p50_ms"],
                p99_ms=result["p99_ms"],
                cpu_us=sum(cpu.values()),
                cpu_us_by_process={name: round(spent) for name, spent in cpu.items()},
                pss_bytes=used.pss,
                rss_bytes=dict(used.rss),
                drained_s=drained,
                errors=result["errors"],
            )
            samples.append(sample)
            print(f"    {report.line(sample)}", flush=True)
    return samples


def _until_quiet(group: Group) -> float:
    """Seconds until the subject uses under 5 % of a core: work put off belongs to the requests that caused it, and
    must not slow the next run."""
    start = time.monotonic()
    while (waited := time.monotonic() - start) < QUIET_LIMIT_S:
        before = sum(cpu_seconds(group.pids()).values())
        time.sleep(0.4)
        if sum(cpu_seconds(group.pids()).values()) - before <= 0.02:
            return waited
    return waited


if __name__ == "__main__":
    sys.exit(main())
