"""Starts one child of the supervisor: `python -I -S spawn.py SUPERVISOR_PID COMMAND...`.

A program of its own, because what must happen between fork and exec cannot safely be Python of a process that has
threads. It imports nothing of the package, so that it costs milliseconds.

1. The child dies with the supervisor, whatever kills that (PR_SET_PDEATHSIG; it survives exec).
2. If the supervisor died before step 1, nobody will send that signal: stop here.
3. No core dumps: they would hold secrets.
"""

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    supervisor, command = int(sys.argv[1]), sys.argv[2:]
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != supervisor:
        sys.exit("the supervisor is gone")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        os.execvp(command[0], command)  # noqa: S606 (no shell is the point)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
