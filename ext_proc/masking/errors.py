"""Why a body cannot be inspected. Requests get a 4xx, responses a 502: the upstream is to blame there."""

from __future__ import annotations

from ext_proc.errors import DouaneError


class UndecodableError(DouaneError):
    """`body.undecodable`: the content-coding is unknown, corrupt or cut short. 415 for requests, 502 for responses."""

    def __init__(self, what: str, *, request: bool) -> None:
        super().__init__(
            "body.undecodable",
            f"the {'request' if request else 'response'} body cannot be decoded to look for secrets: {what}",
            remedy="Send identity, gzip, deflate, br or zstd, or set `undecodable: seal` on the connection.",
            http_status=415 if request else 502,
        )


class BombError(DouaneError):
    """`body.bomb`: the body decodes to more than `recording.max_decoded`. 413 for requests, 502 for responses."""

    def __init__(self, limit: int, *, request: bool) -> None:
        super().__init__(
            "body.bomb",
            f"the {'request' if request else 'response'} body decodes to more than {limit} bytes",
            remedy="Send less, or raise `recording.max_decoded`.",
            http_status=413 if request else 502,
        )


class UninspectableError(DouaneError):
    """`body.uninspectable`: a JSON body is so malformed that `masking.json` paths cannot be found in it."""

    def __init__(self, what: str, *, request: bool) -> None:
        super().__init__(
            "body.uninspectable",
            f"`masking.json` cannot be applied to the {'request' if request else 'response'} body: {what}",
            remedy="Send well-formed JSON, or another content-type.",
            http_status=400 if request else 502,
        )


class CredentialEchoError(DouaneError):
    """`response.credential_echo`: the response holds the credential where it cannot be blanked in place."""

    def __init__(self, name: str) -> None:
        super().__init__(
            "response.credential_echo",
            f"the upstream sent {name} back in a compressed body, or as the name of a field",
            remedy="Send `accept-encoding: identity`; in an uncompressed body it is blanked, and the answer passes.",
            http_status=502,
        )


class TooManySecretsError(DouaneError):
    """`body.too_many_secrets`: each is masked by itself, and that many would hold up everybody else's requests."""

    def __init__(self, limit: int, *, request: bool) -> None:
        super().__init__(
            "body.too_many_secrets",
            f"the {'request' if request else 'response'} body has more than {limit} secrets to mask",
            remedy="Divide it, or set `masking.detectors: none` if they are none.",
            http_status=413 if request else 502,
        )
