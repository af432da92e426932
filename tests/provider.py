"""An OpenID provider for people, made of Authlib's grants: code flow with PKCE for public clients, device flow, refresh
tokens. Its tokens are signed by `tests.issuer`, so that a test decides about every claim."""

from __future__ import annotations

import threading
import time
import warnings
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from tests.issuer import LoopbackIssuer

with warnings.catch_warnings(record=True):  # Authlib deprecates parts of itself on import, and insists on showing it
    import flask
    import werkzeug.serving
    from authlib.integrations.flask_oauth2 import AuthorizationServer
    from authlib.oauth2.rfc6749 import ClientMixin, TokenMixin, grants
    from authlib.oauth2.rfc7636 import CodeChallenge
    from authlib.oauth2.rfc8628 import (
        DEVICE_CODE_GRANT_TYPE,
        DeviceAuthorizationEndpoint,
        DeviceCodeGrant,
        DeviceCredentialDict,
    )

CLIENT = "douane-cli"


class _Client(ClientMixin):
    def get_client_id(self) -> str:
        return CLIENT

    def get_default_redirect_uri(self) -> None:
        return None

    def get_allowed_scope(self, scope: str) -> str:
        return scope

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri.startswith("http://127.0.0.1:")

    def check_client_secret(self, client_secret: str) -> bool:
        return False

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == "none"

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return True


@dataclass
class _Kept(TokenMixin):
    """A code or a refresh token."""

    user: dict[str, Any]
    scope: str
    redirect_uri: str = ""
    nonce: str | None = None
    code_challenge: str | None = None
    code_challenge_method: str | None = None
    code: str = ""

    def check_client(self, client: _Client) -> bool:
        return True

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope


@dataclass
class Provider:
    """`with Provider() as provider:` serves `provider.url`. `user` are the claims of who signs in, by browser or by
    `confirm(user_code)`; `token_s` is how long an ID token lasts."""

    user: dict[str, Any] = field(default_factory=dict)
    token_s: float = 600
    slow_downs: int = 0
    device: bool = True

    def __post_init__(self) -> None:
        self.issuer = LoopbackIssuer()  # for its key alone
        self._codes: dict[str, _Kept] = {}
        self._devices: dict[str, DeviceCredentialDict] = {}
        self._grants: dict[str, tuple[dict[str, Any], bool]] = {}
        self.refresh_tokens: dict[str, _Kept] = {}
        self._server = werkzeug.serving.make_server("127.0.0.1", 0, self._app(), threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def id_token(self, **claims: Any) -> str:
        """Of `user`, for the client."""
        return self.issuer.id_token(
            expires_in=self.token_s, **{"iss": self.url, "aud": CLIENT, "iat": int(time.time()), **self.user, **claims}
        )

    def confirm(self, user_code: str, *, approved: bool = True) -> None:
        """The person typed the code."""
        self._grants[user_code] = (self.user, approved)

    def __enter__(self) -> Provider:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_exc: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.issuer._server.server_close()

    def _app(self) -> flask.Flask:
        app = flask.Flask(__name__)
        app.config["OAUTH2_REFRESH_TOKEN_GENERATOR"] = True
        server = AuthorizationServer(app, query_client=self._client, save_token=self._save)
        code, refresh, device, endpoint = _grants(self)
        server.register_grant(code, [CodeChallenge(required=True)])
        server.register_grant(refresh)
        server.register_grant(device)
        server.register_endpoint(endpoint)

        @app.get("/.well-known/openid-configuration")
        def discovery() -> dict[str, Any]:
            document = {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "jwks_uri": f"{self.url}/jwks",
            }
            return document | ({"device_authorization_endpoint": f"{self.url}/device"} if self.device else {})

        @app.get("/jwks")
        def jwks() -> dict[str, Any]:
            return {"keys": [self.issuer._jwk()]}

        @app.get("/authorize")
        def authorize() -> Any:
            grant = server.get_consent_grant(end_user=self.user)
            return server.create_authorization_response(grant=grant, grant_user=self.user)

        @app.post("/token")
        def token() -> Any:
            return server.create_token_response()

        @app.post("/device")
        def device_authorization() -> Any:
            return server.create_endpoint_response(endpoint.ENDPOINT_NAME)

        return app

    def _client(self, client_id: str) -> _Client | None:
        return _Client() if client_id == CLIENT else None

    def _save(self, token: dict[str, Any], request: Any) -> None:
        kept = getattr(request, "authorization_code", None)
        nonce = {} if kept is None or kept.nonce is None else {"nonce": kept.nonce}
        token["id_token"] = self.id_token(**nonce)
        if "refresh_token" in token:
            self.refresh_tokens[token["refresh_token"]] = _Kept(request.user, token.get("scope", ""))


def _grants(provider: Provider) -> tuple[type[Any], ...]:
    class Code(grants.AuthorizationCodeGrant):
        TOKEN_ENDPOINT_AUTH_METHODS = ("none",)

        def save_authorization_code(self, code: str, request: Any) -> None:
            data = request.payload.data
            provider._codes[code] = _Kept(
                request.user,
                request.payload.scope,
                request.payload.redirect_uri,
                data.get("nonce"),
                data.get("code_challenge"),
                data.get("code_challenge_method"),
                code,
            )

        def query_authorization_code(self, code: str, client: _Client) -> _Kept | None:
            return provider._codes.get(code)

        def delete_authorization_code(self, authorization_code: _Kept) -> None:
            del provider._codes[authorization_code.code]

        def authenticate_user(self, authorization_code: _Kept) -> dict[str, Any]:
            return authorization_code.user

    class Refresh(grants.RefreshTokenGrant):
        TOKEN_ENDPOINT_AUTH_METHODS = ("none",)
        INCLUDE_NEW_REFRESH_TOKEN = True  # each is good for one use

        def authenticate_refresh_token(self, refresh_token: str) -> _Kept | None:
            return provider.refresh_tokens.pop(refresh_token, None)

        def authenticate_user(self, refresh_token: _Kept) -> dict[str, Any]:
            return refresh_token.user

        def revoke_old_credential(self, refresh_token: _Kept) -> None: ...

    class Device(DeviceCodeGrant):
        TOKEN_ENDPOINT_AUTH_METHODS = ("none",)

        def query_device_credential(self, device_code: str) -> DeviceCredentialDict | None:
            return provider._devices.get(device_code)

        def query_user_grant(self, user_code: str) -> tuple[dict[str, Any], bool] | None:
            return provider._grants.get(user_code)

        def should_slow_down(self, credential: DeviceCredentialDict) -> bool:
            provider.slow_downs -= 1
            return provider.slow_downs >= 0

    class Endpoint(DeviceAuthorizationEndpoint):
        CLIENT_AUTH_METHODS = ("none",)
        INTERVAL = 1

        def get_verification_uri(self) -> str:
            return f"{provider.url}/activate"

        def save_device_credential(self, client_id: str, scope: str, data: dict[str, Any]) -> None:
            provider._devices[data["device_code"]] = DeviceCredentialDict(
                {"client_id": client_id, "scope": scope, "expires_at": time.time() + data["expires_in"], **data}
            )

    assert Device.GRANT_TYPE == DEVICE_CODE_GRANT_TYPE
    return Code, Refresh, Device, Endpoint
