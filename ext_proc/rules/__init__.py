"""Rules: scopes over requests, grants over claims, policies over everything a request is. Pure computation, compiled
once."""

from ext_proc.rules.facts import Facts, Message
from ext_proc.rules.grants import ConnectionScopes, Granted, Grants
from ext_proc.rules.operations import Operations, all_operations
from ext_proc.rules.policies import Policies
from ext_proc.rules.responses import ResponseDecision, ResponseRules
from ext_proc.rules.scopes import Scopes

__all__ = [
    "ConnectionScopes",
    "Facts",
    "Granted",
    "Grants",
    "Message",
    "Operations",
    "Policies",
    "ResponseDecision",
    "ResponseRules",
    "Scopes",
    "all_operations",
]
