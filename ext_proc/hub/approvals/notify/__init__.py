"""Telling people that a request waits, and how it ended: from a queue on disk, tried for hours, never in the way."""

from ext_proc.hub.approvals.notify.channels import channel
from ext_proc.hub.approvals.notify.notifier import Notifier

__all__ = ["Notifier", "channel"]
