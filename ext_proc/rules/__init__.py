"""Rules: scopes over requests, grants over claims, policies over bodies. Pure computation, compiled once."""

from ext_proc.rules.grants import Granted, Grants
from ext_proc.rules.policies import Policies
from ext_proc.rules.scopes import Scopes

__all__ = ["Granted", "Grants", "Policies", "Scopes"]
