"""What is a secret by its form or name, what is none, and that no text takes long."""

from __future__ import annotations

import random
import re
import string
import time
import zlib

import pytest

from ext_proc.config.models import Masking
from ext_proc.errors import DouaneError
from ext_proc.masking import Masker, checks
from ext_proc.masking.catalog import DEFAULT
from ext_proc.masking.detectors import TOKEN
from ext_proc.masking.names import level
from ext_proc.masking.places import TRIGGERS
from ext_proc.masking.values import Level
from ext_proc.pb import journal_pb2

MASKER = Masker(Masking(), b"0123456789abcdef0123456789abcdef", 1 << 26)
BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase


def found(text: str) -> list[str]:
    _, spans = MASKER.exchange().whole_text(text)
    return [text[start:end] for start, end, _ in spans]


def checksum(body: str) -> str:
    rest, digits = zlib.crc32(body.encode()), ""
    for _ in range(6):
        rest, digit = divmod(rest, 62)
        digits = BASE62[digit] + digits
    return digits


def test_a_right_checksum_proves_what_looks_like_filler() -> None:
    filler = "0" * 30
    assert checks.crc32_base62(f"{filler}{checksum(filler)}".encode())
    assert found(f"x ghp_{filler}{checksum(filler)} y") == [f"ghp_{filler}{checksum(filler)}"]
    assert found(f"x ghp_{filler}000000 y") == []
    body = "abc" * 10
    assert found(f"npm_{body}{checksum(body)}") == [f"npm_{body}{checksum(body)}"]


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("export DB_PASS=s3cr3tpw", "s3cr3tpw"),
        ("password: ok{fine}[yes]", "ok{fine}[yes]"),
        ("connect(password=s3cr3tpw)", "s3cr3tpw"),
        ("Server=x;Password=s3cr3t/pw;Database=y", "s3cr3t/pw"),
        ("{'api_key': u'0a1b2c3d4e5f'}", "0a1b2c3d4e5f"),
        ("os.environ['API_TOKEN'] = 'Zx9kk3mnop42'", "Zx9kk3mnop42"),
        ('getenv("api_token", "dafa7817-e246-48f3-91a7-e87653d587b8")', "dafa7817-e246-48f3-91a7-e87653d587b8"),
        ("token .= 'Zx9kk3mnop42'", "Zx9kk3mnop42"),
        ("user[password]=h1dd3n&x=1", "h1dd3n"),
        ("user%5Bpassword%5D=h1dd3n&x=1", "h1dd3n"),
        ('{"\\u0022password\\u0022:\\u0022hunter2x\\u0022}', "hunter2x"),
        ('<add key="ClientSecret" value="Zx9kk3mnop42"/>', "Zx9kk3mnop42"),
        ("- name: FACEBOOK_TOKEN\n  value: 'Zx9kk3mnop42'", "Zx9kk3mnop42"),
        ("id:master pw:dipPr12Gg!", "dipPr12Gg!"),
        ("smtps://example@mail.example:FnD83JZs@smtp.example:465", "FnD83JZs"),
        (
            "https://api.telegram.org/bot508627689:AAEuLPKs-EhrjrYGnz60bnYNZqakf6HJxc0/x",
            "508627689:AAEuLPKs-EhrjrYGnz60bnYNZqakf6HJxc0",
        ),
        ('const SONAR_LOGIN = "9c4f0e1b7a2d4c5f8e6b3a1d0c9f7e5b2a4d6c8e"', "9c4f0e1b7a2d4c5f8e6b3a1d0c9f7e5b2a4d6c8e"),
        (
            '{"kty":"RSA","d":"-phZ8N4GuwZchy7FCMB14IA35dBU3sWy2ORxwWN8PbKqKOkZb8mh4v"}',
            "-phZ8N4GuwZchy7FCMB14IA35dBU3sWy2ORxwWN8PbKqKOkZb8mh4v",
        ),
    ],
)
def test_found(text: str, secret: str) -> None:
    assert found(text) == [secret]


@pytest.mark.parametrize(
    "text",
    [
        "the password is incorrect",
        "password = get_password(user)",
        "password = settings.DB_PASSWORD",
        "password => m{{not}}",
        '{"required": ["username", "password", "email_2", "token", "a1b2c3d4e5f6"]}',
        '{"evaluation":"pass","framework_requirement_2":"x"}',
        '"/bin/pwd","/bin/readlink2"',
        '{"key": "region_79eef6c4d883c2c5", "token": null, "secret": {"a": 1}, "api_key": [1]}',
        'primaryKey: "9Gx8b4d8eD2rUsXPfVxDc6k5BeK4ry"',
        "docker run --user 1000:1000 -u nginx:www-data x",
        "curl -u $USER:$PASSWORD https://x",
        "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxx glpat-XXXXXXXXXXXX-XXXXXXX",
        '{"etag": "I6FwzQZFL9l44nviI1F04OTmorMaVQf9GS4Oe07qxLvNkW6CRas4Lo42"}',
        '{"id": "bace4d19-fa7e-4eef-8afe-9129474bcd81", "sha": "2b00042f7481c7b056c4b410d28f33cf2b00042f"}',
        "<label>Password</label><input name=password value=>",
        '"pubkey":"S2KAuCoip8JbyZNOT2gYbpUouidttEGvYWyvqeoMQjE="',
    ],
)
def test_left_alone(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"password", Level.ANY), (b"dbPass", Level.ANY), (b"bypass", Level.NONE), (b"user_pw", Level.ANY),
        (b"client_secret", Level.RANDOM), (b"token_type", Level.NONE), (b"passwordKey", Level.RANDOM),
        (b"next_page_token", Level.NONE), (b"aes_key", Level.LONG), (b"sortKey", Level.NONE), (b"keyboard", Level.NONE),
        (b"HEROKU_LOGIN", Level.LONG), (b"access_tokens", Level.NONE), (b"", Level.NONE),
    ],
)  # fmt: skip
def test_what_a_name_says(name: bytes, expected: Level) -> None:
    assert level(name) is expected


def test_a_trigger_asks_only_for_what_a_stream_holds_back() -> None:
    counted = re.compile(rb"\[((?:\\.|[^\]\\])+)\]\{(\d+)\}\Z")
    for detector in DEFAULT:
        for trigger in detector.triggers:
            tail = counted.search(trigger.expression)
            if tail is not None and detector.begins:
                allowed = re.compile(rb"[" + tail[1] + rb"]")
                assert {b for b in range(256) if allowed.match(bytes([b]))} <= set(TOKEN), detector.name
    assert len({d.name for d in DEFAULT}) > 100
    assert all(trigger.caseless for trigger in TRIGGERS)


PIECES = [
    b"sk-",
    b"password=",
    b"://a:",
    b"eyJ.",
    b"Bearer ",
    b"-----BEGIN ",
    b"key=",
    b"x_token_y_secret_z_key_",
    b"\\",
    b'"',
    b'"password":"x","token":"',
    b'if ("a" == ',
    b"curl -u a:b ",
    b"pw: ",
    b"%3A%3D",
    b"QUFB",
    b"<token>",
    b"AAAA",
]


@pytest.mark.parametrize("piece", PIECES)
def test_no_text_takes_more_than_linear_time(piece: bytes) -> None:
    """Twice as much text takes about twice as long, in one piece and in chunks; a square would take four times."""

    def seconds(size: int, chunk: int) -> float:
        text = (piece * (size // len(piece) + 1))[:size]
        body = MASKER.exchange().body(journal_pb2.RESPONSE, b"", b"")
        started = time.process_time()
        try:
            for at in range(0, size, chunk):
                body.feed(text[at : at + chunk], at + chunk >= size)
        except DouaneError as error:
            assert error.reason == "body.too_many_secrets"  # noqa: PT017 (the other bodies are masked)
        return time.process_time() - started

    def linear(chunk: int) -> bool:
        short = min(seconds(128 << 10, chunk) for _ in range(2))
        return min(seconds(256 << 10, chunk) for _ in range(2)) < 3.3 * short + 0.02

    for chunk in (1 << 20, 16 << 10):
        assert any(linear(chunk) for _ in range(4))  # a square never is; a busy machine looks like one


def test_random_text_is_left_alone() -> None:
    chance = random.Random(3)
    words = ["".join(chance.choices(string.ascii_lowercase, k=chance.randrange(2, 9))) for _ in range(500)]
    assert found(" ".join(chance.choices(words, k=20_000))) == []
