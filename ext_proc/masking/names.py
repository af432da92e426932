"""What a name says about its value: a password, something random, or nothing (`token_type` holds no token)."""

from __future__ import annotations

import re
from functools import lru_cache

from ext_proc.masking.values import Level

PASSWORDS = b"passw passphrase passcode paswd passwd pwd".split()
SHORT = b"pass pw psw".split()
"""Passwords' names only where a name ends with them."""
SECRETS = (
    b"secret token apikey api_key api-key app_key app-key appkey application_key application-key applicationkey "
    b"access_key access-key accesskey private_key private-key privatekey credential authorization account_key "
    b"accountkey encryption_key encryptionkey signing_key shared_key auth_key authkey master_key license_key "
    b"connection_string client_key sas_key bearer"
).split()
ENDINGS = b"key auth salt nonce cred creds login".split()
"""Names of much else: the value must be long and look random."""
SERVICES = (
    b"adafruit adobe airtable algolia artifactory asana atlassian beamer bitbucket bittrex cloudant cloudflare codecov "
    b"coinbase confluent contentful discord droneci dropbox etsy facebook fastly finicity flickr freshbooks gitter "
    b"gocardless heroku hubspot intercom jfrog kraken kucoin launchdarkly linkedin mailchimp mailgun mattermost "
    b"messagebird netlify okta plaid rapidapi sendbird snyk softlayer sonar sourcegraph squarespace sumologic travisci "
    b"trello twilio twitter typeform yandex zendesk"
).split()
"""A service's name in a variable's, whose value then is as for `key`: `SONAR_LOGIN`, `heroku: ...`."""
KEYWORDS: tuple[bytes, ...] = (*PASSWORDS, *SHORT, *SECRETS, *ENDINGS)
KINDS = rb"wrap|multi|string|str|data|value|hex|b64|base64"
"""What may follow one of `ENDINGS`: `key_hex`."""


_SPLIT = re.compile(rb"[_\-.]+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NOT_SECRET_LAST = frozenset(
    b"type types count counts limit limits length size name names id ids url urls uri uris endpoint expiry expires "
    b"expiration expired ttl at in date time policy policies policyid prefix suffix scope scopes status state "
    b"enabled disabled required version algorithm alg hash format label title description hint regex pattern file "
    b"path filename filepath dir ref arn field column header usage used manager created updated modified lifetime "
    b"age rotation source provider kind per max min budget ids list set mode method methods owner role roles service "
    b"region last4 last digits ids placeholder location index resource group valid validity period results".split()
)
_PUBLIC_WORDS = frozenset(
    b"public max min num total next prev previous page pagination continuation csrf cursor".split()
)
_NO_KEYS = frozenset(
    b"primary foreign sort partition cache row object issue project bucket lookup group idempotency event metric tag "
    b"attribute facet translation i18n map sequence hot short override label column field dedup aggregation "
    b"routing message series registry".split()
)
_SERVICE = re.compile(b"|".join(SERVICES))
_ENDS = re.compile(rb"(?:" + b"|".join(ENDINGS) + rb")[0-9]?(?:_(?:" + KINDS + rb"))?$")
_NO_PASS = (b"bypass", b"compass", b"trespass", b"surpass", b"overpass", b"underpass", b"encompass")


@lru_cache(maxsize=4096)
def level(name: bytes) -> Level:
    """What a value under this name must be to be a secret."""
    words = [w.lower() for w in _SPLIT.split(name) if w]
    while words and words[-1].isdigit():
        words.pop()
    if not words or words[-1] in _NOT_SECRET_LAST or any(w in _PUBLIC_WORDS for w in words):
        return Level.NONE
    joined = b"".join(words).rstrip(b"0123456789")
    if joined.endswith((b"tokens", b"secrets", b"passwords", b"credentials")) and len(words) > 1:
        return Level.NONE
    if b"pubkey" in joined or b"publickey" in joined:
        return Level.NONE
    if any(s in joined for s in PASSWORDS):
        return Level.RANDOM if words[-1] == b"key" else Level.ANY
    last = words[-1].rstrip(b"0123456789")
    if last.endswith(b"pass") and not joined.endswith(_NO_PASS):
        return Level.ANY
    if last in SHORT:
        return Level.ANY
    flat = name.lower()
    if any(s in flat for s in SECRETS):
        return Level.RANDOM
    if any(w in _NO_KEYS for w in words) or not (_ENDS.search(flat) or _SERVICE.search(flat)):
        return Level.NONE
    return Level.LONG
