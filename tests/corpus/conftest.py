"""Recorded third-party traffic lies outside of the repository: `DOUANE_CORPUS` names its folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def corpus() -> Path:
    folder = os.environ.get("DOUANE_CORPUS")
    if not folder:
        pytest.skip("DOUANE_CORPUS is unset")
    return Path(folder).resolve()
