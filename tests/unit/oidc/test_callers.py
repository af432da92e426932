from typing import Any

import pytest

from ext_proc.exchange import SignedClaims
from ext_proc.oidc import caller

GITHUB = {"repository": "octo-org/octo-repo", "repository_id": "74", "run_id": "1234", "run_attempt": "1"}
GITLAB = {"project_id": "20", "project_path": "my-group/my-project", "pipeline_id": "574", "job_id": "302"}
CIRCLE = {
    "oidc.circleci.com/project-id": "p",
    "oidc.circleci.com/pipeline-id": "pl",
    "oidc.circleci.com/workflow-id": "w",
    "oidc.circleci.com/job-id": "j",
    "oidc.circleci.com/vcs-origin": "github.com/octo/widgets",
}
BUILDKITE = {"organization_slug": "acme-inc", "pipeline_slug": "app", "build_number": 1, "job_id": "j", "step_key": "b"}
POD = {"namespace": "ns", "pod": {"name": "my-pod", "uid": "u"}, "serviceaccount": {"name": "sa", "uid": "s"}}
TERRAFORM = {
    "terraform_run_id": "run-abc",
    "terraform_organization_name": "acme",
    "terraform_project_name": "Default Project",
    "terraform_workspace_name": "prod",
    "terraform_run_phase": "plan",
}


def session(claims: dict[str, Any], iss: str = "https://i.example") -> tuple[str, str]:
    found = caller("ci", SignedClaims({"iss": iss, "sub": "subject", "jti": "t1", **claims}))
    assert (found.issuer, found.subject) == ("ci", "subject")
    return str(found.session_id), found.session_label


@pytest.mark.parametrize(
    ("claims", "label"),
    [
        (GITHUB, "octo-org/octo-repo run 1234 #1"),
        ({**GITHUB, "run_attempt": "2"}, "octo-org/octo-repo run 1234 #2"),
        (GITLAB, "my-group/my-project pipeline 574 job 302"),
        ({**GITLAB, "project_path": None}, "project 20 pipeline 574 job 302"),
        (CIRCLE, "github.com/octo/widgets job j"),
        (BUILDKITE, "acme-inc/app build 1 step b"),
        ({**BUILDKITE, "step_key": None}, "acme-inc/app build 1"),
        ({"kubernetes.io": POD}, "ns/my-pod"),
        (TERRAFORM, "acme/Default Project/prod run-abc"),
        ({}, "subject"),
        # Claims of another type than the system's are not its claims.
        ({**GITHUB, "run_id": ["1234"]}, "subject"),
        ({**GITHUB, "run_id": True}, "subject"),
        ({"kubernetes.io": "x"}, "subject"),
        ({"kubernetes.io": {"namespace": "ns", "serviceaccount": {}}}, "subject"),
        ({"kubernetes.io": {"namespace": "ns", "pod": {"uid": ""}}}, "subject"),
    ],
)
def test_labels(claims: dict[str, Any], label: str) -> None:
    assert session(claims)[1] == label


@pytest.mark.parametrize(
    ("claims", "same"),
    [
        (GITHUB, {"jti": "t2", "sub": "subject", "actor": "other", "check_run_id": "9"}),
        (GITLAB, {"jti": "t2"}),
        (CIRCLE, {"iat": 7}),
        (BUILDKITE, {"jti": "t2"}),
        ({"kubernetes.io": POD}, {"jti": "t2"}),
        (TERRAFORM, {"jti": "t2", "terraform_run_phase": "apply"}),
    ],
)
def test_a_run_is_one_session_whatever_token_it_shows(claims: dict[str, Any], same: dict[str, Any]) -> None:
    assert session(claims)[0] == session({**claims, **same})[0]
    assert session(claims)[0] != session(claims, iss="https://other.example")[0]


@pytest.mark.parametrize(
    ("claims", "other"),
    [
        (GITHUB, {"run_id": "1235"}),
        (GITHUB, {"run_attempt": "2"}),
        (GITHUB, {"repository_id": "75"}),
        (GITLAB, {"pipeline_id": "575"}),
        (GITLAB, {"job_id": "303"}),
        (GITLAB, {"project_id": "21"}),
        (CIRCLE, {"oidc.circleci.com/job-id": "k"}),
        (BUILDKITE, {"build_number": 2}),
        (BUILDKITE, {"job_id": "k"}),
        ({"kubernetes.io": POD}, {"kubernetes.io": {**POD, "pod": {"name": "my-pod", "uid": "v"}}}),
        (TERRAFORM, {"terraform_run_id": "run-abd"}),
        ({}, {"jti": "t2"}),
        ({}, {"sub": "subject2"}),
        ({"jti": None, "iat": 1}, {"iat": 2}),
    ],
)
def test_other_runs_are_other_sessions(claims: dict[str, Any], other: dict[str, Any]) -> None:
    changed = {"iss": "https://i.example", "sub": "subject", "jti": "t1", **claims, **other}
    assert session(claims)[0] != str(caller("ci", SignedClaims(changed)).session_id)


def test_parts_do_not_run_together() -> None:
    one = {**GITHUB, "run_id": "12", "run_attempt": "34"}
    two = {**GITHUB, "run_id": "1", "run_attempt": "234"}
    assert session(one)[0] != session(two)[0]
    assert session({**GITHUB, "run_id": 'x","1'})[0] != session({**GITHUB, "run_id": "x", "run_attempt": '1","1'})[0]


def test_sessions_are_the_same_in_every_release() -> None:
    """A change here would split running sessions at an upgrade, and in the ledger."""
    assert session(GITHUB)[0] == "27e98f0d-922e-59a5-8fe9-2cd104254544"


def test_a_label_is_safe_to_print() -> None:
    label = session({**GITHUB, "repository": "a\x1b[2J\nb\u202e" + "c" * 500})[1]
    assert label.isprintable()
    assert len(label) == 200
