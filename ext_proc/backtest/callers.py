"""Which claims tell the callers of an API apart, for grants: the project or workload by its id, and what all its runs
share beside it.

Names can be given to another project; ids cannot (docs/getting-started.md). Claims of one run (its number, commit,
times) are never in a grant.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ext_proc.backtest.templates import Use

ClaimPath = tuple[str, ...]

# Who it is, by system; the first whose claims are all there.
_HOMES: tuple[tuple[ClaimPath, ...], ...] = (
    (("repository_id",),),  # GitHub
    (("project_id",),),  # GitLab
    (("oidc.circleci.com/project-id",),),
    (("organization_id",), ("pipeline_id",)),  # Buildkite, where its ids are asked for
    (("organization_slug",), ("pipeline_slug",)),
    (("kubernetes.io", "namespace"), ("kubernetes.io", "serviceaccount", "uid")),
    (("terraform_workspace_id",),),
    (("sub",),),
)
# What narrows it down, where every run has the same.
_SHARED: tuple[ClaimPath, ...] = (
    ("ref",),
    ("ref_type",),
    ("environment",),
    ("build_branch",),
    ("oidc.circleci.com/vcs-ref",),
)
_CALLED: tuple[ClaimPath, ...] = (("repository",), ("project_path",), ("sub",))

CLAIMS: tuple[ClaimPath, ...] = tuple(
    dict.fromkeys([path for home in _HOMES for path in home] + list(_SHARED) + list(_CALLED))
)
"""What must be known of a caller, in the order in which `Caller.add` takes it."""


@dataclass(slots=True)
class Caller:
    """One project or workload. `home` identifies it, `shared` is what all its runs have in common so far."""

    issuer: str
    home: dict[ClaimPath, str]
    shared: dict[ClaimPath, str]
    called: str
    use: Use = field(default_factory=Use)
    scopes: dict[str, set[str]] = field(default_factory=dict)

    @property
    def condition(self) -> str:
        """CEL over `claims`."""
        return " && ".join(f"{_expression(path)} == {_literal(v)}" for path, v in {**self.home, **self.shared}.items())


class Callers:
    """Collects who used which scopes."""

    def __init__(self) -> None:
        self._by_home: dict[tuple[str, tuple[tuple[ClaimPath, str], ...]], Caller] = {}

    def add(
        self, issuer: str, raw: Sequence[str], connection: str, scopes: Sequence[str], count: int, last: str
    ) -> None:
        """`raw` has the claims of CLAIMS as JSON texts, empty where missing."""
        claims = {path: value for path, text in zip(CLAIMS, raw, strict=True) if (value := _text(text))}
        home = next((found for of in _HOMES if (found := _all(of, claims))), None)
        if home is None:
            return
        shared = {path: claims[path] for path in _SHARED if path in claims}
        key = (issuer, tuple(home.items()))
        caller = self._by_home.get(key)
        if caller is None:
            called = next((claims[path] for path in _CALLED if path in claims), "")
            caller = self._by_home[key] = Caller(issuer, home, shared, called)
        caller.shared = {path: value for path, value in caller.shared.items() if shared.get(path) == value}
        caller.use.add(count, last)
        caller.scopes.setdefault(connection, set()).update(scopes)

    def found(self) -> list[Caller]:
        """Those that were seen most first."""
        return sorted(self._by_home.values(), key=lambda c: (-c.use.count, c.issuer, c.called))


def _all(of: Sequence[ClaimPath], claims: Mapping[ClaimPath, str]) -> dict[ClaimPath, str] | None:
    return {path: claims[path] for path in of} if all(path in claims for path in of) else None


def _text(raw: str) -> str:
    """A claim that is text; others are of no use here, and an empty one says nothing."""
    try:
        value = json.loads(raw) if raw else ""
    except ValueError:
        return ""
    return value if isinstance(value, str) else ""


def _expression(path: ClaimPath) -> str:
    return "claims" + "".join(f".{name}" if name.isidentifier() else f"[{_literal(name)}]" for name in path)


def _literal(text: str) -> str:
    """A CEL string literal: JSON's escapes are CEL's as well."""
    if text.isprintable() and not {"'", "\\"} & set(text):
        return f"'{text}'"
    return json.dumps(text, ensure_ascii=False)
