"""Recorded third-party traffic, mostly benign: what is masked in it must be a secret's field."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from ext_proc.config.models import Masking
from ext_proc.exchange import Headers
from ext_proc.masking import Masker
from ext_proc.pb import journal_pb2

pytestmark = [
    pytest.mark.corpus,
    pytest.mark.skipif("DOUANE_CORPUS" not in os.environ, reason="DOUANE_CORPUS is not set"),
]
SECRET_NAMED = re.compile(rb"(?i)(pass|secret|token|key|auth|credential|pwd)[a-z0-9_-]*[\\\"']*\s*[:=]\s*[\\\"']*$")


def pairs() -> Iterator[dict[str, Any]]:
    for name in ("datadog-client", "datadog-terraform"):
        with gzip.open(Path(os.environ["DOUANE_CORPUS"]) / f"{name}.jsonl.gz", "rt") as lines:
            yield from map(json.loads, lines)


def body(pair: dict[str, Any], side: str) -> bytes:
    raw = pair[f"{side}_body"] or ""
    return base64.b64decode(raw) if pair.get(f"{side}_body_b64") else raw.encode()


def test_benign_traffic_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    masker = Masker(Masking(), b"k" * 32, 1 << 28)
    count = touched = unnamed = bytes_in = bytes_masked = 0
    for pair in pairs():
        exchange = masker.exchange()
        contexts: list[bytes] = []
        url = urlsplit(pair["url"])
        for place, text in (("path", url.path), ("query", url.query)):
            stored, masks = exchange.text(place, text)
            contexts += [stored.encode()[: m.start] for m in masks]
        for side, direction in (("request", journal_pb2.REQUEST), ("response", journal_pb2.RESPONSE)):
            fields = Headers([(n.lower(), str(v).encode()) for n, v in pair[f"{side}_headers"]])
            _, masks = exchange.headers(side, fields)
            contexts += [
                fields.items[m.index][0].encode() + b": " for m in masks if m.detector not in ("cookie", "set-cookie")
            ]
            sent = body(pair, side)
            coding = (fields.first("content-encoding") or b"") if side == "request" else b""
            step = exchange.body(direction, fields.first("content-type") or b"", coding).feed(sent, last=True)
            assert step.release == sent
            if not step.masks:
                assert step.record == sent
            contexts += [step.record[max(0, m.start - 60) : m.start] for m in step.masks]
            bytes_in += len(sent)
            bytes_masked += sum(m.original_length for m in step.masks)
        count += 1
        touched += bool(contexts)
        unnamed += any(not SECRET_NAMED.search(c) for c in contexts)
    with capsys.disabled():
        print(
            f"\n{count} exchanges: {touched / count:.2%} touched, {unnamed / count:.3%} where no field is named so, "
            f"{bytes_masked / bytes_in:.4%} of {bytes_in} body bytes masked"
        )
    assert touched / count <= 0.02
    assert unnamed / count <= 0.005


def test_labelled_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    masker = Masker(Masking(), b"k" * 32, 1 << 28)
    scanner = masker.exchange()
    found: dict[str, list[bool]] = {}
    with gzip.open(Path(os.environ["DOUANE_CORPUS"]) / "secrets.jsonl.gz", "rt") as lines:
        for row in map(json.loads, lines):
            if row["label"] != "pos" or row.get("ambiguous") or row.get("needs_path"):
                continue
            _, spans = scanner.whole_text(row["text"])
            for start, end in row["spans"]:
                covered = sum(max(0, min(end, b) - max(start, a)) for a, b, _ in spans)
                found.setdefault(row["source"], []).append(covered >= 0.8 * (end - start))
    recall = {source: sum(hits) / len(hits) for source, hits in found.items()}
    with capsys.disabled():
        print(f"\nrecall: {', '.join(f'{s} {r:.2f}' for s, r in sorted(recall.items()))}")
    assert recall["gitleaks"] >= 0.80
    assert recall["credsweeper"] >= 0.65
    assert recall["detect-secrets"] >= 0.45
