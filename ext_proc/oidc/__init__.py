"""OIDC: finding a token in a request, verifying it, and telling who calls in which session."""

from ext_proc.oidc.callers import caller, is_job
from ext_proc.oidc.keysets import KeySets
from ext_proc.oidc.presented import Presented, find_tokens, is_session_key
from ext_proc.oidc.verifier import Verifier

__all__ = ["KeySets", "Presented", "Verifier", "caller", "find_tokens", "is_job", "is_session_key"]
