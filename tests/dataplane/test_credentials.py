"""Credentials that expire, through real Envoy: signatures that AWS would take, tokens that end with the gate, and
nothing forwarded when a source is down."""

from __future__ import annotations

import http.client
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.config import Config
from botocore.session import get_session

from tests.contract.credentials.aws import ACCESS, SECRET, TOKEN, NotSignedError, verify
from tests.contract.credentials.oauth_server import Client, OAuthServer
from tests.contract.credentials.peer import Asked, Peer, Reply
from tests.dataplane.ledger import Ledger
from tests.dataplane.stack import Stack, douane_up, free_ports
from tests.issuer import LoopbackIssuer

pytestmark = pytest.mark.dataplane

MAX_INSPECT = 64 << 10
CLIENT_SECRET = "the-client-secret-of-the-gate"


class Amazon:
    """Takes what is signed as AWS asks, and keeps the bodies as it reads them."""

    def __init__(self) -> None:
        self.host = ""
        self.bodies: dict[str, bytes] = {}
        self.faults: list[str] = []

    def __call__(self, asked: Asked) -> Reply:
        try:
            body = verify(
                asked.method, asked.target, list(asked.headers.items()), asked.body, host=self.host, token=TOKEN
            )
        except NotSignedError as fault:
            self.faults.append(f"{asked.method} {asked.target}: {fault}")
            return 403, {"error": str(fault)}
        self.bodies[asked.path] = body
        return 200, b""


class Api:
    """Answers what it was sent in `authorization`, and keeps it for itself as well."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, asked: Asked) -> Reply:
        self.seen.append(asked.headers.get("authorization", ""))
        return 200, {"echo": asked.headers.get("authorization", "")}


class Setting:
    def __init__(self, stack: Stack, issuer: LoopbackIssuer, amazon: Amazon, api: Api, oauth: OAuthServer) -> None:
        self.stack, self.issuer, self.amazon, self.api, self.oauth = stack, issuer, amazon, api, oauth
        self.ledger = Ledger(stack)
        self.ports = {n: int(c["listen"].rpartition(":")[2]) for n, c in stack.config["connections"].items()}

    def call(
        self, name: str, method: str, target: str, body: Any = None, *, chunked: bool = False, **headers: str
    ) -> tuple[int, bytes]:
        identity = "x-amz-security-token" if name.startswith("aws-") else "authorization"
        fields = {identity: self.issuer.token(), **{k.replace("_", "-"): v for k, v in headers.items()}}
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[name], timeout=30)
        try:
            connection.request(method, target, body, fields, encode_chunked=chunked)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory, issuer: LoopbackIssuer) -> Iterator[Setting]:
    folder: Path = tmp_path_factory.mktemp("credentials")
    amazon, api = Amazon(), Api()
    clients = [Client("gate", "client_secret_basic", CLIENT_SECRET)]
    verifying = {"algorithms": ["RS256"], "audience": "douane"}

    def subject(token: str) -> dict[str, Any]:
        import jwt

        return jwt.decode(token, issuer._key.public_key(), **verifying)  # type: ignore[arg-type]

    with Peer(amazon) as aws, Peer(api) as upstream, OAuthServer(clients, subject) as oauth:
        amazon.host = urlsplit(aws.url).netloc
        for name, value in (("secret-key", SECRET), ("session-token", TOKEN), ("client-secret", CLIENT_SECRET)):
            (folder / name).write_text(value)
        (folder / "access-key").write_text(ACCESS)
        client = {
            "client_id": "gate",
            "client_secret": {"file": "./client-secret"},
            "revoke_url": f"{oauth.url}/revoke",
            "token_url": f"{oauth.url}/token",
        }
        keys = {
            "access_key_id": {"file": "./access-key"},
            "secret_access_key": {"file": "./secret-key"},
            "session_token": {"file": "./session-token"},
        }
        keyless = {"identity": {"headers": ["x-amz-security-token"]}, "max_inspect": MAX_INSPECT, "upstream": aws.url}
        settings: dict[str, dict[str, Any]] = {
            "aws-s3": {"credentials": [{"sigv4": {"service": "s3", "region": "eu-central-1", **keys}}], **keyless},
            "aws-ddb": {
                **keyless,
                "credentials": [{"sigv4": {"service": "dynamodb", "region": "eu-central-1", **keys}}],
                "upstream": f"{aws.url}/below/it",
            },
            "oauth": {"credentials": [{"bearer": True, "from": {"oauth2": client}, "hosts": ["127.0.0.1"]}]},
            "exchange": {"credentials": [{"bearer": True, "from": {"token_exchange": {**client, "auth": "basic"}}}]},
            "down": {
                "credentials": [
                    {"bearer": True, "from": {"oauth2": {**client, "token_url": "http://127.0.0.1:9/token"}}}
                ]
            },
            "refused": {"credentials": [{"bearer": True, "from": {"oauth2": {**client, "client_id": "nobody"}}}]},
        }
        connections = {
            name: {
                "listen": f"127.0.0.1:{port}",
                "upstream": upstream.url,
                "identity": {"headers": ["authorization"]},
                "scopes": {"everything": ["* /**"]},
            }
            | of
            for (name, of), port in zip(settings.items(), free_ports(len(settings)), strict=True)
        }
        everything = {name: ["everything"] for name in ("datadog", *settings)}
        grant = {"name": "all", "issuer": "github", "if": "claims.repository_id == '74'", "allow": everything}
        with douane_up(folder, issuer.url, upstream.url, connections=connections, grants=[grant]) as stack:
            yield Setting(stack, issuer, amazon, api, oauth)


def test_what_amazons_own_client_sends(setting: Setting) -> None:
    client = get_session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=f"http://127.0.0.1:{setting.ports['aws-s3']}",
        aws_access_key_id="placeholder",
        aws_secret_access_key="placeholder",
        aws_session_token=setting.issuer.token(),
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )
    for size in (0, 10, MAX_INSPECT + 1, 3 * MAX_INSPECT + 17):
        body = random.Random(size).randbytes(size)
        client.put_object(Bucket="bucket", Key=f"a b/é+({size})", Body=body, Metadata={"note": "x  y"})
        assert setting.amazon.bodies[f"/bucket/a%20b/%C3%A9%2B%28{size}%29"] == body
    client.get_object(Bucket="bucket", Key="k", Range="bytes=0-1", ResponseContentType="text/plain")
    client.upload_part(Bucket="bucket", Key="k", PartNumber=2, UploadId="up/load=", Body=b"part")
    assert setting.amazon.faults == []


@pytest.mark.parametrize("size", [0, 1, MAX_INSPECT, MAX_INSPECT + 1, 5 * MAX_INSPECT, 3_000_001])
def test_bodies_are_signed_whole_or_as_they_pass(setting: Setting, size: int) -> None:
    body = random.Random(size).randbytes(size)
    path = f"/bucket/raw-{size}"
    target = f"{path}?x=1&X-Amz-Signature=old&a=%20"
    status, said = setting.call("aws-s3", "PUT", target, body, content_encoding="identity")
    assert (status, said) == (200, b"")
    assert setting.amazon.bodies[path] == body
    assert setting.amazon.faults == []
    row = setting.ledger.row(path)
    assert (row["decision"], row["credential"]) == ("allow", "sigv4")
    assert SECRET not in json.dumps(row, default=str)
    assert TOKEN not in json.dumps(row, default=str)


@pytest.mark.parametrize("size", [10, 2 * MAX_INSPECT])
def test_what_most_sdks_send_over_https_keeps_its_form(setting: Setting, size: int) -> None:
    data = b"d" * size
    body = b"%x\r\n%s\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n" % (size, data)
    headers = {
        "content_encoding": "aws-chunked",
        "x_amz_decoded_content_length": str(size),
        "x_amz_trailer": "x-amz-checksum-crc32",
        "x_amz_content_sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
    }
    path = f"/bucket/trailer-{size}"
    assert setting.call("aws-s3", "PUT", path, body, **headers) == (200, b"")
    assert setting.amazon.bodies[path] == body
    signed = {**headers, "x_amz_content_sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"}
    status, answer = setting.call("aws-s3", "PUT", "/bucket/signed", body, **signed)
    assert (status, json.loads(answer)["reason"]) == (400, "credential.unsignable")


def test_a_body_without_a_length_is_refused(setting: Setting) -> None:
    pieces = (b"x" * 10_000 for _ in range(20))
    status, body = setting.call("aws-s3", "PUT", "/bucket/endless", pieces, chunked=True, transfer_encoding="chunked")
    assert (status, json.loads(body)["reason"]) == (411, "credential.unsignable")
    assert "/bucket/endless" not in setting.amazon.bodies
    pieces = (b"x" * 1000 for _ in range(20))
    status, _ = setting.call("aws-s3", "PUT", "/bucket/awaited", pieces, chunked=True, transfer_encoding="chunked")
    assert status == 200
    assert setting.amazon.bodies["/bucket/awaited"] == b"x" * 20_000, "its length is known once it was awaited"


def test_other_services_below_a_path(setting: Setting) -> None:
    document = json.dumps({"TableName": "t"}).encode()
    headers = {"x_amz_target": "DynamoDB_20120810.GetItem", "content_type": "application/x-amz-json-1.0"}
    status, said = setting.call("aws-ddb", "POST", "/a%20b//c", document, **headers)
    assert (status, said) == (200, b"")
    assert setting.amazon.bodies["/below/it/a%20b//c"] == document
    status, body = setting.call("aws-ddb", "POST", "/large", b"x" * (MAX_INSPECT + 1))
    assert (status, json.loads(body)["reason"]) == (413, "credential.unsignable")
    assert setting.amazon.faults == []


def test_a_token_is_fetched_once_and_never_seen(setting: Setting) -> None:
    for n in range(5):
        status, body = setting.call("oauth", "GET", f"/oauth/{n}")
        assert status == 200
        assert json.loads(body)["echo"] == "Bearer " + "*" * len(setting.api.seen[-1].removeprefix("Bearer "))
    used = {seen.removeprefix("Bearer ") for seen in setting.api.seen[-5:]}
    assert used <= set(setting.oauth.tokens)
    assert len(used) <= 2, "one for each worker"
    row = setting.ledger.row("/oauth/0")
    assert not any(token in json.dumps(row, default=str) for token in (*used, CLIENT_SECRET))


def test_each_caller_has_a_token_of_its_own_and_it_is_masked(setting: Setting) -> None:
    status, body = setting.call("exchange", "GET", "/exchange")
    assert status == 200
    token = setting.api.seen[-1].removeprefix("Bearer ")
    assert token.startswith("repo:acme/infra:")
    assert token.encode() not in body
    assert token not in json.dumps(setting.ledger.row("/exchange"), default=str)


@pytest.mark.parametrize(
    ("name", "status", "reason"), [("down", 503, "credential.unavailable"), ("refused", 502, "credential.refused")]
)
def test_nothing_is_forwarded_when_a_source_is_down(setting: Setting, name: str, status: int, reason: str) -> None:
    before = len(setting.api.seen)
    got, body = setting.call(name, "POST", f"/{name}", b"{}")
    answer = json.loads(body)
    assert (got, answer["reason"]) == (status, reason)
    assert "the credential authorization: oauth2 http://127.0.0.1" in answer["message"]
    assert len(setting.api.seen) == before
    row = setting.ledger.row(f"/{name}")
    assert (row["decision"], row["reason"], row["status"]) == ("deny", reason, status)


def test_everything_is_given_back_when_the_gate_stops(setting: Setting) -> None:
    """The last one: the stack ends here."""
    assert setting.oauth.tokens
    assert setting.stack.stop() == 0
    left = [token for token, issued in setting.oauth.tokens.items() if not issued.revoked]
    assert left == []
    log = setting.stack.log_tail(1_000_000)
    for secret in (SECRET, TOKEN, CLIENT_SECRET, *setting.oauth.tokens):
        assert secret not in log
