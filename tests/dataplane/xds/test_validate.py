"""Envoy's own `--mode validate` over what is built."""

from __future__ import annotations

from pathlib import Path

import pytest

from ext_proc.errors import ConfigError
from ext_proc.xds import Envoy
from tests.dataplane.envoy_process import config

pytestmark = pytest.mark.dataplane
GOOD = """
version: 1
gate: {tls_listen: "127.0.0.1:15443", workers: 2}
connections:
  a: {listen: "127.0.0.1:15001", hosts: [a.example.com, b.example.com], upstream: "https://a.example.com/base"}
  b: {listen: "[::1]:15002", upstream: "http://127.0.0.1:9", upstream_http2: true}
  c: {hosts: [c.example.com], upstream: "https://c.example.com", upstream_ca_file: "CA"}
"""


def test_what_is_built_is_valid_and_what_is_not_is_told(tmp_path: Path) -> None:
    envoy = Envoy.find()
    authority = tmp_path / "CA"
    authority.write_text("no certificate")
    with pytest.raises(ConfigError, match="CA") as caught:
        envoy.validate(config(GOOD, tmp_path))
    assert caught.value.reason == "envoy.refused"
    good = GOOD.replace(', upstream_ca_file: "CA"', "")
    for more in ("", "masking: {response: client}"):
        envoy.validate(config(good + more, tmp_path))
