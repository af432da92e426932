"""The approvers' OpenID provider, as `douane login` uses it: a public client without a secret.

Device flow (RFC 8628), authorization code with PKCE on a loopback address (RFC 7636, RFC 8252), and refresh tokens.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from ext_proc.cli.sign_in import Kept, claims_of
from ext_proc.errors import IdentityError
from ext_proc.oidc.fetch import discovery_url
from ext_proc.web import WebError, is_allowed_url, send

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_TIMEOUT_S = 15
_PATIENCE_S = 300


@dataclass(frozen=True, slots=True)
class Prompt:
    """Where a person signs in. `code` is what they compare or type, empty where the address has it all."""

    url: str
    code: str = ""


class Provider:
    """IdentityError `login.provider` where it does not do what it must, `login.refused` where it says no."""

    def __init__(self, document: Mapping[str, Any], client_id: str, ca_file: str | None) -> None:
        self.issuer: str = document["issuer"]
        self._document = document
        self._client_id = client_id
        self._ca_file = ca_file

    @classmethod
    def discover(cls, issuer: str, client_id: str, ca_file: str | None = None) -> Provider:
        document = _ask("GET", discovery_url(issuer), None, ca_file)[1]
        if document.get("issuer") != issuer:
            raise _unusable(issuer, f"it calls itself {str(document.get('issuer'))[:200]!r}")
        return cls(document, client_id, ca_file)

    @property
    def has_device_flow(self) -> bool:
        return "device_authorization_endpoint" in self._document

    def by_device(
        self, scopes: str, show: Callable[[Prompt], None], sleep: Callable[[float], None] = time.sleep
    ) -> Any:
        """Tokens, once a person has signed in elsewhere. `show` tells them where."""
        asked = {"client_id": self._client_id, "scope": scopes}
        status, started = self._post("device_authorization_endpoint", asked)
        try:
            device_code, user_code = str(started["device_code"]), str(started["user_code"])
            url = str(started.get("verification_uri_complete") or started["verification_uri"])
            interval, until = float(started.get("interval", 5)), time.monotonic() + float(started["expires_in"])
        except (KeyError, ValueError, TypeError):
            raise self._refused(status, started) from None
        show(Prompt(url, user_code))
        wanted = {"grant_type": DEVICE_GRANT, "device_code": device_code, "client_id": self._client_id}
        while time.monotonic() < until:
            sleep(interval)
            status, answer = self._post("token_endpoint", wanted)
            if status == 200:
                return answer
            if answer.get("error") == "slow_down":
                interval += 5
            elif answer.get("error") != "authorization_pending":
                raise self._refused(status, answer)
        raise IdentityError("login.refused", "nobody signed in in time", remedy="Try again.")

    def by_browser(self, scopes: str, show: Callable[[Prompt], None]) -> dict[str, Any]:
        """Tokens, once the browser comes back to a port of this machine."""
        verifier, state, nonce = (secrets.token_urlsafe(48) for _ in range(3))
        with _Callback() as callback:
            redirect = f"http://127.0.0.1:{callback.server_port}/callback"
            query = {
                "response_type": "code",
                "client_id": self._client_id,
                "redirect_uri": redirect,
                "scope": scopes,
                "state": state,
                "nonce": nonce,
                "code_challenge": base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"="),
                "code_challenge_method": "S256",
            }
            show(Prompt(f"{self._endpoint('authorization_endpoint')}?{urlencode(query)}"))
            came = callback.wait(state)
        if came.get("error") or came.get("iss", self.issuer) != self.issuer or not came.get("code"):
            raise self._refused(400, came)
        grant = {
            "grant_type": "authorization_code",
            "code": came["code"],
            "redirect_uri": redirect,
            "client_id": self._client_id,
            "code_verifier": verifier,
        }
        status, answer = self._post("token_endpoint", grant)
        if status != 200:
            raise self._refused(status, answer)
        if claims_of(str(answer.get("id_token", ""))).get("nonce") != nonce:
            raise _unusable(self.issuer, "its token is not the answer to this sign-in (nonce)")
        return answer

    def kept(self, answer: Mapping[str, Any], hub: str, user_claim: str) -> Kept:
        """What is kept of the tokens, once they are for this client."""
        token = answer.get("id_token")
        claims = claims_of(token) if isinstance(token, str) else {}
        audience = claims.get("aud")
        if claims.get("iss") != self.issuer or self._client_id not in (
            audience if isinstance(audience, list) else [audience]
        ):
            raise _unusable(self.issuer, "it gave no ID token for this client; do the scopes have `openid`?")
        assert isinstance(token, str)
        user = str(claims.get(user_claim) or claims["sub"])
        return Kept(hub, self.issuer, self._client_id, user, token, str(answer.get("refresh_token") or ""))

    def refresh(self, kept: Kept, hub: str) -> Kept | None:
        """With a new ID token; None where the provider gives none any more."""
        grant = {"grant_type": "refresh_token", "refresh_token": kept.refresh_token, "client_id": self._client_id}
        status, answer = self._post("token_endpoint", grant)
        if status != 200 or not answer.get("id_token"):
            return None
        if claims_of(str(answer["id_token"])).get("sub") != claims_of(kept.id_token).get("sub"):
            raise _unusable(self.issuer, "it renewed the sign-in for somebody else")
        renewed = self.kept({"refresh_token": kept.refresh_token, **answer}, hub, "")
        return replace(renewed, user=kept.user)

    def _post(self, name: str, fields: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        return _ask("POST", self._endpoint(name), fields, self._ca_file)

    def _endpoint(self, name: str) -> str:
        url = self._document.get(name)
        if not isinstance(url, str) or not is_allowed_url(url):
            raise _unusable(self.issuer, f"it has no usable {name}")
        return url

    def _refused(self, status: int, answer: Mapping[str, Any]) -> IdentityError:
        error = str(answer.get("error") or f"it answered {status}")
        why = "".join(c if c.isprintable() else "?" for c in f"{error} {answer.get('error_description') or ''}")
        return IdentityError("login.refused", f"{self.issuer} refuses: {why.strip()[:300]}", remedy="Try again.")


class _Callback(HTTPServer):
    """One answer of a browser on loopback, with the `state` that was sent; any other request is none."""

    def __init__(self) -> None:
        server = self
        self.came: dict[str, str] | None = None
        self.expected = ""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                ours = parts.path == "/callback" and secrets.compare_digest(
                    query.get("state", "").encode(), server.expected.encode()
                )
                if ours:
                    server.came = query
                body = b"You may close this window and go back to the terminal." if ours else b"Not found."
                self.send_response(200 if ours else 404)
                self.send_header("content-type", "text/plain; charset=utf-8")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: object) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)
        self.timeout = 1

    def wait(self, state: str) -> dict[str, str]:
        self.expected = state
        until = time.monotonic() + _PATIENCE_S
        while self.came is None:
            if time.monotonic() > until:
                raise IdentityError("login.refused", "the browser did not come back in time", remedy="Try --device.")
            self.handle_request()
        return self.came


def _ask(method: str, url: str, fields: Mapping[str, str] | None, ca_file: str | None) -> tuple[int, dict[str, Any]]:
    form = {"content-type": "application/x-www-form-urlencoded"}
    try:
        answer = send(
            method,
            url,
            deadline=time.monotonic() + _TIMEOUT_S,
            headers=None if fields is None else form,
            body=None if fields is None else urlencode(fields).encode(),
            ca_file=ca_file,
        )
        found = json.loads(answer.body)
    except (WebError, ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, WebError) else "it answers no JSON"
        raise IdentityError(
            "login.provider",
            f"the provider at {urlsplit(url).netloc} cannot be asked: {why}",
            remedy="Check approvals.sign_in.issuer and the network.",
        ) from None
    if not isinstance(found, dict):
        raise IdentityError("login.provider", f"the provider at {urlsplit(url).netloc} answers no JSON object")
    return answer.status, found


def _unusable(issuer: str, why: str) -> IdentityError:
    return IdentityError("login.provider", f"the provider {issuer} cannot be used: {why}")
