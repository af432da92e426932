"""Writes docs/configuration.md from the configuration's models, docs/cli.md from the commands' own help,
docs/reasons.md from the code that refuses, the tables of docs/policies.md from the schema and the functions, those
of docs/packs.md from the packs; docs/detectors.md from the catalog of the masking.

    python docs/generate.py

tests/unit/config/test_reference.py fails while any of them differs from what this would write.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import typer.main
from typer.cli import get_docs_for_click

from ext_proc.cli.root import app
from ext_proc.config import base, json_schema, scalars
from ext_proc.config import packs as pack_files
from ext_proc.expressions import Overload
from ext_proc.masking import names
from ext_proc.masking.catalog import DEFAULT
from ext_proc.rules import facts
from ext_proc.rules.nested import POLICY_FUNCTIONS

HERE = Path(__file__).parent
_INTRODUCTION = """\
# Configuration

<!-- Written by docs/generate.py from the models in ext_proc/config: edit the descriptions there. -->

`douane.yaml` is YAML 1.2, read strictly: an unknown or repeated key, a name that nothing has, or a rule that cannot
hold is an error with its line, its reason code and what to do. `douane init` writes a commented example,
`douane check` tells what a file amounts to, and `douane schema --json-schema` prints the JSON Schema for editors.

- Relative paths mean the folder of the file.
- A **duration** is a number with its unit: `500ms`, `50s`, `15m`, `12h`, `400d`.
- A **size** is a number of bytes, or one with its unit: `64KiB`, `512MiB`, `1GiB`.
- A **name** has lower-case letters, digits, `-` and `_`, and at most 63 of them.
- A **source** says where a secret comes from, never what it is: `{env: NAME}`, `{file: PATH}`,
  `{exec: [PROGRAM, ...]}`, `{kubernetes: {mount: FOLDER, key: NAME}}`; for credentials also what is made on demand:
  [credentials.md](credentials.md).

While `douane up` or `douane gate` runs, a saved change is taken within seconds, without losing a request, by every
worker and by Envoy, or it is refused as a whole and the former one stays; the log says which and why. `store`,
`console`, `hub`, `approvals`, most of `gate` (all but `tls_listen` and `workload_token_file`),
`masking.fingerprint_key`, and `recording`'s `durability`, `retention`, `spool` and `seal_key` need a restart, and a
change of them is refused until then.
"""
_PATTERNS = {
    scalars.NAME_PATTERN: "name",
    scalars.SCOPE_NAME_PATTERN: "scope",
    scalars.HEADER_NAME_PATTERN: "header name",
    scalars.HOST_PATTERN: "host name",
    scalars.LISTEN_PATTERN: "`ADDRESS:PORT`",
    scalars.ENV_PATTERN: "variable name",
}
# Heading and model, in the order of the file.
_SECTIONS = (
    ("The file", "Config"),
    ("`store`", "Store"),
    ("`console`", "Console"),
    ("`issuers.NAME`", "Issuer"),
    ("`connections.NAME`", "Connection"),
    ("`connections.NAME.identity`", "ConnectionIdentity"),
    ("`connections.NAME.credentials[]`", "Credential"),
    ("`connections.NAME.credentials[].sigv4`", "SigV4"),
    ("Sources: `env`", "SourceEnv"),
    ("Sources: `file`", "SourceFile"),
    ("Sources: `exec`", "SourceExec"),
    ("Sources: `kubernetes`", "SourceKubernetes"),
    ("`kubernetes`", "KubernetesKey"),
    ("Sources: `vault`", "SourceVault"),
    ("`vault`", "Vault"),
    ("`vault.auth`", "VaultAuth"),
    ("`vault.auth.approle`", "VaultAppRole"),
    ("`vault.auth.jwt`", "VaultJwt"),
    ("Sources: `oauth2`", "SourceOAuth2"),
    ("`oauth2`", "OAuth2"),
    ("Sources: `token_exchange`", "SourceTokenExchange"),
    ("`token_exchange`", "TokenExchange"),
    ("Sources: `github_app`", "SourceGithubApp"),
    ("`github_app`", "GithubApp"),
    ("Sources: `datadog`", "SourceDatadog"),
    ("`datadog`", "Datadog"),
    ("Sources: `plugin`", "SourcePlugin"),
    ("`plugin`", "Plugin"),
    ("`grants[]`", "Grant"),
    ("`policies[]`", "Policy"),
    ("`policies[].match`", "RuleMatch"),
    ("`policies[].mask`", "RuleMask"),
    ("`policies[].rate`", "RateLimit"),
    ("`packs[]`", "PackUse"),
    ("`packs[].rules.RULE`", "RuleChange"),
    ("`sessions`", "Sessions"),
    ("`connections.NAME.operations`", "Operations"),
    ("`connections.NAME.hold`", "HoldAnswer"),
    ("`approvals`", "Approvals"),
    ("`approvals.sign_in`", "SignIn"),
    ("`approvals.actors.ISSUER`", "Actors"),
    ("`approvals.notify[]`: Slack-compatible", "Slack"),
    ("`approvals.notify[]`: webhook", "Webhook"),
    ("`approvals.notify[]`: e-mail", "Email"),
    ("`masking`", "Masking"),
    ("`recording`", "Recording"),
    ("`recording.spool`", "Spool"),
    ("`gate`", "Gate"),
    ("`hub`", "Hub"),
    ("`hub.tls`", "Tls"),
)


def configuration() -> str:
    """docs/configuration.md."""
    schema = json_schema()
    parts = [_INTRODUCTION]
    by_name = {model.__name__: model for model in base.every_model()}
    for heading, name in _SECTIONS:
        model = by_name[name]
        node = schema if name == "Config" else schema["$defs"][name]
        parts.append(f"\n## {heading}\n\n| key | value | default | meaning |\n|---|---|---|---|\n")
        for key, field in model.model_fields.items():
            shown = field.alias or key
            value = node["properties"][shown]
            default = "required" if field.is_required() else _default(field.get_default(call_default_factory=True))
            meaning = " ".join((field.description or "").split())
            parts.append(f"| `{shown}` | {_type(value)} | {default} | {meaning} |\n")
    return "".join(parts)


def cli() -> str:
    """docs/cli.md."""
    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="douane", title="Command line")
    note = "<!-- Written by docs/generate.py from the commands' help: edit it there. -->"
    title, _, rest = text.partition("\n")
    lines = [line.rstrip() for line in rest.strip().splitlines()]
    return f"{title}\n\n{note}\n\n" + "\n".join(lines) + "\n"


def _type(node: dict[str, Any]) -> str:
    if "$ref" in node:
        return "source" if "Source" in node["$ref"] else "mapping"
    if "anyOf" in node or "oneOf" in node:
        options = [_type(o) for o in node.get("anyOf", node.get("oneOf", [])) if o.get("type") != "null"]
        return " or ".join(dict.fromkeys(options))
    if "const" in node or "enum" in node:
        return " or ".join(f"`{value}`" for value in node.get("enum", [node.get("const")]))
    if node.get("format") == "path":
        return "path"
    pattern = node.get("pattern")
    if pattern == scalars.DURATION_PATTERN:
        return "duration"
    if pattern == scalars.SIZE_PATTERN:
        return "size"
    if pattern in _PATTERNS:
        return _PATTERNS[pattern]
    if node.get("type") == "array":
        return "list: " + _type(node["items"])
    if node.get("type") == "object":
        below = [*node.get("patternProperties", {}).values(), node.get("additionalProperties", {})][0]
        if not isinstance(below, dict) or not below:
            return "mapping"
        return "names, each with a " + _type(below)
    return {"string": "text", "integer": "number", "boolean": "`true` or `false`"}[node["type"]]


def _default(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, base.Model):
        return "as below"
    if value in ((), {}, ""):
        return "none"
    if isinstance(value, tuple):
        return "`[" + ", ".join(map(str, value)) + "]`"
    if hasattr(value, "total_seconds"):
        return f"`{_duration(value.total_seconds())}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int) and value >= 1 << 20 and value % (1 << 20) == 0:
        return f"`{value >> 20}MiB`"
    return f"`{value}`"


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"


_TABLE = re.compile(r"(?<=^<!-- table: )(\w+) (\w+)( -->\n).*?(?=^<!-- end -->$)", re.DOTALL | re.MULTILINE)


def packs() -> str:
    """docs/packs.md with its tables as the packs have it; the rest of the page is written by hand."""
    page = (HERE / "packs.md").read_text(encoding="utf-8")
    return _TABLE.sub(lambda found: f"{found[1]} {found[2]}{found[3]}{_pack_table(found[1], found[2])}", page)


def _pack_table(name: str, kind: str) -> str:
    if kind == "rules":
        rows = [
            (f"`{rule.name}`", rule.effect + (", observed" if rule.mode == "observe" else ""), rule.why)
            for rule in pack_files.pack(name).rules
        ]
        return _rows(("rule", "effect", "why"), rows)
    settings = pack_files.HOLD_SETTINGS if name == "hold" else pack_files.pack(name).settings
    return _rows(
        ("setting", "type", "default", "meaning"),
        [(f"`{key}`", one.type, _setting(one.default), one.about) for key, one in settings.items()],
    )


def _setting(value: Any) -> str:
    if value is None:
        return "none"
    return f"`[{', '.join(value)}]`" if isinstance(value, list) else f"`{value}`"


def _rows(names: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [names, tuple("---" for _ in names), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


_REASON = re.compile(r"[a-z]+(_[a-z]+)*\.[a-z0-9]+(_[a-z0-9]+)*")
_REASONS = """\
# Reasons

<!-- Written by docs/generate.py from the code that refuses: edit the messages there. -->

Every refusal, of a request, a configuration or a command, has a short code that stays. A client gets it as `reason`,
the ledger keeps it in the column `reason`, and logs and commands show it. `...` stands for what a message names.

| reason | what it says |
|---|---|
"""


# What sources of credentials raise, by the function that forms it: reason, and what stands before the message.
_SOURCE_FAULTS = {
    "unavailable": ("credential.unavailable", "... "),
    "refused": ("credential.refused", "... "),
    "invalid": ("credential.invalid", "... "),
    "_unsignable": ("credential.unsignable", ""),
}


def reasons() -> str:
    """Every constant reason that is passed to something that refuses, with the messages it comes with."""
    found: dict[str, list[str]] = {}
    for path in sorted((HERE.parent / "ext_proc").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or len(node.args) < 2:
                continue
            name = getattr(node.func, "attr", "") or getattr(node.func, "id", "")
            if name in _SOURCE_FAULTS and path.parent.name == "credentials":
                reason, subject = _SOURCE_FAULTS[name]
                found.setdefault(reason, []).append(subject + (_text(node.args[1]) or "..."))
                continue
            reason, message = _text(node.args[0]), _text(node.args[1]) or "..."
            if _REASON.fullmatch(reason) and (name.endswith("Error") or name in ("Deny", "LocalReply", "__init__")):
                found.setdefault(reason, []).append(message)
    rows = [f"| `{reason}` | {'<br>'.join(_telling(found[reason]))} |\n" for reason in sorted(found)]
    return _REASONS + "".join(rows)


def _telling(messages: list[str]) -> list[str]:
    """Each once, without those that are nothing but what is put in, where others say more."""
    once = list(dict.fromkeys(messages))
    return [message for message in once if message.strip(". ")] or once


def _text(node: ast.expr) -> str:
    """A string as it is shown, `...` for what is put in; empty where it is none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value.replace("|", "\\|").replace("<", "&lt;")
    if isinstance(node, ast.JoinedStr):
        parts = [_text(part) if isinstance(part, ast.Constant) else "..." for part in node.values]
        return "".join(parts)
    if isinstance(node, ast.BoolOp):
        return _text(node.values[-1])
    return ""


def policies() -> str:
    """docs/policies.md, with its tables of facts and functions."""
    about = facts.paths(facts.REQUEST_SCHEMA) | facts.paths(facts.RESPONSE_SCHEMA)
    rows = ["| fact | type | what it is |\n|---|---|---|\n"]
    for path, kind in about.items():
        if path.startswith("session.window."):
            continue
        where = " (response rules only)" if path.startswith("response.") else ""
        rows.append(f"| `{path}` | {kind} | {facts.DOCS[path]}{where} |\n")
    rows.append("| `session.window.calls`, ... | int | the same, over the last `sessions.window` |\n")
    calls = ["| function | gives | what it does |\n|---|---|---|\n"]
    for function in POLICY_FUNCTIONS.values():
        forms = dict.fromkeys(_form(function.name, o) for o in function.overloads)
        results = dict.fromkeys(str(o.result) for o in function.overloads)
        calls.append(f"| {', '.join(f'`{f}`' for f in forms)} | {' or '.join(results)} | {function.doc} |\n")
    text = (HERE / "policies.md").read_text(encoding="utf-8")
    for name, lines in (("facts", rows), ("functions", calls)):
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        text = f"{before}<!-- {name} -->\n{''.join(lines)}<!-- /{name} -->{rest.partition(f'<!-- /{name} -->')[2]}"
    return text


def _form(name: str, overload: Overload) -> str:
    called = f"{name}({', '.join(map(str, overload.parameters))})"
    return called if overload.target is None else f"{overload.target}.{called}"


_DETECTORS = """\
# Detectors

<!-- Written by docs/generate.py from ext_proc/masking/catalog.py, checks.py and names.py: edit the rules there. -->

The rule set of `masking.detectors: default`; [masking.md](masking.md) says how it is applied and what it is worth.
A secret is masked when it begins with one of the literals (where there are some), what follows has the form given as a
regular expression, no word character stands before or after it, and the check finds what it asks for. Filler has fewer
than three different characters, one of them six times in a row, or the alphabet in it.

| detector | begins with | form | checked |
|---|---|---|---|
"""
_NAMES = """
## Names

Besides, a value is masked because of its name. A name ends at its separator; what makes it one of these is a word in
it. Names whose last word says that they hold something else (`token_type`, `secret_name`, `key_id`) and public ones
(`csrf_token`, `next_page_token`) are none.

| word in the name | then the value is masked when it is |
|---|---|
"""


def detectors() -> str:
    """docs/detectors.md."""
    rows = []
    for one in sorted(DEFAULT, key=lambda d: d.name):
        begins = " ".join(f"`{begin.strip()}`" for begin in one.begins)
        form = one.then if " " in one.then and "[" not in one.then else _code(one.then)
        check = " ".join((one.check.__doc__ or "").split()) if one.check else "form only"
        rows.append(f"| {one.name} | {begins} | {form} | {check} |\n")
    kinds = (
        ((*names.PASSWORDS, *names.SHORT), "no placeholder (`<password>`, `$VAR`, `changeme`) and no sentence"),
        (names.SECRETS, "at least 8 characters, none of them a space, and neither a word, a number nor a date"),
        (names.ENDINGS, "at least 16 characters of random look; the word ends the name"),
        (names.SERVICES, "the same"),
    )
    words = [f"| {', '.join(f'`{w.decode()}`' for w in some)} | {then} |\n" for some, then in kinds]
    return _DETECTORS + "".join(rows) + _NAMES + "".join(words)


def _code(pattern: str) -> str:
    """A pattern in a cell of a table."""
    text = re.sub(r"\(\?P<\w+>", "(", pattern).replace("|", "\\|")
    return f"`` {text} ``" if "`" in text else f"`{text}`"


if __name__ == "__main__":
    (HERE / "detectors.md").write_text(detectors(), encoding="utf-8")
    (HERE / "policies.md").write_text(policies(), encoding="utf-8")
    (HERE / "reasons.md").write_text(reasons(), encoding="utf-8")
    (HERE / "configuration.md").write_text(configuration(), encoding="utf-8")
    (HERE / "cli.md").write_text(cli(), encoding="utf-8")
    (HERE / "packs.md").write_text(packs(), encoding="utf-8")
