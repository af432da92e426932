"""The verifier against an OpenID provider that is not ours, from discovery to an ID token of the code flow."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
import urllib3

from ext_proc.config import Issuer
from ext_proc.errors import IdentityError
from ext_proc.oidc import KeySets, Verifier, caller

# The provider uses a part of Authlib that its next release removes; nothing of that is ours.
pytestmark = pytest.mark.filterwarnings("ignore:get_jwt_config:DeprecationWarning")

CALLBACK = "http://localhost/callback"


@pytest.fixture
def provider() -> Iterator[str]:
    with warnings.catch_warnings(record=True):  # Authlib deprecates on import, and insists on showing it
        warnings.simplefilter("ignore")  # it does not where another test has imported it before
        import oidc_provider_mock

    with oidc_provider_mock.run_server_in_thread() as server:
        yield f"http://localhost:{server.server_port}"


def id_token(provider: str, subject: str) -> str:
    with urllib3.PoolManager() as http:
        answer = http.request(
            "POST",
            f"{provider}/oauth2/authorize?client_id=douane&redirect_uri={CALLBACK}&response_type=code&scope=openid",
            fields={"sub": subject},
            encode_multipart=False,
            redirect=False,
        )
        (code,) = parse_qs(urlsplit(answer.headers["location"]).query)["code"]
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, "client_id": "douane"}
        answer = http.request(
            "POST", f"{provider}/oauth2/token", fields={**form, "client_secret": "x"}, encode_multipart=False
        )
    return str(json.loads(answer.data)["id_token"])


async def test_an_id_token_is_verified(provider: str) -> None:
    token = id_token(provider, "alice@example.com")
    keysets = KeySets()
    verifier = Verifier({"mock": Issuer(issuer=provider, audience="douane")}, keysets)
    name, claims = await verifier.verify(token)
    assert (name, claims["sub"], claims["iss"]) == ("mock", "alice@example.com", provider)
    assert caller(name, claims).session_label == "alice@example.com"
    header, body, signature = token.split(".")
    for changed, reason in (
        (f"{header}.{body}.{signature[::-1]}", "bad_signature|malformed"),
        (f"{header}.{body[:-4]}.{signature}", "malformed"),
    ):
        with pytest.raises(IdentityError, match=rf"identity\.({reason})"):
            await verifier.verify(changed)
    other = Verifier({"mock": Issuer(issuer=provider, audience="other")}, keysets)
    with pytest.raises(IdentityError, match=r"identity\.audience"):
        await other.verify(token)


async def test_discovery_must_speak_for_the_issuer(provider: str) -> None:
    """The same server by another name: its discovery document answers for whoever asks, and RFC 8414 has an exact
    comparison for that."""
    settings = Issuer(issuer=f"{provider}/", audience="douane")
    token = id_token(provider, "alice")
    with pytest.raises(IdentityError, match=r"identity\.unknown_issuer"):
        await Verifier({"mock": settings}, KeySets()).verify(token)
    with pytest.raises(IdentityError) as caught:
        await KeySets().keys(settings, None, "RS256")
    assert "speaks for the issuer" in caught.value.detail
