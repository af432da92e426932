"""The GitHub pack, with the bodies of GitHub's public REST documentation: what must be caught, and what must pass."""

from __future__ import annotations

from typing import Any

import pytest

from ext_proc.config.packs import pack
from tests.unit.packs.packs_under_test import guard, matched

REPO, ORG = "/repos/octocat/hello-world", "/orgs/github"
SHA = "6dcb09b5b57875f334f61aebed695e2e4193db5e"
CONTENT = {
    "message": "my commit message",
    "committer": {"name": "Monalisa Octocat", "email": "octocat@github.com"},
    "content": "bXkgbmV3IGZpbGUgY29udGVudHM=",
    "branch": "topic",
}
RULESET = {"name": "super cool ruleset", "target": "branch", "enforcement": "disabled", "rules": []}
HOOK = {"name": "web", "active": True, "events": ["push"], "config": {"url": "https://example.com/webhook"}}
SECRET = {"encrypted_value": "c2VjcmV0", "key_id": "012345678912345678"}
BLOB = "44b4fc6d56897b048c772eb4087f854f46256132"


def tree(*paths: str, **more: Any) -> dict[str, Any]:
    entries = [{"path": path, "mode": "100644", "type": "blob", "sha": BLOB} for path in paths]
    return {"base_tree": "9fb037999f264ba9a7fc6274d15fa3ae2ab98312", "tree": entries, **more}


PROTECTION = {
    "required_status_checks": None,
    "enforce_admins": None,
    "required_pull_request_reviews": None,
    "restrictions": None,
}

CAUGHT: list[tuple[str, str, Any]] = [
    ("protection", f"PUT {REPO}/branches/main/protection", PROTECTION),
    ("protection", f"DELETE {REPO}/branches/main/protection", b""),
    ("protection", "DELETE /repositories/1296269/branches/main/protection", b""),
    (
        "protection",
        f"PATCH {REPO}/branches/main/protection/required_pull_request_reviews",
        {"required_approving_review_count": 0},
    ),
    ("protection", f"DELETE {REPO}/branches/main/protection/enforce_admins", b""),
    ("protection", f"POST {REPO}/branches/main/protection/restrictions/users", {"users": ["octocat"]}),
    ("protection", f"DELETE {REPO.upper()}/Branches/main/Protection", b""),
    ("protection", f"POST {REPO}/branches/main/rename", {"new_name": "trunk"}),
    ("protection", f"POST {REPO}/rulesets", RULESET),
    ("protection", f"PUT {REPO}/rulesets/42", RULESET),
    ("protection", f"DELETE {ORG}/rulesets/42", b""),
    ("protection", "PUT /organizations/9919/rulesets/42", RULESET),
    ("protection", f"PUT {REPO}/environments/production", {"wait_timer": 0, "reviewers": None}),
    ("protection", f"POST {REPO}/environments/production/deployment-branch-policies", {"name": "*"}),
    ("protection", f"PUT {REPO}/branches/release/1.0/protection", PROTECTION),
    ("protection", f"DELETE {REPO}/branches/a/b/c/protection/enforce_admins", b""),
    ("protection", f"PATCH {REPO}/properties/values", {"properties": [{"property_name": "tier", "value": "none"}]}),
    ("protection", f"POST {ORG}/properties/values", {"repository_names": ["hello-world"], "properties": []}),
    ("workflow-files", f"PUT {REPO}/contents/.github/workflows/ci.yml", CONTENT),
    ("workflow-files", f"DELETE {REPO}/contents/.github/workflows/ci.yml", {"message": "m", "sha": SHA}),
    ("workflow-files", f"PUT {REPO}/contents/.github/actions/setup/action.yml", CONTENT),
    ("workflow-files", f"PUT {REPO}/contents/%2egithub/workflows/ci.yml", CONTENT),
    ("workflow-files", f"PUT {REPO}/contents/.github%2fworkflows%2fci.yml", CONTENT),
    ("workflow-files", f"PUT {REPO}/contents/docs/../.github/workflows/ci.yml", CONTENT),
    ("workflow-files", f"PUT {REPO}/contents//.github//workflows/ci.yml", CONTENT),
    ("workflow-files", "PUT /repositories/1296269/contents/.github/workflows/ci.yml", CONTENT),
    ("workflow-files", f"PUT {REPO}/contents/CODEOWNERS", CONTENT),
    ("workflow-files", f"PUT {REPO}/contents/docs/CODEOWNERS", CONTENT),
    ("workflow-files", f"PUT {REPO}/contents/.gitmodules", CONTENT),
    *(
        ("workflow-trees", f"POST {REPO}/git/trees", body)
        for body in (
            tree(".github/workflows/ci.yml"),
            tree("README.md", ".github/workflows/ci.yml"),
            tree(".github"),
            tree(".GitHub/workflows/ci.yml"),
            tree("/.github/workflows/ci.yml"),
            tree("./.github/workflows/ci.yml"),
            tree("docs/../.github/workflows/ci.yml"),
            tree("docs//CODEOWNERS"),
            tree("CODEOWNERS"),
            tree("docs"),
            {"base_tree": SHA, "tree": [{"path": ".github", "mode": "040000", "type": "tree", "sha": SHA}]},
            {"base_tree": SHA, "tree": [{"Path": ".github/x", "mode": "100644", "type": "blob", "sha": None}]},
            {"base_tree": SHA, "tree": [{"mode": "100644"}]},
            {"base_tree": SHA, "tree": [{"path": 7}]},
            {"tree": [{"path": "workflows/ci.yml", "mode": "100644", "type": "blob", "content": "on: push"}]},
            {"base_tree": SHA},
            b'{"base_tree":"a","tree":[{"path":"\\u002egithub/workflows/ci.yml"}]}',
        )
    ),
    ("nested-paths", f"PUT {REPO}/contents/x/.github/workflows/ci.yml", CONTENT),
    ("nested-paths", f"PUT {REPO}/contents/x/y/CodeOwners", CONTENT),
    ("nested-paths", f"PUT {REPO}/Contents/x/.g%69thub/workflows/ci.yml", CONTENT),
    ("nested-paths", "PUT /repositories/1296269/contents/contents/.github/workflows/ci.yml", CONTENT),
    ("nested-paths", "PUT /repos/octocat/.github/contents/x/.github/a.yml", CONTENT),
    *(
        ("nested-paths", f"POST {REPO}/git/trees", body)
        for body in (
            tree("x/.github/workflows/ci.yml"),
            tree("README.md", "x/y/.GitHub"),
            {"base_tree": SHA, "tree": [{"path": "x/docs", "mode": "040000", "type": "tree", "sha": SHA}]},
            {"base_tree": SHA, "tree": [{"path": "x/docs", "type": "tree", "sha": SHA}]},
        )
    ),
    ("tree-size", f"POST {REPO}/git/trees", tree(*[f"src/{n}.py" for n in range(101)])),
    ("protected-branches", f"PUT {REPO}/contents/README.md", {**CONTENT, "branch": "main"}),
    ("protected-branches", f"PUT {REPO}/contents/README.md", {**CONTENT, "branch": " refs/heads/Main "}),
    ("protected-branches", f"PUT {REPO}/contents/README.md", {**CONTENT, "branch": "heads/production"}),
    ("protected-branches", f"PUT {REPO}/contents/README.md", {k: v for k, v in CONTENT.items() if k != "branch"}),
    ("protected-branches", f"PUT {REPO}/contents/README.md", {**CONTENT, "branch": None}),
    ("protected-branches", f"DELETE {REPO}/contents/a/b/c.txt", {"message": "m", "sha": SHA}),
    ("protected-branches", f"PUT {REPO}/contents/README.md?branch=main", CONTENT),
    ("protected-refs", f"PATCH {REPO}/git/refs/heads/main", {"sha": SHA}),
    ("protected-refs", f"PATCH {REPO}/git/refs/heads/m%61in", {"sha": SHA}),
    ("protected-refs", f"PATCH {REPO}/git/refs/heads%2Fmain", {"sha": SHA}),
    ("protected-refs", f"DELETE {REPO}/git/refs/heads/master", b""),
    ("protected-refs", "PATCH /repositories/1296269/git/refs/heads/main", {"sha": SHA}),
    ("force-updates", f"PATCH {REPO}/git/refs/heads/topic", {"sha": SHA, "force": True}),
    ("force-updates", f"PATCH {REPO}/git/refs/heads/topic", {"sha": SHA, "Force": "true"}),
    ("force-updates", f"PATCH {REPO}/git/refs/tags/v1", {"sha": SHA, "force": 1}),
    ("force-updates", f"PATCH {REPO}/git/refs/heads/topic?force=true", {"sha": SHA}),
    ("force-updates", f"PATCH {REPO}/git/refs/heads/topic?x=1;force=true", {"sha": SHA}),
    ("force-updates", f"POST {REPO}/git/refs/heads/topic", {"sha": SHA, "force": True}),
    ("protected-refs", f"POST {REPO}/git/refs/heads/main", {"sha": SHA}),
    ("protected-refs", "POST /repositories/1296269/git/refs/heads/main", {"sha": SHA}),
    ("ref-deletions", f"DELETE {REPO}/git/refs/heads/feature-a", b""),
    ("ref-deletions", f"DELETE {REPO}/git/refs/tags/v1", b""),
    ("merges", f"PUT {REPO}/pulls/1347/merge", {"commit_title": "Expand enum", "merge_method": "squash"}),
    ("merges", f"PUT {REPO}/pulls/1347/merge", b""),
    ("merges", "PUT /repositories/1296269/pulls/1347/merge", b""),
    ("merges", f"POST {REPO}/merges", {"base": "master", "head": "cool_feature"}),
    ("merges", f"POST {REPO}/merge-upstream", {"branch": "main"}),
    ("branch-updates", f"PUT {REPO}/pulls/1347/update-branch", {"expected_head_sha": SHA}),
    ("approving-reviews", f"POST {REPO}/pulls/42/reviews", {"commit_id": SHA, "event": "APPROVE"}),
    ("approving-reviews", f"POST {REPO}/pulls/42/reviews", {"Event": "approve"}),
    ("approving-reviews", f"POST {REPO}/pulls/42/reviews?event=APPROVE", b""),
    ("approving-reviews", f"POST {REPO}/pulls/42/reviews/80/events", {"body": "ok", "event": "APPROVE"}),
    ("review-dismissals", f"PUT {REPO}/pulls/42/reviews/80/dismissals", {"message": "m", "event": "DISMISS"}),
    (
        "deployment-approvals",
        f"POST {REPO}/actions/runs/1/pending_deployments",
        {"environment_ids": [1], "state": "approved"},
    ),
    ("deployment-approvals", f"POST {REPO}/actions/runs/1/deployment_protection_rule", {"state": "approved"}),
    ("deployment-approvals", f"POST {REPO}/actions/runs/1/approve", b""),
    *(
        ("mint-credentials", f"POST {path}", {})
        for path in (
            "/app/installations/1/access_tokens",
            "/installations/1/access_tokens",
            f"{REPO}/pulls/42/codespaces",
            "/applications/Iv1.8a61f9b3a7aba766/token/scoped",
            "/app-manifests/abc/conversions",
            f"{REPO}/keys",
            f"{REPO}/actions/runners/registration-token",
            f"{REPO}/actions/runners/generate-jitconfig",
            f"{ORG}/actions/runners/registration-token",
            "/enterprises/octo/actions/runners/registration-token",
            "/repositories/1296269/keys",
            "/user/keys",
            "/user/gpg_keys",
            "/User/Keys/",
            "/user/ssh_signing_keys",
        )
    ),
    ("secrets", f"PUT {REPO}/actions/secrets/TOKEN", SECRET),
    ("secrets", f"DELETE {REPO}/actions/secrets/TOKEN", b""),
    ("secrets", f"PUT {REPO}/dependabot/secrets/TOKEN", SECRET),
    ("secrets", f"PUT {REPO}/environments/production/secrets/TOKEN", SECRET),
    ("secrets", f"PUT {ORG}/actions/secrets/TOKEN", {**SECRET, "visibility": "all"}),
    ("secrets", f"PUT {ORG}/actions/secrets/TOKEN/repositories/1", b""),
    ("secrets", "PUT /repositories/1296269/actions/secrets/TOKEN", SECRET),
    ("secrets", "PUT /user/codespaces/secrets/TOKEN", SECRET),
    ("apps", "PUT /user/installations/1/repositories/2", b""),
    ("apps", f"POST {ORG}/personal-access-token-requests", {"action": "approve"}),
    ("webhooks", f"POST {REPO}/hooks", HOOK),
    ("webhooks", f"PATCH {REPO}/hooks/1", {"config": {"url": "https://attacker.example"}}),
    ("webhooks", f"POST {REPO}/hooks/1", {"config": {"url": "https://attacker.example"}}),
    ("webhooks", f"PATCH {REPO}/hooks/1/config", {"url": "https://attacker.example", "secret": "x"}),
    ("webhooks", f"POST {ORG}/hooks", HOOK),
    ("webhooks", f"DELETE {ORG}/hooks/1", b""),
    ("access", f"PUT {REPO}/collaborators/octocat", {"permission": "admin"}),
    ("access", f"PUT {ORG}/teams/core/repos/octocat/hello-world", {"permission": "push"}),
    ("access", f"PUT {ORG}/teams/core/memberships/octocat", {"role": "maintainer"}),
    ("access", "PUT /teams/1/memberships/octocat", {"role": "maintainer"}),
    ("access", "PUT /organizations/9919/team/1/memberships/octocat", {"role": "member"}),
    ("access", f"PUT {ORG}/memberships/octocat", {"role": "admin"}),
    ("access", f"PATCH {ORG}", {"default_repository_permission": "admin"}),
    ("access", f"POST {ORG}", {"default_repository_permission": "admin"}),
    ("access", f"POST {ORG}/invitations", {"email": "octocat@github.com", "role": "admin"}),
    ("repository-removal", f"DELETE {REPO}", b""),
    ("repository-removal", f"DELETE {REPO}/", b""),
    ("repository-removal", "DELETE /repositories/1296269", b""),
    ("repository-removal", f"POST {REPO}/transfer", {"new_owner": "attacker"}),
    ("repository-settings", f"PATCH {REPO}", {"private": False}),
    ("repository-settings", f"POST {REPO}", {"private": False}),
    ("repository-settings", f"PATCH {REPO}?private=false", b""),
    ("repository-settings", f"PATCH {REPO}", {"Visibility": "public"}),
    ("repository-settings", f"PATCH {REPO}", {"description": "d", "default_branch": "evil"}),
    ("repository-settings", f"PATCH {REPO}", {"archived": True}),
    (
        "repository-settings",
        "PATCH /repositories/1296269",
        {"security_and_analysis": {"secret_scanning": {"status": "disabled"}}},
    ),
    ("public-repositories", "POST /user/repos", {"name": "Hello-World"}),
    ("public-repositories", f"POST {ORG}/repos", {"name": "Hello-World", "private": False}),
    ("public-repositories", f"POST {ORG}/repos", {"name": "Hello-World", "private": "true"}),
    ("public-repositories", f"POST {REPO}/generate", {"owner": "octocat", "name": "x"}),
    ("public-repositories", f"POST {REPO}/forks", {"organization": "attacker"}),
    ("releases", f"POST {REPO}/releases", {"tag_name": "v1.0.0", "target_commitish": "master"}),
    ("releases", f"PATCH {REPO}/releases/1", {"draft": False}),
    ("releases", f"DELETE {REPO}/releases/assets/1", b""),
    ("packages", f"DELETE {ORG}/packages/container/hello", b""),
    ("packages", "DELETE /user/packages/npm/hello/versions/1", b""),
    ("actions-settings", f"PUT {REPO}/actions/permissions", {"enabled": True, "allowed_actions": "all"}),
    ("actions-settings", f"PUT {REPO}/actions/permissions/workflow", {"default_workflow_permissions": "write"}),
    ("actions-settings", f"PATCH {REPO}/actions/variables/USERNAME", {"value": "x"}),
    ("actions-settings", f"POST {ORG}/actions/variables", {"name": "USERNAME", "value": "x", "visibility": "all"}),
    ("actions-settings", f"PUT {REPO}/actions/workflows/ci.yml/disable", b""),
    ("actions-settings", f"PUT {REPO}/actions/oidc/customization/sub", {"use_default": False}),
    (
        "security-checks",
        f"PATCH {REPO}/secret-scanning/alerts/42",
        {"state": "resolved", "resolution": "false_positive"},
    ),
    ("security-checks", f"PATCH {REPO}/code-scanning/alerts/42", {"state": "dismissed"}),
    ("security-checks", f"PATCH {REPO}/dependabot/alerts/2", {"state": "dismissed"}),
    ("security-checks", f"DELETE {REPO}/vulnerability-alerts", b""),
    (
        "graphql-mutations",
        "POST /graphql",
        {"query": 'mutation { mergePullRequest(input: {pullRequestId: "x"}) { clientMutationId } }'},
    ),
    (
        "graphql-mutations",
        "POST /graphql",
        {"query": "# a comment\nmutation Merge($id: ID!) { x }", "operationName": "Merge"},
    ),
    (
        "graphql-mutations",
        "POST /graphql",
        {"query": "query A { viewer { login } } mutation B { x }", "operationName": "B"},
    ),
    ("graphql-mutations", "POST /graphql", b'{"query":"\\u006dutation { x }"}'),
    ("graphql-mutations", "POST /graphql", [{"query": "mutation { x }"}]),
    ("graphql-mutations", "POST /graphql", b"mutation { x }"),
    ("graphql-mutations", "POST /GraphQL/", {"query": "mutation { x }"}),
    ("graphql-mutations", "POST /graphql?query=mutation{x}", {"query": "{ viewer { login } }"}),
]

PASSED: list[tuple[str, str, Any]] = [
    ("protection", f"GET {REPO}/branches/main/protection", b""),
    ("protection", f"GET {REPO}/rulesets", b""),
    ("protection", f"GET {REPO}/environments", b""),
    ("workflow-files", f"PUT {REPO}/contents/src/main.py", CONTENT),
    ("workflow-files", f"PUT {REPO}/contents/docs/.github-notes.md", CONTENT),
    ("workflow-files", f"PUT {REPO}/contents/examples/.github/workflows/ci.yml", CONTENT),
    ("workflow-files", f"GET {REPO}/contents/.github/workflows/ci.yml", b""),
    ("workflow-trees", f"POST {REPO}/git/trees", tree("file.rb")),
    ("workflow-trees", f"POST {REPO}/git/trees", tree("src/.github.py", "docs/index.md", ".github-notes", "a.b/c")),
    ("nested-paths", f"DELETE {REPO}/contents/x/.github/workflows/ci.yml", {"message": "m", "sha": SHA}),
    ("nested-paths", "PUT /repos/octocat/.github/contents/profile/my%20page.md", CONTENT),
    ("nested-paths", f"PUT {REPO}/contents/x/.github-notes.md", CONTENT),
    ("nested-paths", f"POST {REPO}/git/trees", tree("src/.github.py", "src/docs/index.md", "a/docs")),
    (
        "nested-paths",
        f"POST {REPO}/git/trees",
        {"base_tree": SHA, "tree": [{"path": "x/docs", "mode": "040000", "type": "tree", "sha": None}]},
    ),
    (
        "nested-paths",
        f"POST {REPO}/git/trees",
        {"base_tree": SHA, "tree": [{"path": "lib/new", "mode": "040000", "type": "tree", "sha": SHA}]},
    ),
    ("tree-size", f"POST {REPO}/git/trees", tree(*[f"src/{n}.py" for n in range(100)])),
    ("protected-branches", f"PUT {REPO}/contents/README.md", CONTENT),
    ("protected-branches", f"PUT {REPO}/contents/README.md", {**CONTENT, "branch": "maintenance"}),
    ("protected-branches", f"PUT {REPO}/contents/README.md", {**CONTENT, "branch": "feature/main"}),
    ("protected-refs", f"PATCH {REPO}/git/refs/heads/topic", {"sha": SHA}),
    ("protected-refs", f"PATCH {REPO}/git/refs/heads/feature/main", {"sha": SHA}),
    ("protected-refs", f"GET {REPO}/git/refs/heads/main", b""),
    ("force-updates", f"PATCH {REPO}/git/refs/heads/topic", {"sha": SHA, "force": False}),
    ("force-updates", f"PATCH {REPO}/git/refs/heads/topic", {"sha": SHA}),
    ("ref-deletions", f"POST {REPO}/git/refs", {"ref": "refs/heads/feature-a", "sha": SHA}),
    ("merges", f"GET {REPO}/pulls/1347/merge", b""),
    ("branch-updates", f"GET {REPO}/pulls/1347", b""),
    ("merges", f"POST {REPO}/pulls", {"title": "Amazing new feature", "head": "octocat:new-feature", "base": "master"}),
    (
        "approving-reviews",
        f"POST {REPO}/pulls/42/reviews",
        {"body": "APPROVE", "event": "REQUEST_CHANGES", "comments": []},
    ),
    ("approving-reviews", f"POST {REPO}/pulls/42/reviews", {"body": "This is close to perfect!"}),
    ("review-dismissals", f"DELETE {REPO}/pulls/42/reviews/80", b""),
    ("deployment-approvals", f"GET {REPO}/actions/runs/1/pending_deployments", b""),
    ("deployment-approvals", f"POST {REPO}/actions/runs/1/rerun", b""),
    ("mint-credentials", f"GET {REPO}/keys", b""),
    ("mint-credentials", "POST /applications/Iv1.8a61f9b3a7aba766/token", {"access_token": "gho_x"}),
    ("secrets", f"GET {REPO}/actions/secrets", b""),
    ("secrets", f"GET {REPO}/actions/secrets/public-key", b""),
    ("apps", "GET /user/installations", b""),
    ("webhooks", f"GET {REPO}/hooks", b""),
    ("webhooks", f"POST {REPO}/hooks/1/pings", b""),
    ("access", f"GET {REPO}/collaborators", b""),
    ("access", f"POST {REPO}/issues/1/assignees", {"assignees": ["octocat"]}),
    ("repository-removal", f"DELETE {REPO}/issues/comments/1", b""),
    ("repository-removal", f"GET {REPO}", b""),
    (
        "repository-settings",
        f"PATCH {REPO}",
        {"description": "This is your first repository", "homepage": "https://github.com"},
    ),
    ("repository-settings", f"PATCH {REPO}", {"has_issues": True, "has_projects": False}),
    ("public-repositories", f"POST {ORG}/repos", {"name": "Hello-World", "private": True}),
    ("public-repositories", f"POST {ORG}/repos", {"name": "Hello-World", "visibility": "internal"}),
    ("releases", f"GET {REPO}/releases/latest", b""),
    ("releases", f"GET {REPO}/releases/assets/1", b""),
    ("packages", f"GET {ORG}/packages", b""),
    ("actions-settings", f"POST {REPO}/actions/workflows/ci.yml/dispatches", {"ref": "topic"}),
    ("actions-settings", f"GET {REPO}/actions/permissions", b""),
    ("security-checks", f"GET {REPO}/secret-scanning/alerts", b""),
    ("security-checks", f"PUT {REPO}/vulnerability-alerts", b""),
    ("graphql-mutations", "POST /graphql", {"query": "query { viewer { login } }"}),
    ("graphql-mutations", "POST /graphql", {"query": '{ repository(owner: "o", name: "r") { id } }', "variables": {}}),
]


@pytest.mark.parametrize(("rule", "send", "body"), CAUGHT)
def test_it_is_caught(rule: str, send: str, body: Any) -> None:
    assert rule in matched("github", send, body)


@pytest.mark.parametrize(("rule", "send", "body"), PASSED)
def test_its_neighbour_passes(rule: str, send: str, body: Any) -> None:
    assert rule not in matched("github", send, body)


def test_every_rule_has_both() -> None:
    rules = {rule.name for rule in pack("github").rules}
    assert {rule for rule, _, _ in CAUGHT} == rules - {"mass-writes"}
    assert {rule for rule, _, _ in PASSED} == rules - {"mass-writes"}


@pytest.mark.parametrize(
    ("send", "body"),
    [
        (f"POST {REPO}/issues", {"title": "Found a bug", "body": "I'm having a problem.", "labels": ["bug"]}),
        (f"PATCH {REPO}/issues/1", {"state": "closed"}),
        (f"POST {REPO}/issues/1/comments", {"body": "Me too"}),
        (f"POST {REPO}/pulls", {"title": "Amazing new feature", "head": "topic", "base": "main"}),
        (f"POST {REPO}/git/blobs", {"content": "Content of the blob", "encoding": "utf-8"}),
        (f"POST {REPO}/git/commits", {"message": "my commit message", "tree": SHA, "parents": [SHA]}),
        (f"POST {REPO}/check-runs", {"name": "mighty_readme", "head_sha": SHA, "status": "in_progress"}),
        (f"POST {REPO}/statuses/{SHA}", {"state": "success"}),
        (f"PUT {REPO}/contents/docs/page.md", CONTENT),
        (f"GET {REPO}/contents/.github/workflows/ci.yml", b""),
    ],
)
def test_ordinary_work_meets_no_rule(send: str, body: Any) -> None:
    assert matched("github", send, body) == set()


def test_mass_writes() -> None:
    assert matched("github", f"POST {REPO}/issues", {}, session={"window.writes": 101}) == {"mass-writes"}
    assert matched("github", f"GET {REPO}/issues", session={"window.writes": 101}) == set()


def test_branches_and_paths_are_settings() -> None:
    own = guard(
        "{pack: github, connection: github, settings: {protected_branches: [release/1.x], protected_paths: [infra/]}}"
    )
    for send, body, decision in (
        (f"PATCH {REPO}/git/refs/heads/release/1.x", {"sha": SHA}, "deny"),
        (f"PATCH {REPO}/git/refs/heads/main", {"sha": SHA}, "allow"),
        (f"PUT {REPO}/contents/infra/prod.tf", CONTENT, "deny"),
        (f"PUT {REPO}/contents/.github/workflows/ci.yml", CONTENT, "allow"),
        (f"PUT {REPO}/contents/a.md", {**CONTENT, "branch": "release/1.x"}, "deny"),
        (f"POST {REPO}/git/trees", tree("infra/prod.tf"), "deny"),
        (f"POST {REPO}/git/trees", tree("infra"), "deny"),
        (f"POST {REPO}/git/trees", tree("a.tf"), "allow"),
    ):
        assert own.ask(send, body, connection="github").decision == decision, send
