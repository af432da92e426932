"""`douane login` and `douane approvals` against a real hub and a real provider."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import sys
import tempfile
import threading
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ext_proc.cli import app
from ext_proc.cli import provider as flows
from ext_proc.cli.hub import Place
from ext_proc.cli.provider import Prompt
from ext_proc.cli.sign_in import Kept, Login, claims_of
from ext_proc.config.approvals import SignIn
from ext_proc.errors import IdentityError
from ext_proc.pb import hub_pb2
from tests.contract.test_approvals_api import Hub, running
from tests.issuer import LoopbackIssuer
from tests.provider import CLIENT, Provider

ANN = {"sub": "sub-ann", "email": "ann@acme.example", "email_verified": True, "groups": ["sre"]}
LOCAL = [hub_pb2.Requirement(policy="p", approvers=["local"], quorum=1)]


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="douane-") as path:
        yield Path(path)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(user=dict(ANN)) as made:
        yield made


@pytest.fixture
async def hub(folder: Path, provider: Provider) -> AsyncIterator[Hub]:
    sign_in = SignIn(issuer=provider.url, client_id=CLIENT)
    async with running(folder, provider.issuer, sign_in) as made:
        configure(folder, made, f"  sign_in: {{issuer: '{provider.url}', client_id: {CLIENT}}}")
        yield made


def configure(folder: Path, hub: Hub, *approvals: str) -> None:
    lines = ["version: 1", f"console: {{listen: '{hub.config.console.listen}'}}", "gate: {run_dir: ./run}"]
    lines += ["approvals:", *approvals] if approvals else []
    (folder / "douane.yaml").write_text("\n".join(lines) + "\n")


class Douane:
    """The command, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder / "xdg"),
            "DOUANE_NO_BROWSER": "1",
            "COLUMNS": "200",
        }

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ext_proc.cli", *arguments),
            cwd=self._folder,
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """(exit code, standard output, standard error), in this process: a new one takes a second to begin."""
        given = [*arguments, "-c", str(self._folder / "douane.yaml")]
        result = await asyncio.to_thread(CliRunner().invoke, app, given, env=self._environment)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def douane(folder: Path) -> Douane:
    return Douane(folder)


async def said(process: asyncio.subprocess.Process, *words: str) -> list[str]:
    """The last word of each line of standard error that begins with one of `words`, in order."""
    assert process.stderr is not None
    found = []
    for word in words:
        while not (line := (await asyncio.wait_for(process.stderr.readline(), 20)).decode()).startswith(word):
            assert line, f"it ended without {word!r}"
        found.append(line.split()[-1])
    return found


async def test_sign_in_by_device_decide_and_sign_out(
    hub: Hub, provider: Provider, douane: Douane, folder: Path
) -> None:
    assert (await douane("login", "--status"))[0] == 1
    code, _, err = await douane("approvals", "list")
    assert code == 1
    assert "login.none" in err
    signing_in = await douane.start("login")
    url, user_code = await said(signing_in, "Sign in at", "with code")
    assert url == f"{provider.url}/activate?user_code={user_code}"
    provider.confirm(user_code)
    out, _ = await asyncio.wait_for(signing_in.communicate(), 30)
    assert signing_in.returncode == 0
    assert b"ann@acme.example" in out
    [kept] = [path for path in (folder / "xdg/douane/login").iterdir() if path.suffix == ".json"]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700

    held, approval_id = await hub.held(message="deletes need a person")
    _, other = await hub.held()
    code, out, _ = await douane("approvals", "list")
    assert code == 0
    assert approval_id[:12] in out
    assert "1 of group:sre" in out
    code, out, _ = await douane("approvals", "list", "--json")
    assert [json.loads(line)["id"] for line in out.splitlines()] == [other, approval_id]
    code, out, err = await douane("approvals", "approve", approval_id[:10], "--comment", "looks right")
    assert (code, err) == (0, "")
    assert "approved" in out
    assert (await held.until("granted")).message == "looks right"
    code, out, _ = await douane("approvals", "deny", other, "--json", "-m", "no")
    assert (code, json.loads(out)["state"], json.loads(out)["comment"]) == (0, "denied", "no")
    code, out, err = await douane("approvals", "approve", other)
    assert code == 1
    assert "approval.closed" in err
    assert (await douane("approvals", "show", "zz"))[0] == 2
    assert (await douane("approvals", "list", "--state", "nonsense"))[0] == 2
    assert "Signed out" in (await douane("login", "--logout"))[1]
    assert (await douane("approvals", "list"))[0] == 1


async def test_a_token_is_sent_to_its_own_hub_only(hub: Hub, provider: Provider, douane: Douane, folder: Path) -> None:
    signing_in = await douane.start("login", "--device")
    [user_code] = await said(signing_in, "with code")
    provider.confirm(user_code)
    await signing_in.wait()
    with LoopbackIssuer() as stranger:  # any server that is not this hub
        code, _, err = await douane("approvals", "list", "--hub", stranger.url)
        assert (code, "login.none" in err) == (1, True)
    code, _, err = await douane("approvals", "list", "--hub", "http://hub.example")
    assert (code, "hub.address" in err) == (1, True)
    # The hub tells who asks by its address how to sign in; that is another sign-in.
    url = f"http://{hub.config.console.listen}"
    assert (await douane("approvals", "list", "--hub", url))[0] == 0
    assert (await douane("approvals", "list", "--hub", url.replace("127.0.0.1", "localhost")))[0] == 1


async def test_the_operator_needs_no_sign_in_where_nobody_can(folder: Path, provider: Provider, douane: Douane) -> None:
    async with running(folder, provider.issuer, None) as hub:
        configure(folder, hub)
        held, approval_id = await hub.held(requirements=LOCAL)
        code, out, _ = await douane("approvals", "approve", approval_id)
        assert code == 0
        assert f"local:{os.getuid()}" in out
        assert list((await held.until("granted")).approved_by) == [f"local:{os.getuid()}"]
        code, _, err = await douane("login")
        assert (code, "login.no_provider" in err) == (1, True)
        code, _, err = await douane("approvals", "list", "--as", "signed-in")
        assert (code, "login.none" in err) == (1, True)
    code, _, err = await douane("approvals", "list", "--as", "local")
    assert (code, "hub.unavailable" in err) == (1, True)
    assert (await douane("approvals", "list", "--as", "root"))[0] == 2


async def test_show_prints_the_request_and_obeys_nothing_in_it(hub: Hub, douane: Douane) -> None:
    _, approval_id = await hub.held(
        path="/api/v1/\x1b]0;pwned\x07dashboard",
        query="a=\u202eb",
        subject="repo:acme\n  state       approved",
        message="fine\r\x1b[2K",
        headers_json=json.dumps([["accept", "*/*"], ["x-evil", "1\n  approval    other"]]),
        body=json.dumps({"title": "\x1b[31mred\u200b", "lines": "a\nb"}).encode(),
        body_size=99,
        hits_json=json.dumps([{"policy": "deletes", "digest": "abcd", "values": {"n": 1}}]),
    )
    code, out, _ = await douane("approvals", "show", approval_id, "--as", "local")
    assert code == 0
    assert not [c for c in out if not c.isprintable() and c != "\n"]
    assert out.count("  state ") == 2  # ours, and the subject's, which stands behind its name on one line
    assert "repo:acme\\x0a  state       approved (github)" in out
    assert "  | {" in out
    assert '"title": "\\u001b[31mred\\x200b"' in out
    assert "the first" in out
    assert "mona@acme.example" in out
    code, out, _ = await douane("approvals", "show", approval_id[:6], "--as", "local", "--json")
    assert json.loads(out)["subject"] == "repo:acme\n  state       approved"


@pytest.mark.parametrize(
    ("body", "rows"),
    [
        (b'{"id": "all", "id": "one"}', ['  | {"id": "all", "id": "one"}', "  (26 bytes)"]),
        (b'{"n": 10000000000000000.5}', ['  | {"n": 10000000000000000.5}', "  (26 bytes)"]),
        (b'{"a" :\n[1, "b  c"]}', ["  | {", '  |   "a": [', "  |     1,", '  |     "b  c"', "  |   ]", "  | }"]),
        (b'{"a":"\\u00e9"}', ["  | {", '  |   "a": "\u00e9"', "  | }", "  (14 bytes)"]),
    ],
    ids=["a name twice", "a number that is cut", "blanks", "escapes"],
)
async def test_show_lays_json_out_only_where_it_stays_what_it_is(
    hub: Hub, douane: Douane, body: bytes, rows: list[str]
) -> None:
    _, approval_id = await hub.held(body=body, body_size=len(body))
    _, out, _ = await douane("approvals", "show", approval_id, "--as", "local")
    assert "\n".join(rows) in out


async def test_show_says_what_it_does_not_show(hub: Hub, douane: Douane) -> None:
    _, cut = await hub.held(body=b"\xff" * 100, body_size=250)  # 300 bytes once they are text
    assert "(250 bytes; the first 100 are shown)" in (await douane("approvals", "show", cut, "--as", "local"))[1]
    _, dark = await hub.held(body=b"", body_size=250)
    assert "a body of 250 bytes that cannot be decoded" in (await douane("approvals", "show", dark, "--as", "local"))[1]


async def test_json_drives_no_terminal_either(hub: Hub, douane: Douane) -> None:
    path = "/\x9b31m\u202e\x7f\U000e0041\u00e9"
    _, approval_id = await hub.held(path=path)
    _, out, _ = await douane("approvals", "show", approval_id, "--as", "local", "--json")
    assert out.rstrip("\n").isprintable()
    assert "\u00e9" in out
    assert json.loads(out)["path"] == path


async def test_watch_prints_what_waits_and_what_comes(hub: Hub, douane: Douane) -> None:
    _, first = await hub.held()
    watching = await douane.start("approvals", "watch", "--as", "local", "--json", "--exit-after", "3")
    assert watching.stdout is not None
    assert json.loads(await asyncio.wait_for(watching.stdout.readline(), 20))["id"] == first
    _, second = await hub.held()
    assert json.loads(await asyncio.wait_for(watching.stdout.readline(), 20))["id"] == second
    _, third = await hub.held()
    out, _ = await asyncio.wait_for(watching.communicate(), 20)
    assert json.loads(out)["id"] == third
    assert watching.returncode == 0


# --- the flows, without a process ------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "xdg"))


def visit(provider: Provider, change: Callable[[str], str] = lambda url: url) -> Callable[[Prompt], None]:
    """A browser that signs in at once, after `change` of the address that it is sent back to."""

    def go(prompt: Prompt) -> None:
        class Back(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
                return super().redirect_request(req, fp, code, msg, headers, change(newurl))

        def browse() -> None:
            with contextlib.suppress(OSError):
                urllib.request.build_opener(Back).open(prompt.url, timeout=10).close()

        threading.Thread(target=browse, daemon=True).start()

    return go


def sign_in(provider: Provider, **more: Any) -> Kept:
    found = flows.Provider.discover(provider.url, CLIENT)
    return found.kept(found.by_browser("openid email", visit(provider, **more)), "https://hub", "email")


def test_the_browser_flow_uses_pkce_and_state(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = sign_in(provider)
    assert kept.user == "ann@acme.example"
    assert claims_of(kept.id_token)["aud"] == CLIENT
    monkeypatch.setattr(flows, "_PATIENCE_S", 1)
    with pytest.raises(IdentityError, match=r"login\.refused"):  # a page elsewhere cannot hand us its own code
        sign_in(provider, change=lambda url: url.replace("state=", "state=x"))
    with pytest.raises(IdentityError, match=r"login\.refused"):
        sign_in(provider, change=lambda url: url.replace("code=", "code=x"))
    with pytest.raises(IdentityError, match=r"login\.refused"):  # RFC 9207: another provider's answer
        sign_in(provider, change=lambda url: f"{url}&iss=https://other.example")
    provider.user["nonce"] = "another sign-in's"
    provider.id_token = lambda **_claims: provider.issuer.token(iss=provider.url, aud=CLIENT)  # type: ignore[method-assign]
    with pytest.raises(IdentityError, match="nonce"):
        sign_in(provider)


def by_device(provider: Provider, *, approved: bool = True, slept: list[float] | None = None) -> Any:
    waits = slept if slept is not None else []
    codes: list[str] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) > 3:
            provider.confirm(codes[0], approved=approved)

    found = flows.Provider.discover(provider.url, CLIENT)
    return found.by_device("openid", lambda prompt: codes.append(prompt.code), sleep)


def test_the_device_flow_waits_as_it_is_told(provider: Provider) -> None:
    provider.slow_downs = 1
    slept: list[float] = []
    assert by_device(provider, slept=slept)["id_token"]
    assert slept == [1, 6, 6, 6]
    with pytest.raises(IdentityError, match="access_denied"):
        by_device(provider, approved=False)
    with pytest.raises(IdentityError, match=r"login\.(refused|provider)"):
        flows.Provider.discover(provider.url, "another-client").by_device("openid", lambda _: None, lambda _: None)


def test_a_sign_in_is_renewed_and_its_refresh_token_replaced(provider: Provider) -> None:
    login = Login("https://hub")
    provider.token_s = 5
    login.keep(sign_in(provider))
    provider.token_s = 600
    before = login.kept()
    assert before is not None
    token = login.id_token()
    after = login.kept()
    assert after is not None
    assert token == after.id_token != before.id_token
    assert after.refresh_token != before.refresh_token
    assert login.id_token() == token
    assert before.id_token not in repr(before) + repr(after)

    provider.user["sub"] = "somebody-else"
    login.keep(Kept(**{**vars_of(after), "id_token": before.id_token}))
    with pytest.raises(IdentityError, match="somebody else"):
        login.id_token()
    login.keep(Kept(**{**vars_of(after), "id_token": provider.id_token(exp=1), "refresh_token": "used"}))
    with pytest.raises(IdentityError, match=r"login\.expired"):
        login.id_token()


def vars_of(kept: Kept) -> dict[str, str]:
    return {name: getattr(kept, name) for name in Kept.__slots__}


def test_a_file_of_another_hub_is_none(provider: Provider) -> None:
    login = Login("https://hub")
    login.keep(Kept("https://other", provider.url, CLIENT, "ann", provider.id_token()))
    assert login.kept() is None
    login._path.write_text("{")
    assert login.kept() is None
    assert Login.of(Place("https://hub")).forget()
    assert not login.forget()


def test_a_provider_in_the_clear_is_refused() -> None:
    with pytest.raises(IdentityError, match=r"login\.provider"):
        flows.Provider.discover("http://id.example", CLIENT)
    document = {"issuer": "https://id.example", "token_endpoint": "http://id.example/token"}
    with pytest.raises(IdentityError, match="no usable token_endpoint"):
        flows.Provider(document, CLIENT, None).refresh(Kept("h", "i", CLIENT, "u", "t", "r"), "h")
