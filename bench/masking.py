"""How well the masking finds secrets, what it masks in ordinary traffic, and how quick it is: `make bench-masking`.

Prints Markdown for bench/RESULTS.md. Needs the recorded corpus in $DOUANE_CORPUS. Times are CPU time of one process, so
that what else the machine does counts less; the quickest of some runs.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import labelled
from bench.labelled import Score
from bench.masking_engines import sample
from ext_proc.config.models import Masking
from ext_proc.errors import DouaneError
from ext_proc.masking import ExchangeMasker, Masker
from ext_proc.pb import journal_pb2

MEGABYTE = 1 << 20
CHUNK = 16 << 10
HOSTILE: dict[str, bytes] = {
    "`sk-sk-sk-`": b"sk-",
    "`password=password=`": b"password=",
    "`://a://a:`": b"://a:",
    "`Bearer Bearer `": b"Bearer ",
    "`-----BEGIN -----BEGIN `": b"-----BEGIN ",
    "`key=key=`": b"key=",
    "names without end": b"x_token_y_secret_z_key_",
    '`"password":"x","token":"`': b'"password":"x","token":"',
    '`if ("a" == `': b'if ("a" == ',
    "base64 of nothing": b"QUFB" * 1024 + b" ",
    "GitHub tokens, 25,000": b"ghp_" + b"aB3d" * 9 + b" ",
    "passwords in JSON, 36,000": b'"password":"h8Kq2LmZx01p",',
}


def main() -> int:
    folder = os.environ.get("DOUANE_CORPUS")
    if not folder:
        print("Set DOUANE_CORPUS to the folder of the recorded corpus.", file=sys.stderr)
        return 2
    masker = Masker(Masking(), b"k" * 32, 1 << 28).exchange()
    recall(labelled.scores(Path(folder), masker))
    traffic = labelled.traffic(Path(folder), masker)
    print("\n### Recorded traffic\n")
    print("| exchanges | with a mask | where no field is named so | bytes masked |\n|---:|---:|---:|---:|")
    print(
        f"| {traffic.exchanges:,} | {traffic.touched / traffic.exchanges:.2%} | "
        f"{traffic.unnamed / traffic.exchanges:.3%} | {traffic.masked / traffic.bodies:.4%} |"
    )
    speed(masker, traffic.responses)
    return 0


def recall(scores: dict[tuple[str, bool], Score]) -> None:
    """Prints what is found, by source and half."""
    print("### Labelled secrets\n")
    print("| source | secrets | found | tuned half | other half | precision | negatives | of these masked |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    total = Score()
    for source in sorted({source for source, _ in scores}):
        mine, others = scores.get((source, True), Score()), scores.get((source, False), Score())
        both = mine + others
        total += both
        negatives = f"{both.negatives} | {both.false_alarms:.3f}" if both.negatives else "- | -"
        print(
            f"| {source} | {both.secrets:,} | {both.recall:.3f} | {mine.recall:.3f} | {others.recall:.3f} | "
            f"{both.precision:.3f} | {negatives} |"
        )
    print(f"| all negatives | | | | | | {total.negatives} | {total.false_alarms:.3f} |")
    halves = [sum((s for (_, half), s in scores.items() if half is which), Score()) for which in (True, False)]
    shares = [f"{half.false_alarms:.3f}" for half in halves]
    print(f"\nOf the negatives, {shares[0]} of the tuned half are masked, {shares[1]} of the other.")


def speed(masker: ExchangeMasker, responses: Sequence[bytes]) -> None:
    """Prints the time that ordinary and hostile bodies take."""
    one = b"[" + b",".join(r for r in responses if r[:1] in b"{[")[:MEGABYTE] + b"]"
    ordinary = {
        f"{len(responses):,} recorded answers, each by itself": responses,
        "recorded answers in 1 MB": [one],
        "1 MB of a dashboard's JSON": [sample(MEGABYTE)],
        "1 KB of it": [sample(900)] * 200,
    }
    print("\n### Time\n\n| body | bytes | us a body | MB/s |\n|---|---:|---:|---:|")
    for name, bodies in ordinary.items():
        size = sum(map(len, bodies))
        took = best(lambda bodies=bodies: [feed(masker, [body]) for body in bodies])  # type: ignore[misc]
        print(f"| {name} | {size:,} | {took / len(bodies) * 1e6:,.1f} | {size / took / 1e6:,.0f} |")
    print("\n| hostile body of 1 MB | ms | in chunks of 16 KB |\n|---|---:|---:|")
    for name, piece in HOSTILE.items():
        text = (piece * (MEGABYTE // len(piece) + 1))[:MEGABYTE]
        chunks = [text[at : at + CHUNK] for at in range(0, MEGABYTE, CHUNK)]
        took = [best(lambda parts=parts: feed(masker, parts)) for parts in ([text], chunks)]  # type: ignore[misc]
        print(f"| {name} | {took[0] * 1e3:,.0f} | {took[1] * 1e3:,.0f} |")


def feed(masker: ExchangeMasker, chunks: Sequence[bytes]) -> None:
    """Masks one body; a refusal is an end as well."""
    body = masker.body(journal_pb2.RESPONSE, b"application/json", b"")
    try:
        for number, chunk in enumerate(chunks, 1):
            body.feed(chunk, number == len(chunks))
    except DouaneError:
        return


def best(run: Callable[[], object], times: int = 3) -> float:
    """CPU seconds of the quickest run."""
    quickest = float("inf")
    for _ in range(times):
        start = time.process_time()
        run()
        quickest = min(quickest, time.process_time() - start)
    return quickest


if __name__ == "__main__":
    sys.exit(main())
