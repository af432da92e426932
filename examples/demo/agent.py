"""What the CI job runs: Datadog's official client, unchanged. It knows its own OIDC token and no key of Datadog's.

The token is where the API key would be (DD_API_KEY); the application key is a placeholder. Both are replaced on the
way. `python agent.py URL` ends with 0 when everything went as told.
"""

from __future__ import annotations

import json
import sys

from datadog_api_client import ApiClient, Configuration
from datadog_api_client.exceptions import ApiException
from datadog_api_client.v1.api.dashboards_api import DashboardsApi
from datadog_api_client.v1.api.monitors_api import MonitorsApi
from datadog_api_client.v1.model.dashboard import Dashboard
from datadog_api_client.v1.model.dashboard_layout_type import DashboardLayoutType
from datadog_api_client.v1.model.i_frame_widget_definition import IFrameWidgetDefinition
from datadog_api_client.v1.model.i_frame_widget_definition_type import IFrameWidgetDefinitionType
from datadog_api_client.v1.model.note_widget_definition import NoteWidgetDefinition
from datadog_api_client.v1.model.note_widget_definition_type import NoteWidgetDefinitionType
from datadog_api_client.v1.model.timeseries_widget_definition import TimeseriesWidgetDefinition
from datadog_api_client.v1.model.timeseries_widget_definition_type import TimeseriesWidgetDefinitionType
from datadog_api_client.v1.model.timeseries_widget_request import TimeseriesWidgetRequest
from datadog_api_client.v1.model.widget import Widget


def dashboard(title: str, *widgets: Widget) -> Dashboard:
    return Dashboard(title=title, layout_type=DashboardLayoutType.ORDERED, widgets=list(widgets))


def latency() -> Widget:
    return Widget(
        definition=TimeseriesWidgetDefinition(
            type=TimeseriesWidgetDefinitionType.TIMESERIES,
            title="Checkout latency, 99th percentile",
            requests=[TimeseriesWidgetRequest(q="p99:trace.http.request{service:checkout}")],
        )
    )


def note(text: str) -> Widget:
    return Widget(definition=NoteWidgetDefinition(type=NoteWidgetDefinitionType.NOTE, content=text))


def iframe(url: str) -> Widget:
    return Widget(definition=IFrameWidgetDefinition(type=IFrameWidgetDefinitionType.IFRAME, url=url))


def refused(what: str, fault: ApiException) -> str:
    """Say what Douane answered; the reason code."""
    answer = json.loads(fault.body) if isinstance(fault.body, str | bytes) else fault.body
    print(f"{what}: refused with {fault.status} {answer['reason']}: {answer['message']}")
    return str(answer["reason"])


def main(url: str) -> int:
    configuration = Configuration(host=url, enable_retry=True)  # type: ignore[no-untyped-call]
    # DD_API_KEY and DD_APP_KEY are read from the environment
    with ApiClient(configuration) as client:
        api = DashboardsApi(client)  # type: ignore[no-untyped-call]
        made = api.create_dashboard(body=dashboard("Checkout", latency()))
        print(f"create a dashboard: done, {made.id}")
        reasons = []
        try:
            api.create_dashboard(body=dashboard("Checkout, embedded", latency(), iframe("https://evil.example/pixel")))
        except ApiException as fault:
            reasons.append(refused("create one with an iframe", fault))
        api.update_dashboard(made.id, body=dashboard("Checkout", latency(), note("Runbook: wiki/checkout")))
        print("update it: done")
        print(f"list dashboards: {', '.join(str(d.title) for d in api.list_dashboards().dashboards)}")
        try:
            MonitorsApi(client).list_monitors()  # type: ignore[no-untyped-call]
        except ApiException as fault:
            reasons.append(refused("list monitors", fault))
        print("delete the dashboard: sent, and waiting for the answer ...", flush=True)
        print(f"delete the dashboard: done, {api.delete_dashboard(made.id).deleted_dashboard_id}")
    return 0 if reasons == ["policy.denied", "grant.none"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
