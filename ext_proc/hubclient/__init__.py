"""What a gate asks of the hub: to take journals, and to decide what only one place can decide."""

from ext_proc.hubclient.authority import Authority
from ext_proc.hubclient.channel import AUTHORITY, INGEST, MAX_MESSAGE, HubClient, unavailable

__all__ = ["AUTHORITY", "INGEST", "MAX_MESSAGE", "Authority", "HubClient", "unavailable"]
