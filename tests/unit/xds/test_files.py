"""The files for Envoy: what is written, kept and taken away."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from ext_proc.config import parse
from ext_proc.errors import ConfigError
from ext_proc.xds import CertificateAuthority, Files, Resources, build, route_name
from ext_proc.xds.naming import CLUSTERS_FILE, DRAIN, LISTENERS_FILE, LONGEST_SILENCE


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def resources(port: int = 80, more: str = "") -> Resources:
    text = (
        'version: 1\ngate: {tls_listen: "127.0.0.1:15443"}\nconnections:\n'
        f'  a: {{listen: "127.0.0.1:15001", hosts: [a.example.com], upstream: "http://127.0.0.1:{port}"}}\n{more}'
    )
    return build(parse(text, "douane.yaml", Path("/")).config)


def cluster(port: int) -> str:
    text = f'version: 1\nconnections: {{a: {{listen: "127.0.0.1:1", upstream: "http://127.0.0.1:{port}"}}}}\n'
    return route_name("a", parse(text, "douane.yaml", Path("/")).config.connections["a"], frozenset())


def test_install_writes_everything_privately_and_removes_what_was_left(tmp_path: Path) -> None:
    files = Files(tmp_path / "run", CertificateAuthority())
    left = tmp_path / "run/envoy/tls/old.example.com.key"
    left.parent.mkdir(parents=True)
    left.touch()
    files.install(resources())
    written = {str(p.relative_to(tmp_path / "run")) for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert written == {
        "ca.pem",
        "douane-ca.pem",
        CLUSTERS_FILE,
        LISTENERS_FILE,
        "envoy/rds/base.a.json",
        "envoy/rds/tls.a.example.com.json",
        "envoy/tls/a.example.com.crt",
        "envoy/tls/a.example.com.key",
    }
    for path in (tmp_path / "run").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    own = (tmp_path / "run/douane-ca.pem").read_bytes()
    assert (tmp_path / "run/ca.pem").read_bytes().endswith(own)


def test_only_what_changed_is_written(tmp_path: Path) -> None:
    files = Files(tmp_path, CertificateAuthority())
    files.install(resources())
    assert files.write(files.render(resources())) == []
    changed = files.write(files.render(resources(81)))
    assert changed == [CLUSTERS_FILE, "envoy/rds/base.a.json", "envoy/rds/tls.a.example.com.json"]


def test_a_version_follows_the_content(tmp_path: Path) -> None:
    files = Files(tmp_path, CertificateAuthority())
    one, same, other = (files.render(resources(port)) for port in (80, 80, 81))
    assert one.versions == same.versions
    assert one.versions[CLUSTERS_FILE] != other.versions[CLUSTERS_FILE]
    assert one.versions[LISTENERS_FILE] == other.versions[LISTENERS_FILE]
    assert f'"versionInfo": "{one.versions[CLUSTERS_FILE]}"' in one.texts[CLUSTERS_FILE]


def test_an_old_cluster_stays_as_long_as_a_hold_may_need_it(tmp_path: Path) -> None:
    clock = Clock()
    files = Files(tmp_path, CertificateAuthority(), clock=clock)
    files.install(resources(80))
    files.keep(files.render(resources(80)))
    files.keep(files.render(resources(81)))
    clock.now += LONGEST_SILENCE.total_seconds() / 2
    third = files.render(resources(82))
    assert {cluster(port) for port in (80, 81, 82)} < set(third.clusters)
    files.keep(third)
    clock.now += LONGEST_SILENCE.total_seconds() * 2 / 3
    names = set(files.render(resources(82)).clusters)
    assert cluster(80) not in names
    assert cluster(81) in names


def test_an_old_cluster_that_is_named_again_is_the_new_one(tmp_path: Path) -> None:
    files = Files(tmp_path, CertificateAuthority())
    files.install(resources(80))
    for port in (80, 81, 80):
        files.keep(files.render(resources(port)))
    assert set(files.good.retired) == {cluster(81)}


def test_a_route_table_stays_as_long_as_its_listener_drains(tmp_path: Path) -> None:
    """Envoy watches it until then, and a missing file would be a refusal at every later change."""
    clock = Clock()
    files = Files(tmp_path, CertificateAuthority(), clock=clock)
    files.install(resources(80))
    files.keep(files.render(resources(80)))
    gone = tmp_path / "envoy/rds/base.gone.json"
    gone.touch()
    files.keep(files.good)
    clock.now += DRAIN.total_seconds() + 60
    files.keep(files.good)
    assert gone.is_file()
    clock.now += DRAIN.total_seconds()
    files.keep(files.good)
    assert not gone.exists()
    assert (tmp_path / "envoy/rds/base.a.json").is_file()


def test_an_unwritable_run_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file/run") as caught:
        Files(tmp_path / "file/run", CertificateAuthority()).install(resources())
    assert caught.value.reason == "config.run_dir"
