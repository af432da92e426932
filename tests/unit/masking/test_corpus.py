"""What masking finds in labelled secrets, and what it masks in recorded traffic, which is mostly benign."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench import labelled
from bench.labelled import Score
from ext_proc.config.models import Masking
from ext_proc.masking import ExchangeMasker, Masker

pytestmark = [
    pytest.mark.corpus,
    pytest.mark.skipif("DOUANE_CORPUS" not in os.environ, reason="DOUANE_CORPUS is not set"),
]
LEAST_FOUND = {"credsweeper": 0.90, "detect-secrets": 0.90, "gitleaks": 0.97, "gitleaks template": 0.97}


@pytest.fixture(scope="module")
def masker() -> ExchangeMasker:
    return Masker(Masking(), b"k" * 32, 1 << 28).exchange()


def corpus() -> Path:
    return Path(os.environ["DOUANE_CORPUS"])


def test_benign_traffic_is_left_alone(masker: ExchangeMasker) -> None:
    count = labelled.traffic(corpus(), masker)
    assert count.exchanges == 8706
    assert count.touched / count.exchanges <= 0.02
    assert count.unnamed / count.exchanges <= 0.005


def test_labelled_secrets(masker: ExchangeMasker) -> None:
    scores = labelled.scores(corpus(), masker)
    by_source = {source: scores[source, True] + scores[source, False] for source, _ in scores}
    assert {s: round(by_source[s].recall, 3) for s in LEAST_FOUND if by_source[s].recall < LEAST_FOUND[s]} == {}
    assert sum(by_source.values(), Score()).false_alarms <= 0.15


def test_what_the_rules_were_not_tuned_on(masker: ExchangeMasker) -> None:
    other = {source: s for (source, half), s in labelled.scores(corpus(), masker).items() if not half}
    assert {s: round(other[s].recall, 3) for s in LEAST_FOUND if other[s].recall < LEAST_FOUND[s] - 0.02} == {}
    assert sum(other.values(), Score()).false_alarms <= 0.18
