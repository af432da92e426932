"""Asks a worker to take a configuration (douane.control.v1.Control on the worker's own socket)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ext_proc.errors import ConfigError
from ext_proc.pb.control_pb2 import ApplyReply, ApplyRequest

if TYPE_CHECKING:
    from pathlib import Path

    from ext_proc.config import Loaded

APPLY_S = 30.0


async def apply(socket: Path, loaded: Loaded) -> bool:
    """False when no worker is there. ConfigError when it refuses, or does not answer in time."""
    import grpc  # heavy, and only a running gate needs it
    import grpc.aio

    # A shared subchannel would still be backing off from the worker that died on this socket.
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"unix:{socket}", options=options) as channel:
        method = channel.unary_unary(
            "/douane.control.v1.Control/Apply",
            request_serializer=ApplyRequest.SerializeToString,
            response_deserializer=ApplyReply.FromString,
        )
        try:
            reply = await method(ApplyRequest(config_text=loaded.text, origin=str(loaded.path)), timeout=APPLY_S)
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                return False
            raise ConfigError(
                "worker.refused", f"{socket.name}: {error.details() or error.code().name.lower()}"
            ) from None
    if reply.error:
        raise loaded.locate(refusal(reply.error))
    return True


def refusal(text: str) -> ConfigError:
    """A worker's `reason: message` as the fault that it was."""
    reason, colon, message = text.partition(": ")
    if colon and re.fullmatch(r"[a-z_]+\.[a-z_]+", reason):
        return ConfigError(reason, message)
    return ConfigError("worker.refused", text)
