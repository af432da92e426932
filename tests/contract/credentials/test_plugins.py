"""Sources of one's own: a package with an entry point, installed beside Douane as pip would leave it."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ext_proc.config import Credential
from ext_proc.credentials import Credentials, Injection
from ext_proc.errors import ConfigError, CredentialError

DOCS = Path(__file__).parents[3] / "docs" / "credentials.md"
Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    modules = []

    def installed(module: str, code: str, name: str = "mine") -> None:
        modules.append(module)
        site = tmp_path / module
        (site / f"{module}-1.0.dist-info").mkdir(parents=True)
        (site / f"{module}.py").write_text(code)
        (site / f"{module}-1.0.dist-info" / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n"
        )
        (site / f"{module}-1.0.dist-info" / "entry_points.txt").write_text(
            f"[douane.credentials]\n{name} = {module}:make\n"
        )
        monkeypatch.syspath_prepend(str(site))

    yield installed
    for module in modules:
        sys.modules.pop(module, None)


def made(options: dict[str, Any] | None = None, **settings: Any) -> Credentials:
    plugin = {"name": "mine", "options": options or {}, **settings}
    return Credentials([Credential.model_validate({"header": "x-key", "from": {"plugin": plugin}})])


async def value(credentials: Credentials) -> bytes:
    (found,) = await credentials.resolve()
    assert isinstance(found, Injection)
    return found.secret


async def test_the_example_of_the_page(install: Install) -> None:
    (code,) = re.findall(r"```python\n(# douane_keyring\.py\n.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    install("douane_keyring", code)
    credentials = made({"user": "robot"})
    first = await value(credentials)
    assert first.startswith(b"robot-")
    assert await value(credentials) == first
    assert first in {secret for _, secret in credentials.known()}
    await credentials.sources[0].close()
    import douane_keyring

    assert [first] == douane_keyring.REVOKED


RAISES = """
class Mine:
    async def mint(self, held):
        raise RuntimeError("s3cret in a message")
    def known(self):
        return (b"s3cret-of-its-own",)
def make(options):
    return Mine()
"""


async def test_one_that_raises(install: Install, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    install("mine_raises", RAISES)
    credentials = made()
    with pytest.raises(CredentialError) as caught:
        await value(credentials)
    assert (caught.value.reason, caught.value.http_status) == ("credential.unavailable", 502)
    assert "plugin mine failed (RuntimeError)" in caught.value.message
    assert "s3cret" not in str(caught.value) + caught.value.detail + caplog.text
    assert [secret for _, secret in credentials.known()] == [b"s3cret-of-its-own"]


@pytest.mark.parametrize(
    ("body", "reason", "said"),
    [
        ("return 'text'", "credential.invalid", "no Lease"),
        ("from ext_proc.credentials import Lease; return Lease('text', 60)", "credential.invalid", "no Lease"),
        ("from ext_proc.credentials import Lease; return Lease(b'x' * 99999, 60)", "credential.invalid", "64 KiB"),
        ("from ext_proc.credentials import Lease; return Lease(b'x', 0)", "credential.invalid", "expired already"),
        ("from ext_proc.credentials import Lease; return Lease(b'x\\n', 60)", "credential.invalid", "line break"),
        ("import asyncio; await asyncio.sleep(9)", "credential.timeout", "0.2 s"),
        (
            "from ext_proc.errors import CredentialError; raise CredentialError('credential.mine', 'no')",
            "credential.mine",
            "no",
        ),
    ],
)
async def test_ones_that_make_nonsense(install: Install, body: str, reason: str, said: str) -> None:
    install(
        "mine_odd", f"class Mine:\n    async def mint(self, held):\n        {body}\ndef make(o):\n    return Mine()\n"
    )
    with pytest.raises(CredentialError) as caught:
        await value(made(timeout="200ms"))
    assert caught.value.reason == reason
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("def make(options):\n    raise KeyError(options['user'])", "KeyError"),
        ("def other(): ...", "AttributeError"),
        ("def make(options):\n    return object()", "no `async def mint"),
        ("class Mine:\n    def mint(self, held): ...\ndef make(o):\n    return Mine()", "no `async def mint"),
    ],
)
def test_a_broken_one_is_an_error_at_load(install: Install, code: str, said: str) -> None:
    install("mine_broken", code)
    with pytest.raises(ConfigError) as caught:
        made({"secret": "s3cret"})
    assert caught.value.reason == "config.plugin"
    assert said in caught.value.message
    assert caught.value.remedy
    assert "s3cret" not in str(caught.value)


def test_one_that_is_not_installed_and_one_that_is_twice(install: Install) -> None:
    with pytest.raises(ConfigError, match="no installed package offers a plugin mine"):
        made()
    install("mine_one", "def make(o): ...")
    install("mine_two", "def make(o): ...")
    with pytest.raises(ConfigError, match="2 installed packages"):
        made()


CHANGES = """
from ext_proc.credentials import Lease
class Mine:
    def __init__(self, options):
        self.options, self.told = options, 0
    async def mint(self, held):
        return Lease(b"v4lue", 60.0, secrets=self.options["secrets"])
    def known(self):
        self.told += 1
        if self.told > self.options["tells"]:
            raise RuntimeError("s3cret in a message")
        return (b"s3cret-of-its-own",)
def make(options):
    return Mine(options)
"""


async def test_one_that_cannot_say_what_it_knows(install: Install, caplog: pytest.LogCaptureFixture) -> None:
    install("mine_changes", CHANGES)
    unknown = made({"secrets": (), "tells": 0})
    with pytest.raises(CredentialError, match="failed"):  # what cannot be masked is not used
        await value(unknown)
    later = made({"secrets": (), "tells": 1})
    assert await value(later) == b"v4lue"
    assert {secret for _, secret in later.known()} == {b"v4lue", b"s3cret-of-its-own"}
    assert "cannot say what it knows (RuntimeError)" in caplog.text
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("secrets", ["text", [b"x"], ("text",), None, 7])
async def test_one_whose_secrets_are_none(install: Install, secrets: Any) -> None:
    install("mine_changes", CHANGES)
    with pytest.raises(CredentialError, match="no tuple of bytes"):
        await value(made({"secrets": secrets, "tells": 9}))
