"""A token endpoint by authlib's server side: client authentication, client credentials, revocation, and RFC 8693 as a
grant that verifies the subject token's signature."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import jwt
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import ClientMixin, TokenMixin, grants
from authlib.oauth2.rfc6749.errors import InvalidGrantError, InvalidRequestError
from authlib.oauth2.rfc6749.grants import BaseGrant, TokenEndpointMixin
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion
from flask import Flask
from werkzeug.serving import make_server

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"


class Client(ClientMixin):
    def __init__(self, client_id: str, method: str, secret: str = "", key: Any = None) -> None:
        self.client_id, self.method, self.secret, self.key = client_id, method, secret, key

    def get_client_id(self) -> str:
        return self.client_id

    def get_allowed_scope(self, scope: str) -> str:
        return " ".join(s for s in (scope or "").split() if s in ("read", "write"))

    def check_client_secret(self, client_secret: str) -> bool:
        return client_secret == self.secret

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == self.method

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in ("client_credentials", EXCHANGE)


class Token(TokenMixin):
    def __init__(self, values: dict[str, Any], client: Client) -> None:
        self.values, self.client, self.revoked = values, client, False

    def check_client(self, client: Client) -> bool:
        return client is self.client


class OAuthServer:
    """`with OAuthServer(clients, subject_key) as server:` serves `server.url`. `tokens` are those issued."""

    def __init__(self, clients: list[Client], verify_subject: Callable[[str], dict[str, Any]] | None = None) -> None:
        self.tokens: dict[str, Token] = {}
        self.forms: list[dict[str, str]] = []
        self.expires_in: int | None = 600
        self.delay = 0.0
        known = {client.client_id: client for client in clients}
        outer = self

        class Issuing(AuthorizationServer):  # type: ignore[misc]
            def send_signal(self, *_args: object, **_kwargs: object) -> None: ...

        class Exchange(BaseGrant, TokenEndpointMixin):  # type: ignore[misc]
            GRANT_TYPE = EXCHANGE
            TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", "client_secret_post", "private_key_jwt", "none")

            def validate_token_request(self) -> None:
                self.request.client = self.authenticate_token_endpoint_client()
                form = self.request.form
                if form.get("subject_token_type") != "urn:ietf:params:oauth:token-type:jwt":
                    raise InvalidRequestError("subject_token_type")
                try:
                    assert verify_subject is not None
                    self.request.user = verify_subject(form["subject_token"])
                except jwt.PyJWTError:
                    raise InvalidGrantError("the subject token is not valid") from None

            def create_token_response(self) -> tuple[int, dict[str, Any], list[tuple[str, str]]]:
                token = self.generate_token(scope=self.request.form.get("scope"), include_refresh_token=False)
                token["issued_token_type"] = "urn:ietf:params:oauth:token-type:access_token"
                token["access_token"] = f"{self.request.user['sub']}.{token['access_token']}"
                self.save_token(token)
                return 200, token, self.TOKEN_RESPONSE_HEADER

        class ByAssertion(JWTBearerClientAssertion):  # type: ignore[misc]
            CLIENT_AUTH_METHOD = "private_key_jwt"

            def __init__(self) -> None:
                super().__init__(validate_jti=True)
                self.seen: set[str] = set()

            def get_audiences(self) -> list[str]:
                return [f"{outer.url}/token"]

            def validate_jti(self, claims: dict[str, Any], jti: str) -> bool:
                fresh = jti not in self.seen
                self.seen.add(jti)
                return fresh

            def resolve_client_public_key(self, client: Client) -> Any:
                return client.key

        class Revocation(RevocationEndpoint):  # type: ignore[misc]
            CLIENT_AUTH_METHODS = ("client_secret_basic", "client_secret_post", "private_key_jwt")

            def query_token(self, token_string: str, token_type_hint: str) -> Token | None:
                return outer.tokens.get(token_string)

            def revoke_token(self, token: Token, request: object) -> None:
                token.revoked = True

        def save(token: dict[str, Any], request: Any) -> None:
            outer.forms.append(request.form.to_dict())
            outer.tokens[token["access_token"]] = Token(dict(token), request.client)

        app = Flask("oauth")
        app.config["OAUTH2_TOKEN_EXPIRES_IN"] = {"client_credentials": 600, EXCHANGE: 600}
        server = Issuing(app, query_client=known.get, save_token=save)

        class ClientCredentials(grants.ClientCredentialsGrant):  # type: ignore[misc]
            TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", "client_secret_post", "private_key_jwt")

        server.register_grant(ClientCredentials)
        server.register_grant(Exchange)
        server.register_endpoint(Revocation)

        @app.post("/token")
        def token() -> Any:
            time.sleep(outer.delay)
            answer = server.create_token_response()
            if answer.status_code == 200:
                document = json.loads(answer.get_data())
                document.pop("expires_in", None)
                if outer.expires_in is not None:
                    document["expires_in"] = outer.expires_in
                answer.set_data(json.dumps(document))
            return answer

        @app.post("/revoke")
        def revoke() -> Any:
            return server.create_endpoint_response("revocation")

        self._http = make_server("127.0.0.1", 0, app, threaded=True)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        server.register_client_auth_method("private_key_jwt", ByAssertion())
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def __enter__(self) -> OAuthServer:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._http.shutdown()
        self._http.server_close()
