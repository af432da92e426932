"""Who decides: a person of the approvers' own OpenID provider, or the operator of this machine.

Tokens of the configuration's `issuers`, those of agents and jobs, are unknown here: they approve nothing, even where
one provider serves both, because they are made for another audience.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ext_proc.config.models import Issuer
from ext_proc.errors import ApprovalError, IdentityError
from ext_proc.hub.approvals.states import LOCAL, Approver
from ext_proc.hub.approvals.web import SAFE, Origins, guarded
from ext_proc.oidc import KeySets, Verifier, is_job

if TYPE_CHECKING:
    from ext_proc.config.approvals import SignIn

_SIGN_IN = "Sign in: `douane login`."
_MAX_NAME = 256


class WhoAsks(Protocol):
    """Tells who is behind a request to the API, and until when that holds (seconds since the epoch)."""

    async def __call__(self, request: Request) -> tuple[Approver, float]:
        """IdentityError (401, 503), ApprovalError."""
        ...


class SignedIn:
    """`Authorization: Bearer ID_TOKEN`; nothing else, and no cookie, so that no page can ask in a person's name."""

    def __init__(self, settings: SignIn | None) -> None:
        """None: nobody can sign in."""
        self._settings = settings
        self._keysets = KeySets()
        if settings is not None:
            issuer = Issuer(
                issuer=settings.issuer,
                audience=settings.client_id,
                ca_file=settings.ca_file,
                algorithms=settings.algorithms,
            )
            self._verifier = Verifier({"sign_in": issuer}, self._keysets)

    async def __call__(self, request: Request) -> tuple[Approver, float]:
        if self._settings is None:
            raise ApprovalError(
                "approval.no_sign_in",
                "nobody can sign in to this hub",
                remedy="Configure approvals.sign_in; the operator of a laptop uses the hub's own socket.",
                http_status=403,
            )
        sent = request.headers.getlist("authorization")
        scheme, _, token = sent[0].partition(" ") if len(sent) == 1 else ("", "", "")
        if scheme.lower() != "bearer" or not token.strip():
            raise IdentityError("identity.missing", "the request carries no token", remedy=_SIGN_IN)
        try:
            _, claims = await self._verifier.verify(token.strip())
        except IdentityError as error:
            raise IdentityError(
                error.reason,
                error.message,
                remedy=_SIGN_IN if error.http_status == 401 else error.remedy,
                http_status=error.http_status,
                retryable=error.retryable,
            ) from None
        return approver(self._settings, claims), float(claims["exp"])

    def route(self, origins: Origins) -> Route:
        """`GET /api/sign-in`: where and how to sign in, for `douane login --hub URL`. No secret."""

        async def answer(_request: Request) -> Response:
            found = self._settings
            if found is None:
                return JSONResponse({}, headers=SAFE)
            told = {"issuer": found.issuer, "client_id": found.client_id, "scopes": found.scopes}
            return JSONResponse({**told, "user_claim": found.user_claim}, headers=SAFE)

        return Route("/api/sign-in", guarded(answer, origins), methods=["GET"])

    async def close(self) -> None:
        await self._keysets.close()


def approver(settings: SignIn, claims: Mapping[str, Any]) -> Approver:
    """The person that verified claims name. IdentityError `identity.claims` where they name none, or are no ID token's
    for this client (OpenID Connect Core 1.0, section 3.1.3.7: several audiences need an `azp`, which must be ours)."""
    audience = claims["aud"]
    party = claims.get("azp")
    if party not in (None, settings.client_id) or (party is None and isinstance(audience, list) and len(audience) > 1):
        raise _unusable("it was made for another client (`azp`)")
    if str(claims.get("typ", "")).lower() == "bearer":  # Keycloak's access tokens, which other services see
        raise _unusable("it is an access token, not an ID token")
    if is_job(claims):  # GitLab signs in people and makes jobs' tokens, for any audience that the job asks for
        raise _unusable("it is a job's, not a person's")
    name = claims.get(settings.user_claim)
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME or not name.isprintable() or name != name.strip():
        raise _unusable(f"`{settings.user_claim}` (approvals.sign_in.user_claim) does not name a person")
    if settings.user_claim == "email" and claims.get("email_verified") not in (True, "true"):
        raise _unusable("`email` is not verified (`email_verified`), so it may be anybody's")
    return Approver(name, settings.issuer, str(claims["sub"]), _groups(claims.get(settings.groups_claim)))


def operator(uid: int) -> Approver:
    """Who can open the hub's own socket: its user, or root."""
    return Approver(str(uid), LOCAL, str(uid))


def _groups(value: object) -> frozenset[str]:
    listed = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return frozenset(one for one in listed if isinstance(one, str) and one)


def _unusable(why: str) -> IdentityError:
    return IdentityError(
        "identity.claims",
        f"the token approves nothing: {why}",
        remedy="Sign in with an account of the approvers' provider: `douane login`.",
        http_status=403,
    )
