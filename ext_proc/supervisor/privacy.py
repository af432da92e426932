"""What a process does to itself so that others cannot read its memory."""

from __future__ import annotations

import ctypes
import os
import resource

_PR_SET_DUMPABLE = 4


def protect_memory() -> None:
    """No core dumps, and no ptrace or /proc/PID/environ for other processes of the same user (but root)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    os.umask(0o077)
