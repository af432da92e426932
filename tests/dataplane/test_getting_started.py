"""docs/getting-started.md is true: its configuration is used and its commands are run, in order, in one shell."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ext_proc.config import parse
from tests.dataplane.stack import free_ports
from tests.dataplane.upstreams import web
from tests.issuer import LoopbackIssuer

pytestmark = pytest.mark.dataplane

PAGE = (Path(__file__).parents[2] / "docs" / "getting-started.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    return [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl, which .ci/run installs")
async def test_every_command_of_the_page(tmp_path: Path) -> None:
    async with web() as upstream:
        with LoopbackIssuer() as issuer:
            base, console, store = free_ports(3)
            here = {
                "https://token.actions.githubusercontent.com": issuer.url,
                "https://api.datadoghq.com": upstream.url,
                "127.0.0.1:15001": f"127.0.0.1:{base}",
                "127.0.0.1:15000": f"127.0.0.1:{console}",
            }

            def local(text: str) -> str:
                for there, replacement in here.items():
                    text = text.replace(there, replacement)
                return text

            config = local(blocks("yaml")[0]).replace(
                'store: {url: "embedded:./var/store"}',
                f'store: {{url: "embedded:./var/store", listen: "127.0.0.1:{store}"}}\n'
                f'console: {{listen: "127.0.0.1:{console}"}}',
            )
            (tmp_path / "douane.yaml").write_text(config)
            script = "\n".join(["set -eu", *(f"printf '\\n--- {n}\\n'\n{local(c)}" for n, c in enumerate(commands()))])
            environment = {
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "HOME": str(tmp_path),
                "DOUANE_TOKEN": issuer.token(),
            }
            done = await run(["bash", "-c", script], tmp_path, environment)
    log = (tmp_path / "up.log").read_text() if (tmp_path / "up.log").exists() else ""
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{log}"
    answers = re.split(r"^--- \d+\n", done.stdout, flags=re.MULTILINE)[1:]
    by_command = dict(zip(commands(), answers, strict=True))

    def answer_to(part: str) -> str:
        (found,) = [answer for command, answer in by_command.items() if part in command]
        return found

    assert "infra-main" in answer_to("douane check")
    assert "grant.none" in answer_to("-X DELETE")
    assert "acme/infra run 1001" in answer_to("douane sessions")
    assert "/api/v1/dashboard" in answer_to("douane search")
    assert "grant.none" in answer_to("douane show")
    assert "dse_" in answer_to("-X POST")
    assert "the-real-api-key" not in done.stdout


async def run(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_pipelines_ask_for_the_audience_that_is_configured() -> None:
    yaml = YAML(typ="safe")
    config, github, gitlab = (yaml.load(block) for block in blocks("yaml")[:3])
    assert github["permissions"]["id-token"] == "write"
    assert gitlab["deploy"]["id_tokens"]["DOUANE_TOKEN"]["aud"] == config["issuers"]["github"]["audience"]


def test_the_hub_listens_where_the_gate_looks_for_it(tmp_path: Path) -> None:
    hub, gate = (parse(block, "douane.yaml", tmp_path).config.hub for block in blocks("yaml")[3:])
    assert hub.tls is not None
    assert gate.tls is not None
    assert gate.url is not None
    assert gate.url.rpartition(":")[2] == hub.listen.rpartition(":")[2]
