"""The response half of an exchange: Envoy's response phases in, its answers out, recorded before a byte passes.

response = respond(recorder, snapshot, connection, authorized, masker)
answers = await response.on(phase)          # a ResponseHead, Body or Trailers
"""

from ext_proc.response.choice import Response, respond
from ext_proc.response.unseen import UnseenResponse

__all__ = ["Response", "UnseenResponse", "respond"]
