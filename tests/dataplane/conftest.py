"""Fixtures of tests on the full stack: an issuer, and servers in the background, for a whole module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.dataplane.background import Background
from tests.issuer import LoopbackIssuer


@pytest.fixture(scope="module")
def issuer() -> Iterator[LoopbackIssuer]:
    with LoopbackIssuer() as running:
        yield running


@pytest.fixture(scope="module")
def servers() -> Iterator[Background]:
    with Background() as running:
        yield running
