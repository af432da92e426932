"""From verified claims to a caller, and to the session: one pipeline run, whatever CI system it is.

| system | what makes a session | told by the claims |
|---|---|---|
| GitHub Actions | repository, run, attempt (all jobs of it) | `run_id`, `repository` |
| GitLab CI | project, pipeline, job | `pipeline_id`, `project_id` |
| CircleCI | project, pipeline, workflow, job | `oidc.circleci.com/job-id` |
| Buildkite | organization, pipeline, build, job | `build_number`, `pipeline_slug` |
| Kubernetes | namespace, pod uid | `kubernetes.io` with a pod |
| Terraform Cloud | run (plan and apply) | `terraform_run_id` |
| anything else | subject and token (`jti`, or `iat`) | - |

The last line splits a run that gets several tokens, rather than joining everything one subject ever did; a session key
keeps such a run together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID, uuid5

from ext_proc.exchange import Caller, SignedClaims

_NAMESPACE = UUID("6f1d7a52-6e0b-5b8e-9a38-2f4c1f0f8d11")
_CIRCLE = "oidc.circleci.com/"
_MAX_LABEL = 200

Claims = Mapping[str, Any]
Session = tuple[tuple[str, ...], str]
"""What identifies the run within its issuer, and what people call it."""


def caller(issuer_name: str, claims: SignedClaims) -> Caller:
    """Who calls, in which session. The same claims give the same session on every gate."""
    for system in _SYSTEMS:
        found = system(claims)
        if found is not None:
            break
    else:
        found = _token(claims)
    run, label = found
    # JSON keeps the parts apart: no value of one claim can look like two.
    session_id = uuid5(_NAMESPACE, json.dumps([claims["iss"], *run]))
    return Caller(issuer_name, str(claims["sub"]), claims, session_id, _printable(label))


def is_job(claims: Claims) -> bool:
    """Whether they are a pipeline's or a pod's, whichever system made them."""
    return any(system(claims) is not None for system in _SYSTEMS)


def _github(claims: Claims) -> Session | None:
    run, repository = _text(claims, "run_id"), _text(claims, "repository")
    if not run or not repository:
        return None
    attempt = _text(claims, "run_attempt") or "1"
    home = _text(claims, "repository_id") or repository
    return ("github", home, run, attempt), f"{repository} run {run} #{attempt}"


def _gitlab(claims: Claims) -> Session | None:
    project, pipeline = _text(claims, "project_id"), _text(claims, "pipeline_id")
    if not project or not pipeline:
        return None
    job = _text(claims, "job_id")
    label = f"{_text(claims, 'project_path') or f'project {project}'} pipeline {pipeline}"
    return ("gitlab", project, pipeline, job), f"{label} job {job}" if job else label


def _circleci(claims: Claims) -> Session | None:
    project, job = _text(claims, f"{_CIRCLE}project-id"), _text(claims, f"{_CIRCLE}job-id")
    if not project or not job:
        return None
    pipeline, workflow = _text(claims, f"{_CIRCLE}pipeline-id"), _text(claims, f"{_CIRCLE}workflow-id")
    name = _text(claims, f"{_CIRCLE}vcs-origin") or f"project {project}"
    return ("circleci", project, pipeline, workflow, job), f"{name} job {job}"


def _buildkite(claims: Claims) -> Session | None:
    organization, pipeline = _text(claims, "organization_slug"), _text(claims, "pipeline_slug")
    build = _text(claims, "build_number")
    if not organization or not pipeline or not build:
        return None
    step = _text(claims, "step_key")
    label = f"{organization}/{pipeline} build {build}"
    run = ("buildkite", organization, pipeline, build, _text(claims, "job_id"))
    return run, f"{label} step {step}" if step else label


def _kubernetes(claims: Claims) -> Session | None:
    facts = claims.get("kubernetes.io")
    pod = facts.get("pod") if isinstance(facts, Mapping) else None
    if not isinstance(facts, Mapping) or not isinstance(pod, Mapping):
        return None
    namespace, uid = _text(facts, "namespace"), _text(pod, "uid")
    if not namespace or not uid:
        return None
    return ("kubernetes", namespace, uid), f"{namespace}/{_text(pod, 'name') or uid}"


def _terraform(claims: Claims) -> Session | None:
    run = _text(claims, "terraform_run_id")
    if not run:
        return None
    workspace = "/".join(
        part for name in ("organization", "project", "workspace") if (part := _text(claims, f"terraform_{name}_name"))
    )
    return ("terraform", run), f"{workspace} {run}".strip()


def _token(claims: Claims) -> Session:
    subject = str(claims["sub"])
    return ("token", subject, _text(claims, "jti") or _text(claims, "iat")), subject


_SYSTEMS: tuple[Callable[[Claims], Session | None], ...] = (
    _github,
    _gitlab,
    _circleci,
    _buildkite,
    _kubernetes,
    _terraform,
)


def _text(claims: Claims, name: str) -> str:
    """A claim that is a string or a whole number, as text; otherwise the same as missing."""
    value = claims.get(name)
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _printable(label: str) -> str:
    """Claims may hold terminal escapes; a label goes to terminals and pages."""
    shown = "".join(c if c.isprintable() else "?" for c in label)
    return shown if len(shown) <= _MAX_LABEL else f"{shown[: _MAX_LABEL - 1]}…"
