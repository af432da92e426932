"""Asking a server for a credential: its answer as JSON, or the fault that silence, refusal or nonsense amounts to."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from ext_proc import web
from ext_proc.credentials.source import invalid, refused, timed_out, unavailable
from ext_proc.rules.strict_json import StrictJsonError
from ext_proc.rules.strict_json import parse as parse_json

_CODE = re.compile(r"[a-z_]{1,40}")


@dataclass(frozen=True, slots=True)
class Asker:
    """One server, as a source asks it. `place` names the source in messages; `timeout` is in seconds."""

    place: str
    timeout: float
    ca_file: str | None = None

    async def json(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        document: object = None,
        form: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The JSON object that a 2xx answer holds; {} where it holds nothing. CredentialError otherwise."""
        answer = await self.answer(method, url, headers=headers, document=document, form=form)
        return self.read(answer)

    async def answer(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        document: object = None,
        form: Mapping[str, str] | None = None,
    ) -> web.Answer:
        """The answer, whatever its status. CredentialError where there is none."""
        fields, body = dict(headers or {}), None
        if form is not None:
            fields["content-type"], body = "application/x-www-form-urlencoded", urlencode(form).encode()
        elif document is not None:
            fields["content-type"], body = "application/json", json.dumps(document).encode()
        try:
            return await web.request(method, url, headers=fields, body=body, timeout=self.timeout, ca_file=self.ca_file)
        except web.WebTimeout:
            raise timed_out(self.place, self.timeout) from None
        except web.WebTooLarge:
            raise invalid(self.place, f"answers more than {web.MAX_RESPONSE >> 10} KiB") from None
        except web.WebError as error:
            raise unavailable(self.place, "cannot be reached", detail=str(error)) from None

    def read(self, answer: web.Answer) -> dict[str, Any]:
        """What an answer holds, see `json`."""
        status = answer.status
        if status >= 500 or status == 429:
            raise unavailable(self.place, f"answers {status}")
        if status >= 400:
            raise refused(self.place, f"refuses ({' '.join(filter(None, (str(status), error_code(answer))))})")
        if not 200 <= status < 300:
            raise invalid(self.place, f"answers {status}, and redirects are not followed")
        if not answer.body:
            return {}
        try:
            document = parse_json(answer.body)
        except StrictJsonError as error:
            raise invalid(self.place, f"answers what cannot be read: {error}") from None
        if not isinstance(document, dict):
            raise invalid(self.place, "answers JSON that is no object")
        return document


def error_code(answer: web.Answer) -> str:
    """OAuth's `error` (RFC 6749, 5.2): a code, so no secret. Empty where there is none."""
    try:
        document = parse_json(answer.body)
    except StrictJsonError:
        return ""
    code = document.get("error") if isinstance(document, dict) else None
    return code if isinstance(code, str) and _CODE.fullmatch(code) else ""


def text_field(document: Mapping[str, Any], *path: str) -> bytes | None:
    """The text at this path of an answer, as bytes; None where there is none."""
    value: object = document
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value.encode() if isinstance(value, str) and value else None


def seconds_field(document: Mapping[str, Any], name: str) -> float | None:
    """A number of seconds; some servers write it as text. None where there is none."""
    value = document.get(name)
    if isinstance(value, str) and value.isdigit() and len(value) < 12:
        return float(value)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
