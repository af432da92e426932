"""Masks secrets before anything is stored: known values in every encoding, configured places, detectors.

masker = Masker(config.masking, fingerprint_key, config.recording.max_decoded)
exchange = masker.exchange([Known("token", token), Known("credential:dd-api-key", secret, redact=True)])
body = exchange.body(journal_pb2.RESPONSE, content_type, content_encoding, redact=True)
step = body.feed(chunk, last)
"""

from ext_proc.masking.body import AS_SENT, DECODED, SEALED, BodyMasker, Step
from ext_proc.masking.errors import BombError, CredentialEchoError, UndecodableError, UninspectableError
from ext_proc.masking.known import Known
from ext_proc.masking.marks import client_mark, for_client
from ext_proc.masking.masker import ExchangeMasker, Masker, mask_text
from ext_proc.masking.seal import SealError, seal, unseal

__all__ = [
    "AS_SENT",
    "DECODED",
    "SEALED",
    "BodyMasker",
    "BombError",
    "CredentialEchoError",
    "ExchangeMasker",
    "Known",
    "Masker",
    "SealError",
    "Step",
    "UndecodableError",
    "UninspectableError",
    "client_mark",
    "for_client",
    "mask_text",
    "seal",
    "unseal",
]
