"""docs/operations.md tells the truth about the configuration and the log."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from edge.config import Config
from edge.config_load import load_config
from tests.support import config_table

EDGE = Path(__file__).parents[1] / "edge"


def test_the_table_of_keys_is_that_of_the_code() -> None:
    message = f"docs/operations.md is not what the code says; run: {config_table.COMMAND}"
    assert config_table.written_table() == config_table.make_table(), message


def test_every_key_has_a_meaning() -> None:
    for line in config_table.make_table().splitlines()[2:]:
        assert re.search(r"\| [^|]*[a-zA-Z][^|]*[.;] \|$", line.replace(r"\|", "")), line


@pytest.mark.parametrize("key", config_table.defaults())
def test_every_variable_in_the_table_is_read(key: str) -> None:
    value = config_table.defaults()[key]
    text = ",".join(value) if isinstance(value, tuple) else str(value).lower()
    variable = config_table.variable_of(key)
    assert f"| `{variable}` |" in config_table.written_table()
    assert load_config(None, {} if value is None else {variable: text}, {}) == Config()


def test_every_log_line_is_listed() -> None:
    document = config_table.DOCUMENT.read_text(encoding="utf-8")
    listed = set(re.findall(r"`([^`]+)`", document.partition("## Log lines")[2]))
    assert logged_events() - listed == set()


def logged_events() -> set[str]:
    """The events that the code logs by a literal name."""
    levels = {"debug", "info", "warning", "error", "exception"}
    events = set()
    for path in EDGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if not any(f".{level}(" in text for level in levels):
            continue  # to parse them all takes half a second
        for node in ast.walk(ast.parse(text)):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr=level), args=[ast.Constant(value=str(event)), *_]
                ) if level in levels:
                    events.add(event)
                case _:
                    pass
    return events
