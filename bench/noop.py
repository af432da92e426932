"""An ext_proc server that does nothing, in the modes Douane uses: `python -m bench.noop SOCKET`.

The request's body is awaited (FULL_DUPLEX_STREAMED), then everything is sent on as it came, with one header put in and
the verdict for the guard; response chunks (STREAMED) are acknowledged. Same gRPC stack, same messages, same socket as
a worker of Douane: what is left is what deciding, masking and recording cost.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

import grpc
import grpc.aio

from ext_proc.pb import envoy_core_pb2
from ext_proc.pb.envoy_ext_proc_pb2 import ProcessingRequest, ProcessingResponse

MAX_CHUNK = 60_000
OPTIONS = [
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 200_000),
    ("grpc.max_concurrent_streams", 100_000),
    ("grpc.max_receive_message_length", 16 << 20),
]


def _head() -> ProcessingResponse:
    answer = ProcessingResponse()
    option = answer.request_headers.response.header_mutation.set_headers.add()
    option.header.key = "dd-api-key"
    option.header.raw_value = b"the-real-key"
    option.append_action = envoy_core_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    answer.dynamic_metadata.update({"gate": {"verdict": "allow"}})
    return answer


def _body(data: bytes) -> list[bytes]:
    pieces = [data[i : i + MAX_CHUNK] for i in range(0, len(data), MAX_CHUNK)] or [b""]
    answers = []
    for number, piece in enumerate(pieces, 1):
        answer = ProcessingResponse()
        streamed = answer.request_body.response.body_mutation.streamed_response
        streamed.body = piece
        streamed.end_of_stream = number == len(pieces)
        answers.append(answer.SerializeToString())
    return answers


HEAD = _head().SerializeToString()
RESPONSE_HEAD = ProcessingResponse(response_headers={}).SerializeToString()
RESPONSE_BODY = ProcessingResponse(response_body={}).SerializeToString()


async def process(_requests: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """envoy.service.ext_proc.v3.ExternalProcessor/Process; answers are serialized beforehand where they can be."""
    parts: list[bytes] = []
    while True:
        message = await context.read()
        if message is grpc.aio.EOF:
            await context.abort(grpc.StatusCode.INTERNAL, "the stream ended early")
        kind = message.WhichOneof("request")
        if kind == "request_headers":
            if message.request_headers.end_of_stream:
                await context.write(HEAD)
        elif kind == "request_body":
            parts.append(message.request_body.body)
            if message.request_body.end_of_stream:
                await context.write(HEAD)
                for answer in _body(b"".join(parts)):
                    await context.write(answer)
        elif kind == "response_headers":
            await context.write(RESPONSE_HEAD)
            if message.response_headers.end_of_stream:
                return
        elif kind == "response_body":
            await context.write(RESPONSE_BODY)
            if message.response_body.end_of_stream:
                return


async def serve(socket: str) -> None:
    server = grpc.aio.server(options=OPTIONS)
    handler = grpc.stream_stream_rpc_method_handler(process, ProcessingRequest.FromString, None)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("envoy.service.ext_proc.v3.ExternalProcessor", {"Process": handler}),)
    )
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(grace=0.2)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
