"""What one credential alone cannot show: places filled twice, hosts it may not go to, what its source still needs."""

from __future__ import annotations

from collections.abc import Iterator

from ext_proc.config.addresses import is_loopback, split_url
from ext_proc.config.credentials import Credential
from ext_proc.config.models import Config, Connection
from ext_proc.config.positions import YamlPath
from ext_proc.config.problems import RESERVED, Problem, web_address
from ext_proc.config.sources import SourceTokenExchange, TokenExchange, Vault, VaultJwt, models_in

_URLS = ("url", "token_url", "revoke_url", "api_url")


def credentials(config: Config, name: str, connection: Connection) -> Iterator[Problem]:
    """Everything that is wrong with a connection's credentials."""
    labels: set[str] = set()
    places: set[str] = set()
    for n, credential in enumerate(connection.credentials):
        path: YamlPath = ("connections", name, "credentials", n)
        kind, _, place = credential.place.partition(":")
        if kind == "header" and place in RESERVED:
            yield Problem(path, "config.value", f"a credential cannot go into {place}", "Choose another header.")
        if credential.place in places:
            yield Problem(path, "config.duplicate_name", f"{credential.place} is filled twice", "Keep one of them.")
        elif credential.label in labels:
            yield Problem(
                path, "config.duplicate_name", f"the name {credential.label} is used twice", "Give it a `name`."
            )
        places.add(credential.place)
        labels.add(credential.label)
        yield from _hosts(path, credential, connection)
        yield from _sources(path, config, credential)
        if credential.sigv4 is not None:
            yield from _sigv4(path, credential, connection)
        if isinstance(credential.source, SourceTokenExchange):
            yield from _subject(path, credential.source.token_exchange, connection)


def _hosts(path: YamlPath, credential: Credential, connection: Connection) -> Iterator[Problem]:
    parts = split_url(connection.upstream)
    host = (parts.hostname or "") if parts is not None else ""
    if credential.hosts and host not in credential.hosts:
        yield Problem(
            (*path, "hosts"),
            "config.credential_host",
            f"the upstream {host} is not among the hosts that the credential {credential.label} may go to",
            "Correct the upstream, or add its host if the credential is meant for it.",
        )


def _sources(path: YamlPath, config: Config, credential: Credential) -> Iterator[Problem]:
    for below, found in models_in(credential):
        here = (*path, *below)
        for key in _URLS:
            url = getattr(found, key, None)
            if isinstance(url, str):
                yield from web_address((*here, key), url, query=key == "token_url")
        needs_workload = isinstance(found, VaultJwt) and found.token is None
        if isinstance(found, TokenExchange):
            needs_workload = found.subject == "workload"
        if needs_workload and config.gate.workload_token_file is None:
            yield Problem(
                here,
                "config.workload_token",
                "needs the workload's own token",
                "Set gate.workload_token_file to the file that holds it.",
            )
        if isinstance(found, Vault) and found.field is None and (credential.sigv4 is None or len(below) != 2):
            yield Problem(
                here,
                "config.missing_key",
                "`field` is missing",
                "Add the name of the secret's field that is the value.",
            )


def _sigv4(path: YamlPath, credential: Credential, connection: Connection) -> Iterator[Problem]:
    assert credential.sigv4 is not None
    here = (*path, "sigv4")
    if connection.body == "stream" and credential.sigv4.service != "s3":
        yield Problem(
            (*here, "service"),
            "config.sigv4_stream",
            f"{credential.sigv4.service} wants the whole body signed, and `body: stream` does not await it",
            "Write `body: inspect` for this connection.",
        )
    parts = split_url(connection.upstream)
    plain = parts is not None and parts.scheme == "http" and not is_loopback(parts.hostname or "")
    if credential.sigv4.streamed == "unsigned" and plain:
        yield Problem(
            (*here, "streamed"), "config.plain_http", "an unsigned body needs https", "Write `streamed: chunks`."
        )


def _subject(path: YamlPath, exchange: TokenExchange, connection: Connection) -> Iterator[Problem]:
    if exchange.subject == "caller" and connection.identity.require == "workload":
        yield Problem(
            (*path, "from", "token_exchange", "subject"),
            "config.value",
            "there is no caller's token to exchange where only the workload is identified",
            "Write `subject: workload`, or require the caller.",
        )
