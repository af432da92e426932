"""`douane show`: one exchange, as a person reads it."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import typer

from ext_proc.cli.ledger import Ledger
from ext_proc.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile
from ext_proc.cli.output import COLOURS, console, print_json, visible
from ext_proc.errors import DouaneError

_ID = re.compile(r"[0-9a-fA-F-]{4,36}")
_SHOWN_BYTES = 64 * 1024
_BINARY = ("req_body", "resp_body", "req_text", "resp_text")
_HASHES = ("req_body_sha256", "resp_body_sha256", "record_hash")


def register(app: typer.Typer, panel: str) -> None:
    @app.command(rich_help_panel=panel)
    def show(
        exchange_id: Annotated[str, typer.Argument(metavar="ID", help="The exchange's id, or its first characters.")],
        config: ConfigFile = DEFAULT_CONFIG,
        raw: Annotated[
            str | None,
            typer.Option(metavar="request|response", help="Only that body's stored bytes, to standard output."),
        ] = None,
        as_json: AsJson = False,
    ) -> None:
        """Show one exchange: who, the verdict, what was sent and what came back.

        The id is in every refusal that a client gets, in `douane search` and in SQL. Bodies above 64 KiB are cut here;
        --raw gives all of one.

        ```console
        douane show 5f0c2a9e
        douane show 5f0c2a9e --raw response | jq .
        ```
        """
        if not _ID.fullmatch(exchange_id):
            raise typer.BadParameter(f"{exchange_id!r} is not an exchange's id", param_hint="ID")
        if raw not in (None, "request", "response"):
            raise typer.BadParameter("must be request or response", param_hint="--raw")
        ledger = Ledger(config)
        row = _row(ledger, exchange_id)
        if raw is not None:
            for chunk in _body(ledger, row, "request" if raw == "request" else "response"):
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
        elif as_json:
            print_json(_plain(row))
        else:
            _print(ledger, row)


def _row(ledger: Ledger, exchange_id: str) -> dict[str, Any]:
    encoded = [*(f"base64Encode({c}) AS {c}_b64" for c in _BINARY), *(f"lower(hex({c})) AS {c}_hex" for c in _HASHES)]
    condition = "startsWith(toString(exchange_id), {id:String})"
    if len(exchange_id) == 36:
        condition = "exchange_id = {id:UUID}"
    sql = f"SELECT * EXCEPT ({', '.join((*_BINARY, *_HASHES))}), {', '.join(encoded)} "
    rows = list(
        ledger.query(f"{sql} FROM {{db}}.exchanges WHERE {condition} ORDER BY ts LIMIT 2", {"id": exchange_id.lower()})
    )
    if not rows:
        raise DouaneError(
            "show.not_found",
            f"there is no exchange {exchange_id} in the ledger",
            remedy="It is written when the exchange ends, and seen within two seconds.",
        )
    if len(rows) > 1 and len(exchange_id) < 36:
        raise DouaneError(
            "show.ambiguous", f"several exchanges begin with {exchange_id}", remedy="Give more of the id."
        )
    return rows[0]


def _body(ledger: Ledger, row: Mapping[str, Any], direction: Literal["request", "response"]) -> Iterator[bytes]:
    prefix = "req" if direction == "request" else "resp"
    whole = base64.b64decode(row[f"{prefix}_body_b64"])
    if whole or not int(row[f"{prefix}_body_size"]):
        yield whole
        return
    parts = ledger.query(
        "SELECT base64Encode(data) AS data FROM {db}.body_parts "
        "WHERE exchange_id = {id:UUID} AND direction = {direction:String} ORDER BY n",
        {"id": row["exchange_id"], "direction": direction},
    )
    for part in parts:
        yield base64.b64decode(part["data"])


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """For --json: text as text, other bytes as `NAME_b64`, hashes in hex."""
    out: dict[str, Any] = {}
    for name, value in row.items():
        if name.endswith("_b64"):
            data = base64.b64decode(value)
            try:
                out[name.removesuffix("_b64")] = data.decode()
            except UnicodeDecodeError:
                out[name] = value
        else:
            out[name.removesuffix("_hex")] = value
    return out


def _print(ledger: Ledger, row: Mapping[str, Any]) -> None:
    screen = console()
    query = f"?{row['query']}" if row["query"] else ""
    colour = COLOURS.get(row["decision"], "")
    screen.print(
        visible(f"{row['method']} {row['scheme']}://{row['host']}{row['path']}{query}"), style="bold", markup=False
    )
    verdict = f"{row['decision']}  {row['reason']}  {row['message']}".rstrip()
    _line(screen, "verdict", verdict, colour)
    _line(screen, "decided by", row["policy"])
    approval = f"{row['approval_id']}  by {', '.join(row['approved_by'])}" if row["approved_by"] else row["approval_id"]
    _line(screen, "approval", approval)
    for rule in row["rules"]:
        observed = ", observed" if rule["mode"] == "observe" else ""
        _line(screen, "policy", f"{rule['policy']} {rule['digest']}  {rule['effect']}{observed}  {rule['values']}")
    _line(screen, "response", row["response_decision"])
    _line(screen, "answer", f"{row['status'] or 'none'}, {row['outcome']}, {int(row['duration_us']) / 1000:.1f} ms")
    _line(screen, "who", f"{row['subject']} ({row['issuer']})" if row["subject"] else "nobody proven")
    _line(screen, "workload", row["workload_subject"])
    _line(screen, "run", f"{row['session_label']}  {row['session_id']}" if row["session_label"] else "")
    _line(screen, "when", f"{row['ts']} UTC")
    upstream = f"  to {row['upstream_address']}" if row["upstream_address"] else ""
    _line(screen, "connection", f"{row['connection']}  from {row['source_address']}{upstream}")
    _line(screen, "credential", row["credential"])
    _line(screen, "exchange", str(row["exchange_id"]))
    if row["claims"]:
        _line(screen, "claims", row["claims"])
    masks = row["masked"]
    if masks:
        what = sorted({f"{m['detector']} in {m['place']}" for m in masks})
        _line(screen, "masked", f"{len(masks)}: {', '.join(what)}")
    for title, prefix in (("Request", "req"), ("Response", "resp")):
        _section(ledger, screen, row, title, prefix)


def _section(ledger: Ledger, screen: Any, row: Mapping[str, Any], title: str, prefix: str) -> None:
    headers = row[f"{prefix}_headers"]
    size = int(row[f"{prefix}_body_size"])
    if not headers and not size:
        return
    screen.print(f"\n{title}", style="bold underline")
    for header in headers:
        _header(screen, header)
    content_type = next((h["value"] for h in headers if h["name"] == "content-type"), "")
    if size:
        screen.print()
        _print_body(ledger, screen, row, prefix, size, content_type)
    for trailer in row[f"{prefix}_trailers"]:
        _header(screen, trailer)


def _print_body(ledger: Ledger, screen: Any, row: Mapping[str, Any], prefix: str, size: int, content_type: str) -> None:
    if row[f"{prefix}_form"] == "sealed":
        screen.print(f"({size} bytes, sealed: encrypted because they could not be inspected)", style="dim")
        return
    text = base64.b64decode(row[f"{prefix}_text_b64"])
    data = text or b""
    if not text:
        for chunk in _body(ledger, row, "request" if prefix == "req" else "response"):
            data += chunk
            if len(data) > _SHOWN_BYTES:
                break
    cut = len(data) > _SHOWN_BYTES
    shown = data[:_SHOWN_BYTES].decode("utf-8", "replace")
    if shown.count("�") > len(shown) // 20:
        screen.print(f"({size} bytes of {content_type or 'unknown type'}; --raw gives them)", style="dim")
        return
    _print_text(screen, shown)
    note = f"{size} bytes stored"
    note += ", shown decoded" if text else ""
    note += f", cut after {_SHOWN_BYTES} here; --raw gives all" if cut else ""
    screen.print(f"({note})", style="dim")


def _print_text(screen: Any, text: str) -> None:
    from rich.syntax import Syntax

    language = "text"
    try:
        text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
        language = "json"
    except ValueError:
        pass
    safe = visible(text, keep="\n\t")
    if screen.is_terminal:
        screen.print(Syntax(safe, language, word_wrap=True, background_color="default"))
    else:
        typer.echo(safe)


def _line(screen: Any, name: str, value: str, style: str = "") -> None:
    if value.strip():
        from rich.text import Text

        screen.print(Text(f"  {name:<12}", style="dim") + Text(visible(value), style=style), soft_wrap=True)


def _header(screen: Any, header: Mapping[str, str]) -> None:
    from rich.text import Text

    screen.print(Text(f"  {visible(header['name'])}: ", style="cyan") + Text(visible(header["value"])))
