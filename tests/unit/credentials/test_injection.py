import base64

import pytest

from ext_proc.config import Credential
from ext_proc.credentials import Credentials, Injection
from ext_proc.errors import ConfigError, CredentialError


def credential(**place: object) -> Credential:
    return Credential.model_validate({"from": {"env": "DOUANE_TEST_KEY"}, **place})


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ({"header": "DD-API-KEY"}, ("dd-api-key", "dd-api-key", None, b"s3cret")),
        ({"header": "x", "name": "key"}, ("key", "x", None, b"s3cret")),
        ({"bearer": True}, ("authorization", "authorization", None, b"Bearer s3cret")),
        ({"basic": "bob"}, ("authorization", "authorization", None, b"Basic " + base64.b64encode(b"bob:s3cret"))),
        ({"basic": ""}, ("authorization", "authorization", None, b"Basic " + base64.b64encode(b":s3cret"))),
        ({"query": "api_key"}, ("api_key", None, "api_key", b"s3cret")),
    ],
)
async def test_the_forms(
    place: dict[str, object], expected: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOUANE_TEST_KEY", "s3cret")
    (found,) = await Credentials([credential(**place)]).resolve()
    assert (found.label, found.header, found.query, found.value) == expected
    assert found.secret == b"s3cret"
    assert "s3cret" not in repr(found)
    assert base64.b64encode(b"bob:s3cret").decode() not in repr(found)


async def test_the_environment_is_looked_up_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = Credentials([credential(header="x")])
    for value in (b"one", b"two", b"caf\xc3\xa9 \xff"):
        monkeypatch.setenv("DOUANE_TEST_KEY", value.decode("utf-8", "surrogateescape"))
        assert (await credentials.resolve())[0].value == value


@pytest.mark.parametrize(
    "value",
    ["", " ", *("s3cret" + end for end in ("\nb", "\r\nX-Evil: 1", "\tb", "\x7f", "\x1b[2J", " ", "\n")), " s3cret"],
)
@pytest.mark.parametrize("place", [{"header": "x"}, {"bearer": True}, {"basic": "u"}, {"query": "q"}])
async def test_values_that_cannot_stand_in_a_request(
    value: str, place: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOUANE_TEST_KEY", value)
    with pytest.raises(CredentialError) as caught:
        await Credentials([credential(name="dd-key", **place)]).resolve()
    assert caught.value.reason == "credential.invalid"
    assert caught.value.http_status == 502
    assert "dd-key" in caught.value.message
    assert "env DOUANE_TEST_KEY" in caught.value.message
    assert "s3cret" not in str(caught.value)


async def test_a_missing_variable_and_all_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOUANE_TEST_KEY", "s3cret")
    monkeypatch.delenv("DOUANE_TEST_MISSING", raising=False)
    missing = Credential.model_validate({"header": "y", "from": {"env": "DOUANE_TEST_MISSING"}})
    with pytest.raises(CredentialError) as caught:
        await Credentials([credential(header="x"), missing]).resolve()
    assert (caught.value.reason, caught.value.http_status) == ("credential.unavailable", 503)
    assert "the credential y: env DOUANE_TEST_MISSING is not set" in str(caught.value)
    assert "s3cret" not in str(caught.value)


async def test_none_is_fine() -> None:
    assert await Credentials([]).resolve() == ()


@pytest.mark.parametrize("user", ["a:b", "a\n", "\0"])
def test_a_user_name_that_basic_cannot_carry(user: str) -> None:
    with pytest.raises(ConfigError, match="dd-key"):
        Credentials([credential(name="dd-key", basic=user)])


def test_injections_are_equal_by_value() -> None:
    one = Injection("a", "x", None, b"v", b"v")
    assert one == Injection("a", "x", None, b"v", b"v") != Injection("a", "x", None, b"w", b"w")
