"""The README's shell blocks: every name in them exists, and its fleet carries a call.

The fleet's command lines are run as they stand but for addresses and file names, which become
loopback ones with free ports and files of the test.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import click
import trio

from edge.cli import cli
from edge.client import open_load
from edge.config_load import load_config
from tests.support.edges import wait_ready, wait_sessions
from tests.support.processes import edge
from tests.support.readme import ROOT, blocks, commands
from tests.support.redis_server import running_redis

API_KEY = "a key that only this test uses".replace(" ", "-")
ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+:\d+")


def shell_commands() -> list[list[str]]:
    return [words for block in blocks("sh") for words in commands(block)]


def fleet_block() -> str:
    (block,) = (block for block in blocks("sh") if "edge relay" in block)
    return block


def flags_of(command: str) -> set[str]:
    parameters = cli.commands[command].params
    return {flag for each in parameters if isinstance(each, click.Option) for flag in each.opts}


def role_of(words: list[str]) -> str | None:
    """Which command of ``edge`` a line runs, if any."""
    match words:
        case ["scripts/run", *_]:
            return "serve"
        case ["edge", role, *_]:
            return role
        case _:
            return None


def exported(block: str) -> dict[str, str]:
    """What the block's ``export`` lines put into the environment, as a shell does it."""
    lines = [line for line in block.splitlines() if line.startswith("export ")]
    shell = subprocess.run(
        ["bash", "-euc", "; ".join([*lines, "env -0"])], capture_output=True, check=True
    )
    variables = dict(line.split("=", 1) for line in shell.stdout.decode().split("\0") if line)
    return {name: variables[name] for name in re.findall(r"\bEDGE_\w+", "\n".join(lines))}


def on_loopback(words: list[str], redis_port: int, keys: Path) -> list[str]:
    """A command's arguments with the addresses and files of this test."""

    def address(word: str) -> str:
        port = redis_port if word.startswith("redis://") else 0
        return ADDRESS.sub(f"127.0.0.1:{port}", word)

    return [str(keys) if word == "keys.txt" else address(word) for word in words]


def test_every_flag_exists() -> None:
    lines = {shlex.join(words): role_of(words) for words in shell_commands()}
    assert {role for role in lines.values() if role} == {"serve", "relay", "transceiver"}
    for line, role in lines.items():
        if role is not None:
            used = {word for word in line.split() if word.startswith("--")}
            assert used <= flags_of(role), line


def test_every_variable_exists() -> None:
    for block in blocks("sh"):
        for variable in re.findall(r"\bEDGE_\w+", block):
            load_config(None, {variable: "x" * 32}, {})  # an unknown one is an error


def test_every_script_exists() -> None:
    scripts = {words[0] for words in shell_commands() if words[0].startswith("scripts/")}
    assert scripts == {"scripts/run", "scripts/test"}
    assert all((ROOT / script).stat().st_mode & 0o111 for script in scripts)


async def test_the_fleet_carries_a_call(tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text(f"{API_KEY}\n")
    block = fleet_block()
    # The port of a relay's own metrics is not in the command; the default may be taken here.
    environment = {"EDGE_HTTP_BIND": "127.0.0.1:0", **exported(block)}
    with running_redis() as redis:
        relay, transceiver = (
            on_loopback(words[1:], redis.port, keys)
            for words in commands(block)
            if words[0] == "edge"
        )
        async with (
            edge(*relay, env=environment),
            edge(*transceiver, env=environment) as server,
            open_load() as load,
        ):
            await wait_ready(server.http)
            with trio.fail_after(5.0):
                call = await load.open_call(server.http, api_key=API_KEY)
                await call.wait_received(25)
            await wait_sessions(server.http, 1)
            call.close()
            await wait_sessions(server.http, 0)
