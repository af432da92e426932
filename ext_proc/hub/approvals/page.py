"""The page behind the link of a held request: how to decide. It shows nothing of the request itself."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from ext_proc.errors import DouaneError
from ext_proc.hub.approvals.web import PAGE, Origins

_ID = re.compile(r"[0-9a-f]{24}")

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>Approval {short} - Douane</title>
<style>
:root {{ color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --line: #d9dee5; --paper: #fff; --code: #f4f6f8;
  --mark: #b7791f; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e6eaf0; --soft: #9aa5b4; --line: #333c48; --paper: #14181d;
  --code: #1d232b; --mark: #e0a63a; }} }}
body {{ margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.6 system-ui, sans-serif; }}
main {{ max-width: 42rem; margin: 12vh auto 4rem; padding: 0 1.5rem; }}
.brand {{ font-weight: 600; letter-spacing: .06em; color: var(--mark); text-transform: uppercase; font-size: .8rem; }}
h1 {{ font-size: 1.6rem; line-height: 1.25; margin: .4rem 0 1rem; }}
p {{ color: var(--soft); }}
pre {{ background: var(--code); border: 1px solid var(--line); border-radius: 8px; padding: .9rem 1rem;
  overflow-x: auto; font: 14px/1.7 ui-monospace, monospace; color: var(--ink); }}
.id {{ font: 14px ui-monospace, monospace; color: var(--soft); overflow-wrap: anywhere; }}
</style>
</head>
<body>
<main>
<div class="brand">Douane</div>
<h1>A request was held for a person to decide</h1>
<p>Nothing of it reaches the service that it is meant for until then. What it is and who sent it are
shown to those who may decide, after they sign in. Deciding takes a terminal with <code>douane</code>:</p>
<pre>douane login
douane approvals show {short}
douane approvals approve {short} --comment "why"
douane approvals deny {short} --comment "why"</pre>
<p>On the machine that runs Douane the operator needs no sign-in. Elsewhere add <code>--hub {hub}</code>.</p>
<div class="id">{id}</div>
</main>
</body>
</html>
"""
_MISSING = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Not found - Douane</title></head>
<body><p>There is nothing here. {why}</p></body></html>
"""


def route(origins: Origins, address: str) -> Route:
    """`GET /approvals/{id}`. `address` is the console's, for the commands that the page shows."""

    async def page(request: Request) -> Response:
        approval_id = request.path_params["id"]
        try:
            origins.check_name(request)
        except DouaneError as error:
            return HTMLResponse(_MISSING.format(why=error.message), error.http_status, PAGE)
        if not _ID.fullmatch(approval_id):
            return HTMLResponse(_MISSING.format(why="An approval's id has 24 hexadecimal digits."), 404, PAGE)
        return HTMLResponse(_PAGE.format(id=approval_id, short=approval_id[:12], hub=_plain(address)), 200, PAGE)

    return Route("/approvals/{id}", page, methods=["GET"])


def _plain(address: str) -> str:
    """An address from the configuration, as text."""
    return address.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
