"""Values at configured JSON paths, in bodies whole and split."""

from __future__ import annotations

import json
import random

import pytest

from ext_proc.config.models import Masking
from ext_proc.errors import ConfigError
from ext_proc.masking import BodyMasker, Masker, UninspectableError
from ext_proc.pb import journal_pb2

KEY = b"0123456789abcdef0123456789abcdef"


def masker(*paths: str) -> Masker:
    return Masker(Masking.model_validate({"detectors": "none", "json": paths}), KEY, 1 << 26)


def body(masker: Masker, content_type: bytes = b"application/json") -> BodyMasker:
    return masker.exchange().body(journal_pb2.REQUEST, content_type, b"")


def masked(masker: Masker, text: bytes, **options: bytes) -> str:
    record = body(masker, **options).feed(text, last=True).record.decode()
    for secret in ("one", "two", "three", "7", "pä"):
        raw = secret.encode()
        record = record.replace(f"[MASKED:json:{masker.fingerprint(raw)}]", f"<{secret}>")
    return record


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        (
            "$.user.email",
            '{"user":{"email":"one","n":"two"},"email":"two"}',
            '{"user":{"email":"<one>","n":"two"},"email":"two"}',
        ),
        ("$.items[*].key", '{"items":[{"key":"one"},{"key":"two"}]}', '{"items":[{"key":"<one>"},{"key":"<two>"}]}'),
        ("$[1]", '["one", "two", ["three"]]', '["one", "<two>", ["three"]]'),
        (
            "$..token",
            '[{"token":"one"},{"a":[{"b":{"token":"two"}}]}]',
            '[{"token":"<one>"},{"a":[{"b":{"token":"<two>"}}]}]',
        ),
        (
            "$.u",
            '{"u":{"a":"one","b":["two",{"c":"three"}]},"x":1}',
            '{"u":{"a":"<one>","b":["<two>",{"c":"<three>"}]},"x":1}',
        ),
        ("$.Token", '{"token": "one", "TOKEN": "two"}', '{"token": "<one>", "TOKEN": "<two>"}'),
        ("$..['a b'][0]", '[{"a b": ["one", "two"]}]', '[{"a b": ["<one>", "two"]}]'),
        ("$.n", '{"n": 7}', '{"n": "<7>"}'),
        ("$.n", '{"n": null, "m": true}', '{"n": null, "m": true}'),
        ("$.n", '{"n": ""}', '{"n": ""}'),
        ("$.*.b", '{"a":{"b":"one"},"c":{"b":"two"},"b":"three"}', '{"a":{"b":"<one>"},"c":{"b":"<two>"},"b":"three"}'),
        ("$['a b'].c", '{"a b": {"c": "one"}}', '{"a b": {"c": "<one>"}}'),
        ("$.email", '{"\\u0065mail": "p\\u00e4"}', '{"\\u0065mail": "<pä>"}'),
        ("$.a", '{"a": "one"}\n{"a": "two"}\n', '{"a": "<one>"}\n{"a": "<two>"}\n'),
        ("$.a", '{"b": "a\\": \\"one", "a": "two"}', '{"b": "a\\": \\"one", "a": "<two>"}'),
        ("$.a", '{"a": "one", "a": "two"}', '{"a": "<one>", "a": "<two>"}'),
    ],
)  # fmt: skip
def test_paths(path: str, text: str, expected: str) -> None:
    assert masked(masker(path), text.encode()) == expected


def test_what_is_left_is_json() -> None:
    text = b'{"a": 7, "b": [1, 2.5e3], "c": "x"}'
    record = body(masker("$.a", "$.b")).feed(text, last=True).record
    assert json.loads(record)["c"] == "x"


def test_every_split_and_every_byte() -> None:
    one = masker("$..secret", "$.list[*]", "$.n")
    text = (
        b'{"a": {"secret": "v\\"1\\\\", "b": 1.5}, "list": ["x", 12, true, {"k": "y"}], "n": -12.5e3, "z": "secret"} '
    )
    whole = body(one).feed(text, last=True)
    assert len(whole.masks) == 5
    for at in range(len(text) + 1):
        split = body(one)
        steps = [split.feed(text[:at], last=False), split.feed(text[at:], last=True)]
        assert b"".join(s.record for s in steps) == whole.record, at
        assert [m for s in steps for m in s.masks] == list(whole.masks)
    single = body(one)
    steps = [single.feed(text[i : i + 1], last=i == len(text) - 1) for i in range(len(text))]
    assert b"".join(s.record for s in steps) == whole.record


def test_long_values_are_masked_to_their_end_and_long_others_pass() -> None:
    one = masker("$.blob")
    text = b'{"other": "' + b"o" * 50_000 + b'", "blob": "' + b"s" * 50_000 + b'\\"s", "after": 1}'
    for size in (1000, 4096, 33_333, len(text)):
        stream = body(one)
        record = b"".join(stream.feed(text[i : i + size], last=False).record for i in range(0, len(text), size))
        record += stream.feed(b"", last=True).record
        assert b"ss" not in record
        assert b"o" * 50_000 in record
        assert record.endswith(b'", "after": 1}')


def test_random_documents_agree_with_a_parser() -> None:
    chance = random.Random(4)

    def value(depth: int) -> object:
        kind = chance.randrange(6 if depth < 4 else 3)
        if kind == 0:
            return "".join(chance.choice('ab"\\é\n{}[]:,') for _ in range(chance.randrange(8)))
        if kind == 1:
            return chance.choice([0, -1.5, 12e9, True, False, None])
        if kind == 2:
            return chance.randrange(1000)
        if kind == 3:
            return [value(depth + 1) for _ in range(chance.randrange(4))]
        return {chance.choice(["k", "x", "y", "z\\"]): value(depth + 1) for _ in range(chance.randrange(4))}

    def expected(node: object, inside: bool) -> object:
        if isinstance(node, dict):
            return {k: expected(v, inside or k == "k") for k, v in node.items()}
        if isinstance(node, list):
            return [expected(v, inside) for v in node]
        if not inside or node is None or isinstance(node, bool) or node == "":
            return node
        secret = node if isinstance(node, str) else json.dumps(node)
        return f"[MASKED:json:{one.fingerprint(secret.encode())}]"

    one = masker("$..k")
    for _ in range(300):
        document = value(0)
        text = json.dumps(document, ensure_ascii=chance.random() < 0.5, indent=chance.choice([None, 2])).encode()
        cut = chance.randrange(len(text) + 1)
        stream = body(one)
        record = stream.feed(text[:cut], last=False).record + stream.feed(text[cut:], last=True).record
        assert json.loads(record) == expected(document, inside=False)


@pytest.mark.parametrize("text", [b'{"a": [1}', b'{"a"', b"[" * 300, b"}", b"{1: 2}", b'{"a": 1,"b" "c"]', b'"abc'])
def test_malformed_json_is_refused_where_paths_are_to_be_masked(text: bytes) -> None:
    with pytest.raises(UninspectableError) as caught:
        body(masker("$.a")).feed(text, last=True)
    assert caught.value.reason == "body.uninspectable"
    assert body(masker("$.a"), b"text/plain").feed(text, last=True).release == text
    assert body(masker()).feed(text, last=True).record == text


def test_json_without_its_content_type_is_masked_too() -> None:
    assert masked(masker("$.a"), b'{"a": "one"}', content_type=b"") == '{"a": "<one>"}'


@pytest.mark.parametrize("path", ["a.b", "$.a[", "$.a[?(@.b)]", "$..", "$.a b", ""])
def test_paths_outside_the_subset_are_errors(path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        masker(path)
    assert caught.value.reason == "config.json_path"


def test_a_path_to_everything_is_an_error() -> None:
    with pytest.raises(ConfigError) as caught:
        masker("$")
    assert caught.value.reason == "config.whole_body"
