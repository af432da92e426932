"""What each session did, counted once: calls, writes, different targets, bytes, refusals; and the rates of policies."""

from ext_proc.hub.counters.service import CounterService
from ext_proc.hub.counters.store import Counters

__all__ = ["CounterService", "Counters"]
