"""What a changed configuration would decide about recorded exchanges, and the least one that covers them.

`policy test` runs `recorded -> judge -> tally`; `policy suggest` runs `templates -> scopes -> callers -> suggestion`.
Nothing here opens a socket: rows come from a function that the caller passes in.
"""
