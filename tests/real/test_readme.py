"""The README's shell blocks: every name in them exists, and its fleets carry a call.

The fleet's command lines are run as they stand but for addresses and file names, which become
loopback ones with free ports and files of the test.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import click
import trio

from edge.cli import cli
from edge.client import open_load
from edge.config_load import load_config
from tests.support.edges import wait_ready, wait_sessions
from tests.support.processes import Edge, edge
from tests.support.readme import ROOT, blocks, commands
from tests.support.redis_server import RedisServer, running_redis

API_KEY = "a key that only this test uses".replace(" ", "-")
ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+:\d+")


def shell_commands() -> list[list[str]]:
    return [words for block in blocks("sh") for words in commands(block)]


def fleet_blocks() -> tuple[str, str]:
    """The fleet on one machine, and that on several."""
    local, remote = (block for block in blocks("sh") if "edge relay" in block)
    return local, remote


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


def on_loopback(words: list[str], keys: Path) -> list[str]:
    """A command's arguments with the addresses and files of this test."""
    return [
        str(keys) if word == "keys.txt" else ADDRESS.sub("127.0.0.1:0", word)
        for word in words
        if word != "&"
    ]


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
            value = "memory:" if variable.endswith("_URL") else "x" * 32
            load_config(None, {variable: value}, {})  # an unknown one is an error


def test_every_script_exists() -> None:
    scripts = {words[0] for words in shell_commands() if words[0].startswith("scripts/")}
    assert scripts == {"scripts/run", "scripts/test"}
    assert all((ROOT / script).stat().st_mode & 0o111 for script in scripts)


@asynccontextmanager
async def started(block: str, redis: RedisServer, keys: Path) -> AsyncGenerator[tuple[Edge, ...]]:
    """The processes of a block, in its order."""
    variables = exported(fleet_blocks()[0])
    assert urlsplit(variables["EDGE_REGISTRY_URL"]).hostname == "127.0.0.1"
    variables["EDGE_REGISTRY_URL"] = redis.url
    # The default's port, which another test may have.
    variables["EDGE_RELAY_BIND"] = "127.0.0.1:0"
    lines = [words for words in commands(block) if words[0] == "edge"]
    async with AsyncExitStack() as stack:
        processes = [
            await stack.enter_async_context(edge(*on_loopback(words[1:], keys), env=variables))
            for words in lines
        ]
        for each in processes[1:]:
            await wait_ready(each.http)
        yield tuple(processes)


async def test_the_fleet_of_one_machine_keeps_a_call_whose_transceiver_is_killed(
    tmp_path: Path,
) -> None:
    with running_redis() as redis:
        async with started(fleet_blocks()[0], redis, tmp_path) as processes, open_load() as load:
            _, first, second = processes
            with trio.fail_after(10.0):
                call = await load.open_call(first.http)
                await call.wait_received(25)
                await first.child.kill()
                await wait_sessions(second.http, 1)
                await call.wait_received(75)
            call.close()


async def test_the_fleet_of_several_hosts_carries_a_call(tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text(f"{API_KEY}\n")
    with running_redis() as redis:
        async with started(fleet_blocks()[1], redis, keys) as processes, open_load() as load:
            _, server = processes
            with trio.fail_after(5.0):
                call = await load.open_call(server.http, api_key=API_KEY)
                await call.wait_received(25)
            await wait_sessions(server.http, 1)
            call.close()
            await wait_sessions(server.http, 0)
