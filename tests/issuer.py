"""A real OIDC issuer on loopback for tests: discovery, JWKS and signed tokens with any claims (keys by `cryptography`,
signatures by PyJWT). `make demo` uses a library's whole provider; here a test decides every claim and every fault."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa


class LoopbackIssuer:
    """`with LoopbackIssuer() as issuer:` serves `issuer.url`; `issuer.token(sub=...)` signs one."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.kid = "test-1"
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                document = {
                    "/.well-known/openid-configuration": {
                        "issuer": issuer.url,
                        "jwks_uri": f"{issuer.url}/jwks",
                        "id_token_signing_alg_values_supported": ["RS256"],
                    },
                    "/jwks": {"keys": [issuer._jwk()]},
                }.get(self.path)
                body = json.dumps(document).encode()
                self.send_response(200 if document else 404)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _jwk(self) -> dict[str, Any]:
        jwk: dict[str, Any] = jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return {**jwk, "kid": self.kid, "use": "sig", "alg": "RS256"}

    def token(self, *, expires_in: float = 600, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token of GitHub's shape for audience `douane`; keyword arguments override or add claims."""
        job = {
            "aud": "douane",
            "sub": "repo:acme/infra:ref:refs/heads/main",
            "repository": "acme/infra",
            "repository_id": "74",
            "ref": "refs/heads/main",
            "run_id": "1001",
            "run_number": "7",
            "run_attempt": "1",
            "workflow": "deploy",
            "actor": "mona",
        }
        return self.id_token(expires_in=expires_in, headers=headers, **(job | claims))

    def id_token(self, *, expires_in: float = 600, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """A person's token, with these claims alone beside its issuer and times."""
        now = int(time.time())
        full = {"iss": self.url, "iat": now, "nbf": now - 5, "exp": now + int(expires_in)} | claims
        return jwt.encode(full, self._key, algorithm="RS256", headers={"kid": self.kid, **(headers or {})})

    def __enter__(self) -> LoopbackIssuer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_exc: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
