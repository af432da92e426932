import json
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from ext_proc.config import openapi
from ext_proc.config.outline import outline
from ext_proc.errors import ConfigError

DOCUMENT: dict[str, Any] = {
    "openapi": "3.0.3",
    "info": {"title": "T", "description": "paths:\n  /fake:\n    get:\n      operationId: Fake\n"},
    "servers": [{"url": "https://{sub}.{site}/base", "variables": {"sub": {"default": "api"}}}, {"url": "/other/"}],
    "paths": {
        "/dash": {
            "summary": "one\n\ntwo: three",
            "post": {
                "summary": "operationId: No",
                "tags": ["Dashboards"],
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/x"}}}},
                "operationId": "CreateDashboard",
            },
            "parameters": [{"name": "get", "in": "query"}],
        },
        "/dash/{id}": {
            "servers": [{"url": "https://intake.example"}],
            "get": {"operationId": "GetDashboard"},
            "delete": {"operationId": "DeleteDashboard", "servers": [{"url": "https://{a}.example/v{n}/x"}]},
        },
        "/compare/{a}...{b}:go": {"get": {"operationId": "Compare", "description": "a # b\n- url: /no\n"}},
        "/nameless": {"get": {"responses": {}}},
    },
    "components": {"schemas": {"paths": {"type": "object"}}},
}
WANTED = {
    "CreateDashboard": ("POST /base/dash", "POST /other/dash"),
    "GetDashboard": ("GET /dash/{p1}",),
    "DeleteDashboard": ("DELETE /{p0}/x/dash/{p3}",),
    "Compare": ("GET /base/compare/{p2}", "GET /other/compare/{p2}"),
}


def yaml(**options: Any) -> str:
    writer, out = YAML(typ="safe", pure=True), StringIO()
    writer.default_flow_style = False
    for name, value in options.items():
        setattr(writer, name, value)
    writer.dump(DOCUMENT, out)
    return out.getvalue()


def read(folder: Path, text: str) -> dict[str, tuple[str, ...]]:
    path = folder / "api"
    path.write_text(text, encoding="utf-8")
    return openapi.operations(path)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(DOCUMENT),
        json.dumps(DOCUMENT, indent=1),
        yaml(),
        yaml(map_indent=4, sequence_indent=6, sequence_dash_offset=4),
        yaml(default_flow_style=None),
        yaml(width=30),
        "# made by hand\n---\n" + yaml().replace("/dash:", "'/dash': # the first"),
        yaml().replace("\n", "\r\n"),
        "\ufeff" + yaml(),
    ],
    ids=["json", "indented", "yaml", "wide", "flow", "narrow", "comments", "crlf", "bom"],
)
def test_operations_of_a_document(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == WANTED


@pytest.mark.parametrize("indent", [2, 4, 8])
def test_the_outline_is_what_a_parser_reads(indent: int) -> None:
    text = yaml(map_indent=indent, width=200)
    found = outline(text)
    assert found is not None
    assert list(openapi._operations(found)) == list(openapi._operations(YAML(typ="safe").load(text)))


@pytest.mark.parametrize(
    "text",
    [
        "openapi: 3.0.0\npaths: &p\n  /a:\n    get:\n      operationId: A\n",
        "openapi: 3.0.0\npaths:\n  /a: &a\n    get:\n      operationId: A\n  /b: *a\n",
        "openapi: 3.0.0\npaths:\n  /a:\n    get: {operationId: A}\n",
        "openapi: 3.0.0\npaths:\n  /a:\n    <<: *b\n",
        "openapi: 3.0.0\npaths:\n  ? /a\n  : get:\n      operationId: A\n",
        "%YAML 1.2\n---\nopenapi: 3.0.0\n",
        "{openapi: 3.0.0}",
    ],
)
def test_what_only_a_parser_can_tell_is_left_to_it(text: str) -> None:
    assert outline(text) is None


def test_megabytes_of_yaml_are_read_in_a_moment(tmp_path: Path) -> None:
    one = "  /thing{n}/{{id}}:\n    get:\n      operationId: Get{n}\n      description: |\n" + "        text\n" * 40
    text = "openapi: 3.1.0\npaths:\n" + "".join(one.format(n=n) for n in range(8_000))
    began = time.monotonic()
    assert len(read(tmp_path, text)) == 8_000
    assert len(text) > 3 << 20
    assert time.monotonic() - began < 5  # a YAML parser takes a minute


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("swagger: '2.0'\npaths: {}\n", "no OpenAPI 3"),
        ("openapi: 3.0.0\npaths: {}\n", "no operation"),
        ("openapi: [", "no YAML"),
        ("[1]", "no OpenAPI 3"),
        ("{", "no OpenAPI 3"),
    ],
)
def test_what_is_no_document_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read(tmp_path, text)
    with pytest.raises(ConfigError, match="cannot be read"):
        openapi.operations(tmp_path / "absent")


def test_what_has_no_end_or_multiplies_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no regular file"):
        openapi.operations(Path("/dev/zero"))
    begin, end = "openapi: 3.0.0\n", "paths:\n  /x: {get: {operationId: A}}\n"
    merged = "m0: &m0 {a: 1}\n" + "".join(
        f"m{n}: &m{n}\n  <<: [{', '.join([f'*m{n - 1}'] * 10)}]\n" for n in range(1, 12)
    )
    with pytest.raises(ConfigError, match="merge keys"):
        read(tmp_path, begin + merged + end)
    assert read(tmp_path, begin + "m: &m {operationId: A}\npaths:\n  /x: {get: {<<: *m}}\n") == {"A": ("GET /x",)}
    monkeypatch.setattr(openapi, "MAX_PATTERNS", 3)
    with pytest.raises(ConfigError, match="more than 3 paths"):
        read(tmp_path, begin + "servers: [{url: /a}, {url: /b}, {url: /c}, {url: /d}]\n" + end)


@pytest.mark.parametrize("servers", ["5", "{url: /x}", "[{url: 'http://[::1'}]", "[7, null, {url: 8}]"])
def test_servers_that_are_none_count_as_none(tmp_path: Path, servers: str) -> None:
    text = f"openapi: 3.0.0\nservers: {servers}\npaths: {{/x: {{get: {{operationId: A}}}}}}\n"
    assert read(tmp_path, text) == {"A": ("GET /x",)}
