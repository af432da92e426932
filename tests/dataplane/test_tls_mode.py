"""TLS mode through `douane up`: the real host name, resolved to the gate, with a certificate of the local CA.

Nothing here edits /etc/hosts: clients are told the address by a resolver of their process.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
from datadog_api_client import ApiClient, Configuration
from datadog_api_client.exceptions import ApiException
from datadog_api_client.v1.api.dashboards_api import DashboardsApi
from datadog_api_client.v1.model.dashboard import Dashboard
from datadog_api_client.v1.model.dashboard_layout_type import DashboardLayoutType

from tests.dataplane import wire
from tests.dataplane.background import Background
from tests.dataplane.ledger import Ledger
from tests.dataplane.stack import API_KEY, APP_KEY, PLACEHOLDER, Stack, douane_up, free_ports
from tests.issuer import LoopbackIssuer

ROOT = Path(__file__).resolve().parents[2]
HOST = "api.datadog.test"
OTHER = "other.test"

pytestmark = [pytest.mark.dataplane, pytest.mark.clickhouse, pytest.mark.slow]


@dataclass
class Gate:
    stack: Stack
    ledger: Ledger
    bundle: str
    issuer: LoopbackIssuer

    def context(self, alpn: str = "http/1.1") -> ssl.SSLContext:
        """Trusts the local CA, and nothing else."""
        context = ssl.create_default_context(cadata=self.bundle)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.set_alpn_protocols([alpn])
        return context

    @contextmanager
    def connected(self, sni: str, alpn: str = "http/1.1") -> Iterator[ssl.SSLSocket]:
        with (
            socket.create_connection(("127.0.0.1", self.stack.tls_port), timeout=10) as plain,
            self.context(alpn).wrap_socket(plain, server_hostname=sni) as secured,
        ):
            yield secured

    def get(self, sni: str, host: str, path: str) -> tuple[int, dict[str, Any]]:
        request = (
            f"GET {path} HTTP/1.1\r\nhost: {host}\r\ndd-api-key: {self.issuer.token()}\r\nconnection: close\r\n\r\n"
        )
        with self.connected(sni) as secured:
            secured.sendall(request.encode())
            got = b"".join(iter(lambda: secured.recv(1 << 16), b""))
        head, _, body = got.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), json.loads(body) if body.startswith(b"{") else {}


@pytest.fixture(scope="module")
def datadog() -> Iterator[str]:
    """The small Datadog of `make demo`: 403 unless it gets both real keys, each once."""
    [port] = free_ports(1)
    environment = {**os.environ, "DEMO_DD_API_KEY": API_KEY, "DEMO_DD_APP_KEY": APP_KEY}
    process = subprocess.Popen([sys.executable, "-m", "examples.demo.datadog", str(port)], cwd=ROOT, env=environment)
    try:
        for _ in range(100):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            with suppress(subprocess.TimeoutExpired):
                raise AssertionError(f"the upstream ended with {process.wait(0.1)}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


@pytest.fixture(scope="module")
def gate(
    tmp_path_factory: pytest.TempPathFactory, issuer: LoopbackIssuer, servers: Background, datadog: str
) -> Iterator[Gate]:
    other = servers.enter(wire.raw(wire.reply(wire.answer(body=b"{}"))))
    connection = {"hosts": [OTHER], "upstream": other.url, "identity": {"headers": ["dd-api-key"]}}
    grant = {"name": "main", "issuer": "github", "if": "claims.repository_id == '74'"}
    with douane_up(
        tmp_path_factory.mktemp("tls"),
        issuer.url,
        datadog,
        connections={"other": connection | {"scopes": {"everything": ["* /**"]}}},
        grants=[grant | {"allow": {"datadog": ["everything"], "other": ["everything"]}}],
    ) as stack:
        yield Gate(stack, Ledger(stack), stack.command("envoy", "ca").stdout, issuer)


def test_each_host_is_served_by_its_own_name(gate: Gate) -> None:
    for sni, host, connection in ((HOST, HOST, "datadog"), (OTHER, f"{OTHER.upper()}:443", "other")):
        status, _ = gate.get(sni, host, f"/api/v1/dashboard?by={connection}")
        assert status == 200
        [row] = gate.ledger.rows("query = {q:String}", expect=1, q=f"by={connection}")
        assert (row["connection"], row["decision"], row["protocol"]) == (connection, "allow", "HTTP/1.1")


def test_host_must_be_the_name_the_connection_was_opened_for(gate: Gate) -> None:
    ids = []
    for sni, host in ((HOST, OTHER), (OTHER, HOST), (HOST, "evil.test")):
        status, told = gate.get(sni, host, "/mismatch")
        assert (status, told["reason"]) == (421, "request.host_mismatch")
        assert "SNI" in told["message"]
        ids.append(told["exchange_id"])
    rows = gate.ledger.rows("path = '/mismatch'", expect=3, timeout=40)
    assert {row["exchange_id"] for row in rows} == set(ids)
    for row in rows:
        assert (row["decision"], row["reason"], row["outcome"]) == ("deny", "request.host_mismatch", "denied")
        assert (row["status"], row["connection"] in ("datadog", "other")) == (421, True)


def test_unknown_names_find_no_listener(gate: Gate) -> None:
    for sni in ("evil.test", f"sub.{HOST}", "datadog.test"):
        with pytest.raises((ssl.SSLError, ConnectionError)), gate.connected(sni):
            pass
    anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anonymous.check_hostname, anonymous.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", gate.stack.tls_port), timeout=10) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        anonymous.wrap_socket(plain)  # without a name


def test_the_local_ca_vouches_for_the_registered_hosts_only(gate: Gate) -> None:
    with gate.connected(HOST) as secured:
        certificate = secured.getpeercert()
        assert certificate is not None
        assert certificate["subjectAltName"] == (("DNS", HOST),)
        assert secured.version() in ("TLSv1.2", "TLSv1.3")
    with (
        socket.create_connection(("127.0.0.1", gate.stack.tls_port), timeout=10) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        ssl.create_default_context().wrap_socket(plain, server_hostname=HOST)  # nobody else trusts it
    assert "PRIVATE" not in gate.bundle


def test_http2_by_alpn(gate: Gate) -> None:
    with gate.connected(HOST, alpn="h2") as secured:
        assert secured.selected_alpn_protocol() == "h2"
        connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        connection.initiate_connection()
        for stream, authority in ((1, HOST), (3, OTHER)):  # a name of its own for each stream is no way around SNI
            head = [(":method", "GET"), (":path", "/api/v1/dashboard?h2"), (":scheme", "https")]
            head += [(":authority", authority), ("dd-api-key", gate.issuer.token())]
            connection.send_headers(stream, head, end_stream=True)
        secured.sendall(connection.data_to_send())
        status: dict[int, str] = {}
        ended = 0
        while ended < 2:
            for event in connection.receive_data(secured.recv(1 << 16)):
                if isinstance(event, h2.events.ResponseReceived):
                    status[event.stream_id] = {str(n): str(v) for n, v in event.headers or []}[":status"]
                ended += isinstance(event, h2.events.StreamEnded)
    assert status == {1: "200", 3: "421"}
    [row] = gate.ledger.rows("query = 'h2' AND decision = 'allow'", expect=1)
    assert (row["protocol"], row["connection"]) == ("HTTP/2", "datadog")


def test_the_official_client_needs_no_other_url(gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        if (host, port) == (HOST, 443):
            return real("127.0.0.1", gate.stack.tls_port, *rest, **more)
        return real(host, port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    bundle = tmp_path / "ca.pem"
    bundle.write_text(gate.bundle)
    keys = {"apiKeyAuth": gate.issuer.token(run_id="5005"), "appKeyAuth": PLACEHOLDER}
    configuration = Configuration(host=f"https://{HOST}", api_key=keys)  # type: ignore[no-untyped-call]
    configuration.ssl_ca_cert = str(bundle)
    with ApiClient(configuration) as client:
        api = DashboardsApi(client)  # type: ignore[no-untyped-call]
        body = Dashboard(title="over TLS", layout_type=DashboardLayoutType.ORDERED, widgets=[])
        made = api.create_dashboard(body=body)
        assert "over TLS" in [str(d.title) for d in api.list_dashboards().dashboards]
        with pytest.raises(ApiException) as missing:
            api.get_dashboard("abc-def-ghi")
        assert missing.value.status == 404
        api.delete_dashboard(made.id)
    rows = gate.ledger.rows("session_label LIKE '%5005%'", expect=4)
    assert [(r["method"], r["status"]) for r in rows] == [("POST", 200), ("GET", 200), ("GET", 404), ("DELETE", 200)]
    assert b'"over TLS"' in rows[0]["req_body"]
    assert all(PLACEHOLDER not in value for row in rows for _, value in row["req_headers"])


def test_the_bundle_is_what_the_command_prints(gate: Gate) -> None:
    assert (gate.stack.folder / "var/run/ca.pem").read_text() == gate.bundle
