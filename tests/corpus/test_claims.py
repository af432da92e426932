"""Real claim sets of six CI systems, signed here under their own issuers: each verifies and gives a session."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from ext_proc.config import Issuer
from ext_proc.errors import IdentityError
from ext_proc.oidc import KeySets, Verifier, caller
from ext_proc.oidc.fetch import Source
from ext_proc.oidc.keys import Key, parse_jwks
from tests.unit.oidc import tokens as t

pytestmark = pytest.mark.corpus

LABELS = [
    "octo-org/octo-repo run example-run-id #2",
    "andreaso/actions-tester run 32291736541 #1",
    "everycure-org/matrix run 10685993555 #1",
    "sigstore/fulcio run 42 #1",
    "my-group/my-project pipeline 574 job 302",
    "my-group/my-project pipeline 574 job 302",
    "8gears/container-registry/harbor-workload-identity-federation pipeline 2179265456 job 12217223061",
    "gitlab-org/gitlab-shell pipeline 13 job 208",
    "github.com/octo/widgets job 1f2e3d4c-5b6a-4978-8695-a4b3c2d1e0f9",
    (
        "org/c9035eb6-6eb2-4c85-8a81-d9ed6a1d1d1e/project/3a2f5b1c-7d4e-4f6a-9b8c-0d1e2f3a4b5c/user/"
        "5e6f7a8b-9c0d-4e1f-a2b3-c4d5e6f7a8b9/vcs-origin/github.com/octo/widgets/vcs-ref/refs/heads/main"
    ),
    "acme-inc/super-duper-app build 1 step build",
    "acme-inc/super-duper-app build 1 step build",
    "my-namespace/my-pod",
    "azwi-demo/az-cli",
    "organization:example:project:Default Project:workspace:test:run_phase:plan",
]


@pytest.fixture(scope="module")
def claim_sets() -> list[dict[str, Any]]:
    folder = os.environ.get("DOUANE_CORPUS")
    if not folder:
        pytest.skip("DOUANE_CORPUS is unset")
    return [row["claims"] for row in json.loads(gzip.decompress((Path(folder) / "oidc-claims.json.gz").read_bytes()))]


def verifier_for(claims: dict[str, Any]) -> Verifier:
    def fetch(source: Source) -> tuple[Key, ...]:
        assert source.issuer == claims["iss"]
        return parse_jwks(t.JWKS)

    # One recorded issuer is plain http beyond loopback: its keys can only come from a place of its own.
    settings = Issuer(issuer=claims["iss"], audience=audience(claims), jwks_uri="https://keys.example/")
    return Verifier({"ci": settings}, KeySets(fetch=fetch))


def audience(claims: dict[str, Any]) -> str:
    found = claims["aud"]
    return str(found[0] if isinstance(found, list) else found)


def as_if_new(claims: dict[str, Any]) -> dict[str, Any]:
    """The claims moved to today, distances kept (`nbf` minutes before `iat`), a string `exp` made a number."""
    now = int(time.time())
    issued = claims.get("iat", 0)
    moved = {n: claims[n] - issued + now for n in ("iat", "nbf") if n in claims}
    expires = claims.get("exp")
    return {**claims, **moved, "exp": now + (expires - issued if isinstance(expires, int) else 300)}


async def test_every_claim_set_gives_a_session(claim_sets: list[dict[str, Any]]) -> None:
    labels, sessions = [], set()
    for original in claim_sets:
        claims = as_if_new(original)
        name, verified = await verifier_for(claims).verify(t.sign(claims))
        assert verified == claims
        one = caller(name, verified)
        assert one.subject == original["sub"]
        assert one.claims is verified
        labels.append(one.session_label)
        sessions.add(one.session_id)
    assert labels == LABELS
    assert len(sessions) == 13  # twice the same GitLab job, twice the same Buildkite job, in two shapes


def test_as_recorded_each_is_refused_for_its_age(claim_sets: list[dict[str, Any]]) -> None:
    def reason(claims: dict[str, Any]) -> str:
        with pytest.raises(IdentityError) as caught:
            asyncio.run(verifier_for(claims).verify(t.sign(claims)))
        return caught.value.reason

    dated = [claims for claims in claim_sets if isinstance(claims.get("exp"), int) and claims["exp"] < time.time()]
    assert len(dated) >= 9
    assert {reason(claims) for claims in dated} == {"identity.expired"}
    strings = [claims for claims in claim_sets if isinstance(claims.get("exp"), str)]
    assert [reason(claims) for claims in strings] == ["identity.claims"]
