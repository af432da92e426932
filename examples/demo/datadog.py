"""A small Datadog: dashboards with the semantics of its v1 API, as seen in recorded traffic.

`python datadog.py PORT` with DEMO_DD_API_KEY and DEMO_DD_APP_KEY: 403 unless both arrive, each exactly once.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"
_LISTED = ("id", "title", "description", "layout_type", "url", "is_read_only", "created_at", "modified_at")
_WIDGET_NAMES = """
    alert_graph alert_value change check_status distribution event_stream event_timeline free_text funnel geomap group
    heatmap hostmap iframe image list_stream log_stream manage_status note powerpack query_table query_value
    run_workflow scatterplot servicemap slo slo_list split_group sunburst timeseries toplist topology_map trace_service
    treemap
"""
_WIDGETS = frozenset(_WIDGET_NAMES.split())


class InvalidError(Exception):
    """What the API answers as `{"errors": [...]}` with status 400."""


@dataclass(slots=True)
class Datadog:
    """One organisation's dashboards, in memory."""

    api_key: str = field(repr=False)
    app_key: str = field(repr=False)
    dashboards: dict[str, dict[str, Any]] = field(default_factory=dict)
    deleted: dict[str, dict[str, Any]] = field(default_factory=dict)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/api/v1/dashboard", self._guarded(self.create), methods=["POST"]),
                Route("/api/v1/dashboard", self._guarded(self.list), methods=["GET"]),
                Route("/api/v1/dashboard/{id}", self._guarded(self.get), methods=["GET"]),
                Route("/api/v1/dashboard/{id}", self._guarded(self.update), methods=["PUT"]),
                Route("/api/v1/dashboard/{id}", self._guarded(self.delete), methods=["DELETE"]),
            ]
        )

    def _guarded(self, handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            keys = (request.headers.getlist("dd-api-key"), request.headers.getlist("dd-application-key"))
            if keys != ([self.api_key], [self.app_key]):
                return _errors(403, "Forbidden")
            try:
                return await handler(request)
            except InvalidError as fault:
                return _errors(400, str(fault))

        return guarded

    async def create(self, request: Request) -> Response:
        definition = await _definition(request)
        now = datetime.now(UTC).isoformat()
        dashboard = self._complete(definition, "-".join(_word(3) for _ in range(3)), now, now)
        self.dashboards[dashboard["id"]] = dashboard
        return JSONResponse(dashboard)

    async def update(self, request: Request) -> Response:
        if (old := self._find(request)) is None:
            return self._missing(request)
        dashboard = self._complete(
            await _definition(request), old["id"], old["created_at"], datetime.now(UTC).isoformat()
        )
        self.dashboards[dashboard["id"]] = dashboard
        return JSONResponse(dashboard)

    async def get(self, request: Request) -> Response:
        dashboard = self._find(request)
        return self._missing(request) if dashboard is None else JSONResponse(dashboard)

    async def delete(self, request: Request) -> Response:
        if (dashboard := self._find(request)) is None:
            return self._missing(request)
        del self.dashboards[dashboard["id"]]
        self.deleted[dashboard["id"]] = {**dashboard, "deleted_at": datetime.now(UTC).isoformat()}
        return JSONResponse({"deleted_dashboard_id": dashboard["id"]})

    async def list(self, request: Request) -> Response:
        wanted = request.query_params
        source = self.deleted if wanted.get("filter[deleted]") == "true" else self.dashboards
        try:
            start, count = int(wanted.get("start", "0")), int(wanted.get("count", "100"))
        except ValueError:
            raise InvalidError("Invalid value for parameter count or start: not an integer") from None
        found = [
            {
                **{name: dashboard[name] for name in _LISTED},
                "author_handle": dashboard["author_handle"],
                "deleted_at": dashboard.get("deleted_at"),
            }
            for dashboard in source.values()
        ]
        return JSONResponse({"dashboards": found[start : start + count]})

    def _find(self, request: Request) -> dict[str, Any] | None:
        return self.dashboards.get(request.path_params["id"])

    def _missing(self, request: Request) -> Response:
        return _errors(404, f"Dashboard with ID {request.path_params['id']} not found")

    def _complete(self, definition: dict[str, Any], id_: str, created: str, modified: str) -> dict[str, Any]:
        slug = re.sub(r"[^a-z0-9]+", "-", definition["title"].lower()).strip("-")
        known = {w["id"] for w in definition["widgets"] if "id" in w}
        widgets = [{**w, "id": w.get("id") or _widget_id(known)} for w in definition["widgets"]]
        return {
            "id": id_,
            "title": definition["title"],
            "description": definition.get("description"),
            "author_handle": "demo@example.com",
            "author_name": None,
            "layout_type": definition["layout_type"],
            "url": f"/dashboard/{id_}/{slug}",
            "is_read_only": bool(definition.get("is_read_only", False)),
            "template_variables": definition.get("template_variables"),
            "widgets": widgets,
            "notify_list": definition.get("notify_list"),
            "created_at": created,
            "modified_at": modified,
            "restricted_roles": definition.get("restricted_roles", []),
        }


async def _definition(request: Request) -> dict[str, Any]:
    """A dashboard's definition, checked as the API checks it before it stores anything."""
    try:
        definition = json.loads(await request.body())
    except ValueError:
        raise InvalidError("Invalid JSON") from None
    if not isinstance(definition, dict):
        raise InvalidError("Invalid JSON structure")
    for name in ("title", "layout_type", "widgets"):
        if name not in definition:
            raise InvalidError(f"The parameter '{name}' is required")
    if not isinstance(definition["title"], str) or not definition["title"].strip():
        raise InvalidError("Invalid parameter title: must be a non-empty string")
    if definition["layout_type"] not in ("ordered", "free"):
        raise InvalidError(
            f"Invalid parameter layout_type: '{definition['layout_type']}' is not one of ['ordered', 'free']"
        )
    if not isinstance(definition["widgets"], list):
        raise InvalidError("Invalid parameter widgets: must be a list")
    for position, widget in enumerate(definition["widgets"]):
        _check_widget(position, widget, free=definition["layout_type"] == "free")
    return definition


def _check_widget(position: int, widget: object, *, free: bool) -> None:
    definition = widget.get("definition") if isinstance(widget, dict) else None
    if not isinstance(widget, dict) or not isinstance(definition, dict):
        raise InvalidError(f"Invalid widget at position {position}: 'definition' is a required property")
    kind = definition.get("type")
    if kind not in _WIDGETS:
        raise InvalidError(f"Invalid widget definition at position {position}: type '{kind}' is not known")
    where = f"Invalid widget definition at position {position} of type {kind}. Error:"
    if kind == "timeseries" and not definition.get("requests"):
        raise InvalidError(f"{where} 'requests' is a required property.")
    if kind == "note" and "content" not in definition:
        raise InvalidError(f"{where} 'content' is a required property.")
    if kind in ("iframe", "image") and "url" not in definition:
        raise InvalidError(f"{where} 'url' is a required property.")
    if free and "layout" not in widget:
        raise InvalidError(f"{where} 'layout' is required on a dashboard of type free.")


def _errors(status: int, *errors: str) -> Response:
    return JSONResponse({"errors": errors}, status_code=status)


def _word(length: int) -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(length))


def _widget_id(known: set[int]) -> int:
    while (number := secrets.randbelow(10**16)) in known:
        pass
    known.add(number)
    return number


if __name__ == "__main__":
    datadog = Datadog(os.environ["DEMO_DD_API_KEY"], os.environ["DEMO_DD_APP_KEY"])
    uvicorn.run(datadog.app(), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
