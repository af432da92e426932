"""What one field alone cannot show: names that must exist, ports that must differ, addresses that must be loopback.

Each check yields (path, reason, message, remedy); `load` adds the position. No I/O.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator

from ext_proc.config.addresses import is_loopback, overlap, split_listen, split_url
from ext_proc.config.check_approvals import approvals
from ext_proc.config.check_credentials import credentials
from ext_proc.config.check_policies import operations, policies
from ext_proc.config.json_path import parse as parse_json_path
from ext_proc.config.models import Config, Issuer
from ext_proc.config.policies import OPERATION_PREFIX
from ext_proc.config.positions import YamlPath
from ext_proc.config.problems import RESERVED, Problem, json_path, request, twice, unknown, web_address
from ext_proc.config.responses import streamed

_GATE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_STORE_URL = "embedded:FOLDER or clickhouse+https://USER@HOST:PORT/DATABASE"


def check(config: Config) -> Iterator[Problem]:
    """Everything that is wrong across fields, in no particular order."""
    checks: tuple[Callable[[Config], Iterable[Problem]], ...] = (
        _store,
        _hub,
        _gate,
        _listeners,
        _issuers,
        _connections,
        _hosts,
        _grants,
        policies,
        operations,
        approvals,
        _masking,
        _responses,
    )
    for one in checks:
        yield from one(config)


def _store(config: Config) -> Iterator[Problem]:
    path = ("store", "url")
    url = config.store.url
    if url.startswith("embedded:"):
        if not is_loopback(split_listen(config.store.listen)[0]):
            yield _beyond(("store", "listen"), "the embedded store speaks plain HTTP", "127.0.0.1:15123")
        return
    parts = split_url(url)
    if parts is None or parts.scheme not in ("clickhouse+http", "clickhouse+https"):
        yield Problem(path, "config.store_url", f"{url!r} is no store", f"Write {_STORE_URL}.")
        return
    if parts.password is not None:
        yield Problem(
            path, "config.store_url", "a password does not belong in the URL", "Name its source in `store.password`."
        )
    database = parts.path.strip("/")
    if not parts.username or not re.fullmatch(r"[A-Za-z_]\w*", database) or parts.query or parts.fragment:
        yield Problem(path, "config.store_url", "must name a user and one database", f"Write {_STORE_URL}.")
    if parts.scheme == "clickhouse+http" and not is_loopback(parts.hostname or ""):
        yield Problem(
            path, "config.plain_http", "plain HTTP would show the ledger to the network", "Use clickhouse+https://."
        )


def _hub(config: Config) -> Iterator[Problem]:
    for key, value in (("listen", config.hub.listen), ("url", config.hub.url)):
        if value is None or (value.startswith("unix:") and len(value) > len("unix:")):
            continue
        path = ("hub", key)
        if not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):\d{1,5}", value):
            yield Problem(path, "config.value", f"{value!r} is no address", "Write unix:PATH or HOST:PORT.")
        elif not 0 < split_listen(value)[1] < 65536:
            yield _bad_port(path)
        elif config.hub.tls is None:
            yield Problem(
                path,
                "config.hub_tls",
                "a hub on the network needs mutual TLS",
                "Add hub.tls (cert_file, key_file, ca_file), or use unix:PATH.",
            )


def _gate(config: Config) -> Iterator[Problem]:
    if not _GATE_NAME.fullmatch(config.gate.name):
        yield Problem(
            ("gate", "name"),
            "config.value",
            f"{config.gate.name!r} is not a gate's name",
            "Use letters, digits and _ . -, at most 64.",
        )
    needs = [n for n, c in config.connections.items() if c.identity.require in ("workload", "both")]
    if needs and config.gate.workload_token_file is None:
        yield Problem(
            ("connections", needs[0], "identity", "require"),
            "config.workload_token",
            f"{config.connections[needs[0]].identity.require!r} needs the workload's own token",
            "Set gate.workload_token_file to the file that holds it.",
        )
    hosts = [n for n, c in config.connections.items() if c.hosts]
    if hosts and config.gate.tls_listen is None:
        yield Problem(
            ("connections", hosts[0], "hosts"),
            "config.tls_listen",
            "`hosts` are served in TLS mode, which has no port",
            "Set gate.tls_listen, such as 127.0.0.1:15443.",
        )


def _listeners(config: Config) -> Iterator[Problem]:
    taken: dict[int, tuple[str, YamlPath]] = {}
    places: list[tuple[YamlPath, str | None]] = [
        (("console", "listen"), config.console.listen),
        (("store", "listen"), config.store.listen if config.store.url.startswith("embedded:") else None),
        (("gate", "tls_listen"), config.gate.tls_listen),
        (("gate", "health_listen"), config.gate.health_listen),
        *((("connections", name, "listen"), c.listen) for name, c in config.connections.items()),
    ]
    for path, listen in places:
        if listen is None:
            continue
        host, port = split_listen(listen)
        try:
            if host != "localhost":
                ipaddress.ip_address(host)
        except ValueError:
            yield Problem(path, "config.value", f"{host!r} is not an address", "Write 127.0.0.1 or [::1].")
            continue
        if not 0 < port < 65536:
            yield _bad_port(path)
            continue
        if path[0] == "connections" and not is_loopback(host):
            yield _beyond(
                path, "base-URL mode is plain HTTP", "127.0.0.1 here, or TLS mode (`hosts` and gate.tls_listen)"
            )
        # One port for one thing: an address that covers another (0.0.0.0) would only fail when it is bound.
        if port in taken and overlap(host, taken[port][0]):
            other = ".".join(str(part) for part in taken[port][1])
            yield Problem(path, "config.duplicate_listen", f"{listen} is taken by {other}", "Choose another port.")
        taken.setdefault(port, (host, path))


def _issuers(config: Config) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for name, issuer in config.issuers.items():
        yield from _issuer_urls(("issuers", name), issuer)
        audiences = (issuer.audience,) if isinstance(issuer.audience, str) else issuer.audience
        if not audiences or not all(audiences):
            yield Problem(
                ("issuers", name, "audience"), "config.value", "must not be empty", "Name what tokens are made for."
            )
        if not issuer.algorithms:
            yield Problem(("issuers", name, "algorithms"), "config.value", "must not be empty", "Leave it out.")
        if issuer.issuer in seen:
            yield Problem(
                ("issuers", name, "issuer"),
                "config.duplicate_issuer",
                f"is the same as issuers.{seen[issuer.issuer]}",
                "Keep one; `audience` may be a list.",
            )
        seen.setdefault(issuer.issuer, name)


def _issuer_urls(here: YamlPath, issuer: Issuer) -> Iterator[Problem]:
    """Keys are fetched over https, or from this machine. An issuer whose keys are elsewhere is only a name, which
    a GitLab or Kubernetes inside a network may well spell with http."""
    if issuer.jwks_uri is not None:
        yield from web_address((*here, "jwks_uri"), issuer.jwks_uri, query=False)
    for problem in web_address((*here, "issuer"), issuer.issuer, query=False):
        if problem.reason != "config.plain_http":
            yield problem
        elif issuer.jwks_uri is None:
            yield problem._replace(remedy="Use https://, or name the keys' own https address in `jwks_uri`.")


def _connections(config: Config) -> Iterator[Problem]:
    for name, connection in config.connections.items():
        here: YamlPath = ("connections", name)
        yield from web_address((*here, "upstream"), connection.upstream, query=False)
        for header in connection.identity.headers:
            if header in RESERVED:
                n = connection.identity.headers.index(header)
                yield Problem(
                    (*here, "identity", "headers", n), "config.value", f"{header} cannot hold a token", "Remove it."
                )
        yield from credentials(config, name, connection)
        for scope, requests in connection.scopes.items():
            for n, text in enumerate(requests):
                if not text.startswith(OPERATION_PREFIX):
                    yield from request((*here, "scopes", scope, n), text)
            if not requests:
                yield Problem((*here, "scopes", scope), "config.scope", "lists no request", "Write `METHOD PATH`.")
        if connection.undecodable == "seal" and config.recording.seal_key is None:
            yield Problem(
                (*here, "undecodable"),
                "config.seal_key",
                "`seal` needs a key",
                "Set recording.seal_key, or write `refuse`.",
            )


def _hosts(config: Config) -> Iterator[Problem]:
    taken: dict[str, str] = {}
    for name, connection in config.connections.items():
        for n, host in enumerate(connection.hosts):
            if host in taken:
                yield Problem(
                    ("connections", name, "hosts", n),
                    "config.duplicate_host",
                    f"{host} belongs to connection {taken[host]} already",
                    "A host has one connection.",
                )
            taken.setdefault(host, name)


def _grants(config: Config) -> Iterator[Problem]:
    names: set[str] = set()
    for n, grant in enumerate(config.grants):
        here: YamlPath = ("grants", n)
        if grant.name in names:
            yield twice((*here, "name"), grant.name)
        names.add(grant.name)
        if grant.issuer not in config.issuers:
            yield unknown((*here, "issuer"), "issuer", grant.issuer, config.issuers)
        if not grant.allow:
            yield Problem((*here, "allow"), "config.value", "grants nothing", "Write `connection: [scope]`.")
        for connection, scopes in grant.allow.items():
            path = (*here, "allow", connection)
            if connection not in config.connections:
                yield unknown(path, "connection", connection, config.connections)
                continue
            if not scopes:
                yield Problem(path, "config.value", "grants nothing", "Name at least one scope.")
            known = config.connections[connection].scopes
            for m, scope in enumerate(scopes):
                if scope not in known:
                    yield unknown((*path, m), "scope", scope, known)


def _masking(config: Config) -> Iterator[Problem]:
    for n, text in enumerate(config.masking.json_paths):
        path: YamlPath = ("masking", "json", n)
        bad = list(json_path(path, text))
        yield from bad
        if not bad and all(step.name is None for step in parse_json_path(text).steps):
            yield Problem(
                path,
                "config.whole_body",
                f"{text!r} would mask whole bodies, which would switch recording off",
                "Name the fields, such as $.user.email.",
            )


def _responses(config: Config) -> Iterator[Problem]:
    for path, what in streamed(config):
        yield Problem(
            path,
            "config.response_stream",
            what,
            "Write `body: inspect` there, or leave that connection out (`match.connection`).",
        )


def _bad_port(path: YamlPath) -> Problem:
    return Problem(path, "config.value", "a port is between 1 and 65535", "Choose a free one above 1023.")


def _beyond(path: YamlPath, why: str, remedy: str) -> Problem:
    return Problem(path, "config.not_loopback", f"{why}, so it must stay on this machine", f"Use {remedy}.")
