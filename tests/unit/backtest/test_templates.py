"""Paths grouped into templates: covering what was seen, and no more than it must."""

from __future__ import annotations

import itertools
import string

import pytest

from ext_proc.backtest.templates import MANY_NAMES, MANY_WORDS, MOST_SEGMENTS, MOST_WORDS, Templates
from ext_proc.rules import Scopes


def grouped(*requests: str) -> list[str]:
    templates = Templates()
    for request in requests:
        templates.add(*request.split(" ", 1))
    return [template.request for template in templates.found()]


def words(count: int, length: int = 5) -> list[str]:
    """Words of letters only, none of which is an identifier by its form."""
    return ["".join(letters) for letters in itertools.islice(itertools.product("klmnoprstuvw", repeat=length), count)]


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        (
            ["GET /api/v1/monitor/1", "GET /api/v1/monitor/2", "DELETE /api/v1/monitor/2"],
            ["DELETE /api/v1/monitor/{monitor_id}", "GET /api/v1/monitor/{monitor_id}"],
        ),
        (["GET /"], ["GET /"]),
        (["GET /repos/acme/infra/pulls/7/"], ["GET /repos/acme/infra/pulls/{pull_id}/"]),
        # What stands before a parameter names it.
        (
            ["GET /policies/1", "GET /custom-variables/1", "GET /aws/3", "GET /status/4", "GET /a/5/6"],
            [
                "GET /a/{a_id}/{id}",
                "GET /aws/{aws_id}",
                "GET /custom-variables/{custom_variable_id}",
                "GET /policies/{policy_id}",
                "GET /status/{status_id}",
            ],
        ),
        # A word beside identifiers: what `{id}` allows anyway is said there; the rest keeps its own line.
        (
            ["GET /team/9b1d2a10-4e5f-4a6b-8c7d-9e0f1a2b3c4d", "GET /team/sync", "POST /team/sync"],
            ["POST /team/sync", "GET /team/{team_id}"],
        ),
        # Shaped like the identifiers beside it, so it is one: no digit in it would have told.
        (
            ["GET /d/2r3-a4g-ubz", "DELETE /d/mfz-hni-gvr"],
            ["DELETE /d/{d_id}", "GET /d/{d_id}"],
        ),
        (["DELETE /d/mfz-hni-gvr"], ["DELETE /d/mfz-hni-gvr"]),
        (["GET /1/2", "GET /hosts/3"], ["GET /{id}/{id}"]),
        # Different words lead to different things: an API's own.
        (["GET /a/x/one", "GET /a/y/two"], ["GET /a/x/one", "GET /a/y/two"]),
    ],
)
def test_grouping(requests: list[str], expected: list[str]) -> None:
    assert grouped(*requests) == expected


def test_words_that_a_parameter_covers_are_told() -> None:
    templates = Templates()
    for request in ("/team/7", "/team/sync", "/team/links"):
        templates.add("GET", request, 2, "2026-05-09 10:00")
    (found,) = templates.found()
    assert (found.request, found.words) == ("GET /team/{team_id}", ("links", "sync"))
    assert (found.use.count, found.use.last) == (6, "2026-05-09 10:00")


def test_very_many_words_that_lead_to_the_same_are_names() -> None:
    few = [f"GET /users/{word}/keys" for word in words(MANY_WORDS - 1)]
    assert grouped(*few) == sorted(few)
    many = [f"GET /users/{word}/keys" for word in words(MANY_WORDS)]
    assert grouped(*many) == ["GET /users/{user_id}/keys"]
    assert grouped(*many, "GET /users/admin/audit") == ["GET /users/admin/audit", "GET /users/{user_id}/keys"]


def test_names_with_capitals_or_digits_need_fewer() -> None:
    names = [f"GET /indexes/{word.capitalize()}" for word in words(MANY_NAMES)]
    assert grouped(*names[1:]) == names[1:]
    assert grouped(*names) == ["GET /indexes/{index_id}"]


def test_memory_is_bounded_by_words_and_never_by_what_is_stored() -> None:
    templates = Templates()
    for n, word in enumerate(words(3 * MOST_WORDS)):
        templates.add("GET", f"/users/{word}/keys/{n}")
        templates.add("GET", f"/metrics/{n}")
    assert [t.request for t in templates.found()] == ["GET /metrics/{metric_id}", "GET /users/{user_id}/keys/{key_id}"]


def test_endless_paths_are_left_out_and_counted() -> None:
    templates = Templates()
    templates.add("GET", "/a" * MOST_SEGMENTS)
    templates.add("GET", "/a" * (MOST_SEGMENTS + 1), 3)
    templates.add("GET", "/a" * 30_000)
    assert len(templates.found()) == 1
    assert templates.skipped == 4


def test_all_that_was_seen_is_covered() -> None:
    """Over a mixture of words and identifiers, by the scopes' own matching."""
    pieces = ["a", "b", "list", "7", "da39a3ee5e6b", "x1b-2c3-d4e", "Name.7", "%40me", *string.ascii_uppercase[:9]]
    paths = ["/" + "/".join(path) for n in (1, 2, 3) for path in itertools.product(pieces, repeat=n)]
    templates = Templates()
    for n, path in enumerate(paths):
        templates.add(("GET", "POST")[n % 2], path)
    found = templates.found()
    scopes = Scopes({"all": [template.request for template in found]})
    assert [p for n, p in enumerate(paths) if not scopes.matching(("GET", "POST")[n % 2], p)] == []
    assert sum(template.use.count for template in found) == len(paths)
