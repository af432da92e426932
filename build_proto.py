"""Compiles proto/ into ext_proc/pb at build time (hatchling's custom hook), or by hand: `python build_proto.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grpc_tools import protoc

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by hand, without hatchling
    BuildHookInterface = object  # type: ignore[assignment,misc]


def compile_protos(root: Path) -> None:
    """Write the Python modules and type stubs of every file below proto/ (grpc stubs are not needed)."""
    sources = sorted(str(p) for p in (root / "proto").rglob("*.proto"))
    code = protoc.main(
        [
            "protoc",
            f"-I{root / 'proto'}",
            f"-I{Path(protoc.__file__).parent / '_proto'}",
            f"--python_out={root}",
            f"--pyi_out={root}",
            *sources,
        ]
    )
    if code:
        raise SystemExit(f"protoc failed with exit code {code}; see the messages above")


class ProtoBuildHook(BuildHookInterface):  # type: ignore[misc,type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 (hatchling's signature)
        compile_protos(Path(self.root))


if __name__ == "__main__":
    compile_protos(Path(__file__).parent)
