"""The one authority for approvals: what is asked, what people said, and what of it was used."""

from ext_proc.hub.approvals.registry import Registry
from ext_proc.hub.approvals.service import HoldService
from ext_proc.hub.approvals.waiting import Approvals
from ext_proc.hub.approvals.web import Origins

__all__ = ["Approvals", "HoldService", "Origins", "Registry"]
