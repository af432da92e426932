"""Runs a configuration over recorded exchanges: in this process, or in several that share the work."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait

from ext_proc.backtest.judge import Judge
from ext_proc.backtest.ledger import Reader, Selection, Wanted
from ext_proc.backtest.recorded import Recorded
from ext_proc.backtest.tally import Tally, is_judgeable
from ext_proc.backtest.usage import Query
from ext_proc.backtest.values import Shown
from ext_proc.backtest.windows import Window
from ext_proc.config import Config
from ext_proc.errors import DouaneError

WORTH_SHARING = 5_000
"""Fewer exchanges are done before a second process has begun."""

Done = Callable[[int], None]
"""Told how many more exchanges were read."""


@dataclass(frozen=True, slots=True)
class Job:
    """The part of one process. `query` makes its own connection to the store."""

    config: Config
    query: Callable[[], Query]
    selection: Selection
    wanted: Wanted
    windows: tuple[Window, ...]
    share: tuple[int, int]
    examples: int


def over(exchanges: Iterable[Recorded], judge: Judge, shown: Shown, tally: Tally) -> Tally:
    """Judge exchanges, each session's in order of time, and add them to `tally`."""
    for recorded in exchanges:
        if is_judgeable(recorded):
            tally.add(recorded, judge.decide(recorded), shown)
        else:
            tally.leave_out(recorded)
    return tally


def over_ledger(
    config: Config,
    query: Callable[[], Query],
    selection: Selection,
    windows: Iterable[Window],
    *,
    examples: int,
    processes: int,
    done: Done = lambda _: None,
) -> Tally:
    """Judge what is in the windows. With several processes, each has some of the windows; where sessions are counted,
    some of the sessions, so that their order holds."""
    judge = Judge(config)
    wanted = Wanted.by(judge.looks_at, responses=judge.looks_at_responses)
    all_ = tuple(windows)
    job = Job(config, query, selection, wanted, all_, (0, 1), examples)
    total = Tally(examples)
    parts: Iterator[tuple[Tally, int]]
    if processes == 1 or sum(window.count for window in all_) < WORTH_SHARING:
        parts = _work(job, judge)
    elif judge.counts_sessions:
        parts = _shared([replace(job, share=(n, processes)) for n in range(processes)])
    else:
        parts = _shared([replace(job, windows=all_[n::processes]) for n in range(processes)])
    for tally, read in parts:
        total.merge(tally)
        done(read)
    return total


def _work(job: Job, judge: Judge) -> Iterator[tuple[Tally, int]]:
    """A tally for each window, and how many exchanges it had."""
    reader = Reader(job.query(), job.selection, job.wanted, job.share)
    shown = Shown(job.config)
    for window in job.windows:
        tally = over(reader.read(window), judge, shown, Tally(job.examples))
        yield tally, tally.seen + tally.left_out.total()


def _shared(jobs: list[Job]) -> Iterator[tuple[Tally, int]]:
    """Run each job in a process of its own. The first fault of one ends all."""
    context = multiprocessing.get_context("spawn")  # the store's client has threads, which a fork would break
    processes = {}
    for job in jobs:
        mine, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_process, args=(job, theirs), daemon=True)
        process.start()
        theirs.close()
        processes[mine] = process
    try:
        while processes:
            for connection in wait(list(processes)):
                assert isinstance(connection, Connection)
                try:
                    message = connection.recv()
                except EOFError:
                    message = _Fault("policy.test_process", "a process of this test ended early", "Run it again.")
                if message is None:
                    processes.pop(connection).join()
                elif isinstance(message, _Fault):
                    raise DouaneError(message.reason, message.message, remedy=message.remedy)
                else:
                    yield message
    finally:
        for process in processes.values():
            process.terminate()
            process.join()


@dataclass(frozen=True, slots=True)
class _Fault:
    """An error on its way from one process to another."""

    reason: str
    message: str
    remedy: str


def _process(job: Job, out: Connection) -> None:
    with suppress(BrokenPipeError, KeyboardInterrupt):
        try:
            for part in _work(job, Judge(job.config)):
                out.send(part)
            out.send(None)
        except DouaneError as error:
            out.send(_Fault(error.reason, error.message, error.remedy))
