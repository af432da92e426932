"""The default detectors, as data. Public identifiers (key ids without secrets, publishable keys) are not secrets.

Formats are those that the issuers document (GitHub's token prefixes, RFC 7519 for JWT, RFC 7468 for PEM).
"""

from __future__ import annotations

import base64
import binascii
import json
import re

from ext_proc.masking.detectors import Detector, after, random_looking, token


def _is_jwt(value: bytes) -> bool:
    head = value.split(b".", 1)[0]
    try:
        return isinstance(json.loads(base64.urlsafe_b64decode(head + b"=" * (-len(head) % 4))), dict)
    except (ValueError, binascii.Error, RecursionError):
        return False


_random = random_looking(3.0)
_PEM_OPEN = rb"-----BEGIN (?!CERTIFICATE|PUBLIC)"
_PEM_HEAD = rb"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----"
_PEM_FOOT = rb"-----END [A-Z0-9 ]{0,40}-----"
_PEM_BODY = rb"(?:[A-Za-z0-9+/=\s\\:,.\"'_()*#>|]|-(?!----END))"

DEFAULT: tuple[Detector, ...] = (
    Detector(
        "private-key",
        (b"-----BEGIN ",),
        re.compile(_PEM_HEAD + _PEM_BODY + rb"{24,}+(?:" + _PEM_FOOT + rb")?"),
        re.compile(_PEM_OPEN + _PEM_BODY + rb"*+(?:-----END[A-Z0-9 ]{0,41}-{0,5})?"),
        re.compile(_PEM_BODY + rb"*+"),
    ),
    token(
        "jwt",
        "eyJ ewog ewo eyA",
        r"[A-Za-z0-9_\-]{6,}\.[A-Za-z0-9_\-]{6,}(?:\.[A-Za-z0-9_\-]*){0,3}",
        chars=r"A-Za-z0-9_\-.",
        check=_is_jwt,
    ),
    token(
        "aws-access-key-id",
        "AKIA ASIA ABIA ACCA",
        r"[A-Z0-9]{16}",
        chars="A-Za-z0-9",
        check=lambda v: not v.endswith(b"EXAMPLE"),  # as in all of AWS's documentation
    ),
    token("aws-bedrock", "ABSK bedrock-api-key-", r"[A-Za-z0-9+/]{100,}={0,2}", chars="A-Za-z0-9+/="),
    token("github", "ghp_ gho_ ghu_ ghs_ ghr_", r"[A-Za-z0-9]{36,251}"),
    token("github", "github_pat_", r"[A-Za-z0-9_]{36,244}"),
    token(
        "gitlab",
        "glpat- gldt- glft- glsoat- glrt- glrtr- glcbt- glptt- glimt- glagent- glffct- gloas- GR1348941",
        r"[A-Za-z0-9_\-]{15,}(?:\.[A-Za-z0-9_\-.]+)?",
        chars=r"A-Za-z0-9_\-.",
    ),
    token("slack", "xoxa- xoxb- xoxc- xoxd- xoxe- xoxe. xoxo- xoxp- xoxr- xoxs- xapp-", r"[A-Za-z0-9\-%]{10,}"),
    after(
        "slack-webhook",
        "hooks.slack.com/",
        r"[A-Za-z0-9/+]{20,}",
        before=r"(?:services|workflows|triggers)/",
        run=r"[A-Za-z0-9/+]*+",
    ),
    after(
        "teams-webhook", ".webhook.office.com/", r"[A-Za-z0-9/@\-]{40,}", before=r"webhookb2/", run=r"[A-Za-z0-9/@\-]*+"
    ),
    after(
        "discord-webhook",
        "discord.com/api/webhooks/|discordapp.com/api/webhooks/",
        r"[A-Za-z0-9_\-]{40,}",
        before=r"[0-9]{5,25}/",
        run=r"[A-Za-z0-9_\-]*+",
    ),
    token(
        "stripe",
        "sk_live_ sk_test_ sk_prod_ rk_live_ rk_test_ rk_prod_ whsec_",
        r"[A-Za-z0-9+/=]{10,200}",
        chars="A-Za-z0-9+/=",
    ),
    token("google-api-key", "AIza", r"[A-Za-z0-9_\-]{35}"),
    token("google-oauth", "ya29.", r"[A-Za-z0-9_\-.]{20,}", chars=r"A-Za-z0-9_\-."),
    token("google-oauth", "GOCSPX-", r"[A-Za-z0-9_\-]{20,}"),
    token("google-refresh", "1//0", r"[A-Za-z0-9_\-]{30,}", check=_random),
    token("datadog", "ddpat_ ddapp_ ddsat_", r"[A-Za-z0-9_]{32,}"),
    token("npm", "npm_", r"[A-Za-z0-9]{36}"),
    token("pypi", "pypi-AgE", r"[A-Za-z0-9_\-]{40,}"),
    token("sendgrid", "SG.", r"[A-Za-z0-9_\-]{16,32}\.[A-Za-z0-9_\-]{20,64}", chars=r"A-Za-z0-9_\-."),
    token("twilio", "SK", r"[0-9a-f]{32}", check=_random),
    token("vault", "hvs. hvb. hvr.", r"[A-Za-z0-9_\-]{20,}"),
    token("terraform", "atlasv1.", r"[A-Za-z0-9_\-=]{40,}", chars=r"A-Za-z0-9_\-="),
    after("terraform", ".atlasv1.", r"[A-Za-z0-9_\-=]{40,}", run=r"[A-Za-z0-9_\-=]*+"),
    after(
        "azure-storage", "AccountKey=|SharedAccessKey=", r"[A-Za-z0-9+/%]{40,}(?:=|%3D){0,2}", run=r"[A-Za-z0-9+/%=]*+"
    ),
    after("azure-sas", "&sig=|?sig=|;sig=", r"[A-Za-z0-9%+/\-_]{40,}={0,2}", run=r"[A-Za-z0-9%+/\-_=]*+"),
    token("openai", "sk-proj- sk-svcacct- sk-admin- sk-ant-", r"[A-Za-z0-9_\-]{20,}"),
    token("openai", "sk-", r"[A-Za-z0-9]{20,}", check=_random),
    token("huggingface", "hf_ api_org_", r"[A-Za-z0-9]{34}"),
    token("digitalocean", "dop_v1_ doo_v1_ dor_v1_", r"[0-9a-f]{64}"),
    token("doppler", "dp.pt. dp.st. dp.ct. dp.sa. dp.scim. dp.audit.", r"[A-Za-z0-9.\-_]{40,}", chars=r"A-Za-z0-9_\-."),
    token("grafana", "glc_ glsa_", r"[A-Za-z0-9_+/]{30,}={0,2}", chars="A-Za-z0-9_+/="),
    token("linear", "lin_api_ lin_oauth_", r"[A-Za-z0-9]{32,}"),
    token("postman", "PMAK- PMAT-", r"[A-Za-z0-9\-]{26,60}"),
    token("shopify", "shpat_ shpca_ shppa_ shpss_ shpua_", r"[0-9a-fA-F]{32}"),
    token("square", "EAAA sq0atp- sq0csp- sq0idp-", r"[A-Za-z0-9_\-]{22,60}", check=_random),
    token("databricks", "dapi", r"[0-9a-h]{32}(?:-\d)?"),
    token("new-relic", "NRAK- NRJS- NRII- NRRA- NRSP-", r"[A-Za-z0-9_\-]{16,}"),
    token("planetscale", "pscale_tkn_ pscale_pw_ pscale_oauth_", r"[A-Za-z0-9_\-.=]{30,}", chars=r"A-Za-z0-9_\-.="),
    token("sentry", "sntrys_ sntryu_", r"[A-Za-z0-9_+/=\-]{40,}", chars=r"A-Za-z0-9_+/=\-"),
    token("1password", "ops_eyJ", r"[A-Za-z0-9+/=_\-]{100,}", chars=r"A-Za-z0-9+/=_\-"),
    token("age", "AGE-SECRET-KEY-1", r"[0-9A-Z]{58}"),
    token("atlassian", "ATATT3 ATBB", r"[A-Za-z0-9_\-=]{20,}", chars=r"A-Za-z0-9_\-="),
    token("artifactory", "AKCp", r"[A-Za-z0-9]{60,}", check=_random),
    token("dynatrace", "dt0c01. dt0s01.", r"[A-Za-z0-9]{20,}\.[A-Za-z0-9]{60,}", chars="A-Za-z0-9."),
    token("pulumi", "pul-", r"[0-9a-f]{40}"),
    token("rubygems", "rubygems_", r"[0-9a-f]{48}"),
    token("clojars", "CLOJARS_", r"[A-Za-z0-9]{60}"),
    token("age-plugin", "AGE-PLUGIN-", r"[A-Z0-9\-]{20,}"),
    token("figma", "figd_ figu_ figo_", r"[A-Za-z0-9_\-]{38,}"),
    token("fly", "fo1_ fm1r_ fm1a_ fm2_", r"[A-Za-z0-9+/=_\-]{40,}", chars=r"A-Za-z0-9+/=_\-"),
    token("notion", "ntn_", r"[A-Za-z0-9]{40,}"),
    token("posthog", "phx_ phs_ phr_ pha_", r"[A-Za-z0-9]{40,}"),
    token("docker", "dckr_pat_ dckr_oat_ SWMTKN-1-", r"[A-Za-z0-9_\-]{20,}"),
    token("telegram", "bot", r"[0-9]{8,10}:AA[A-Za-z0-9_\-]{33}", chars=r"A-Za-z0-9_\-:"),
    token("mailgun", "key-", r"[0-9a-f]{32}", check=_random),
    token("heroku", "HRKU-", r"[A-Za-z0-9_\-]{30,}"),
    token("perplexity", "pplx- gsk_ xai- fw_ r8_ tvly-", r"[A-Za-z0-9_\-]{30,}", check=_random),
    token("sourcegraph", "sgp_", r"[A-Za-z0-9_]{40,}"),
    token("easypost", "EZAK EZTK", r"[A-Za-z0-9]{54}"),
    token("intra42", "s-s4t2ud- s-s4t2af-", r"[0-9a-f]{64}"),
    token("cloudflare", "cfk_ cfut_ cfat_ v1.0-", r"[A-Za-z0-9_\-]{40,}"),
    token("sonarqube", "squ_ sqp_ sqa_", r"[0-9a-f]{40}"),
    token("supabase", "sbp_", r"[0-9a-f]{40}"),
    token("vercel", "vcp_ vck_ vci_ vca_ vcr_", r"[A-Za-z0-9]{50,}"),
    token("brevo", "xkeysib- xsmtpsib-", r"[0-9a-f]{64}-[A-Za-z0-9]{16}"),
    token("readme", "rdme_", r"[a-z0-9]{60,}"),
    token("shippo", "shippo_live_ shippo_test_", r"[0-9a-f]{40}"),
    token("duffel", "duffel_live_ duffel_test_", r"[A-Za-z0-9_\-=]{40,}", chars=r"A-Za-z0-9_\-="),
    token("alibaba", "LTAI", r"[A-Za-z0-9]{16,20}"),
    token("openshift", "sha256~", r"[A-Za-z0-9_\-]{40,}"),
    token("settlemint", "sm_aat_ sm_pat_ sm_sat_", r"[A-Za-z0-9]{16}"),
    token("bitbucket", "BBDC- ATCTT3", r"[A-Za-z0-9+/\-_=]{30,}", chars=r"A-Za-z0-9+/_\-="),
    token("dropbox", "sl.", r"[A-Za-z0-9_\-]{100,}", check=_random),
    token("facebook", "EAA", r"[A-Za-z0-9]{80,}", chars="A-Za-z0-9", check=_random),
    token("together", "tgp_v1_", r"[A-Za-z0-9_\-]{30,}"),
    token("defined-networking", "dnkey-", r"[A-Z0-9=\-]{60,}", chars=r"A-Za-z0-9_\-="),
    token("akamai", "akab-", r"[a-z0-9]{16}-[a-z0-9]{16}"),
    token("aws-mws", "amzn.mws.", r"[0-9a-z\-]{36}"),
    token("session-key", "dse_", r"[A-Za-z0-9_\-]{43}"),
    after(
        "url-password",
        "://",
        r"[^\s/@\"'<>`\\]{3,}+(?=@[A-Za-z0-9\[])",
        before=r"[^\s/@\"'<>?#\\:`]{0,64}:",
        run=r"[^\s/@\"'<>`\\]*+@?",
        check=lambda v: not v.startswith((b"$", b"{", b"%3C", b"[MASKED")),
    ),
    after(
        "bearer",
        "Bearer |Bearer%20|Bearer+",
        r"[A-Za-z0-9_\-.~+/]{20,}+=*",
        run=r"[A-Za-z0-9_\-.~+/=]*+",
        check=_random,
    ),
    after(
        "basic",
        "Basic ",
        r"[A-Za-z0-9+/]{16,}+={0,2}",
        run=r"[A-Za-z0-9+/=]*+",
        check=lambda v: _is_basic(v),
    ),
)


def _is_basic(value: bytes) -> bool:
    try:
        return b":" in base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        return False
