"""The table of all configuration keys in docs/operations.md, made from the code.

``python -m tests.support.config_table`` writes it anew. Names and defaults come from the
configuration's classes, flags from the command line, meanings from the texts under the fields.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import msgspec

from edge.cli import cli
from edge.config import SECRET_KEYS, Config, Section
from edge.config_load import ENVIRONMENT_PREFIX

DOCUMENT: Final = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
COMMAND: Final = "python -m tests.support.config_table"
HEAD: Final = (
    "| key | default | environment variable | flag | meaning |",
    "|---|---|---|---|---|",
)
_TABLE: Final = re.compile(rf"^{re.escape(HEAD[0])}\n(?:\|.*\n)+", re.MULTILINE)


def make_table() -> str:
    """Write the table as it should be."""
    return "".join(f"{line}\n" for line in (*HEAD, *_rows()))


def written_table() -> str:
    """Read the table as it stands in the document; empty when it is not there."""
    found = _TABLE.search(DOCUMENT.read_text(encoding="utf-8"))
    return found[0] if found else ""


def variable_of(key: str) -> str:
    """Name the environment variable of a ``section.key``."""
    return ENVIRONMENT_PREFIX + key.upper().replace(".", "_")


def defaults() -> dict[str, object]:
    """Every ``section.key`` with its default."""
    return {
        f"{section}.{name}": getattr(getattr(Config(), section), name)
        for section in Config.__struct_fields__
        for name in getattr(Config(), section).__struct_fields__
    }


def _rows() -> Iterator[str]:
    flags, meanings = _flags(), _all_meanings()
    for key, default in defaults().items():
        cells = (
            f"`{key}`{'*' if key.partition('.')[2] in SECRET_KEYS else ''}",
            # For these types TOML looks alike; it has no word for a value that is not set.
            "" if default is None else f"`{msgspec.json.encode(default).decode()}`",
            f"`{variable_of(key)}`",
            ", ".join(f"`{flag}`" for flag in sorted(flags[key])),
            meanings[key],
        )
        yield f"| {' | '.join(cells)} |"


def _flags() -> defaultdict[str, set[str]]:
    """Flags by the key that they set, its ``_file`` form counted with it."""
    flags: defaultdict[str, set[str]] = defaultdict(set)
    for command in cli.commands.values():
        for option in command.params:
            key = (option.name or "").replace("__", ".")
            if isinstance(option, click.Option) and "." in key:
                flags[_without_file(key)].update(option.opts)
    return flags


def _without_file(key: str) -> str:
    section, _, name = key.removesuffix("_file").partition(".")
    return f"{section}.{name}" if name in SECRET_KEYS else key


def _all_meanings() -> dict[str, str]:
    return {
        f"{section}.{name}": meaning
        for section in Config.__struct_fields__
        for name, meaning in _meanings(type(getattr(Config(), section))).items()
    }


def _meanings(section: type[Section]) -> dict[str, str]:
    """Every field with the text under it, empty where there is none, in one line of Markdown."""
    (definition,) = ast.parse(inspect.getsource(section)).body
    assert isinstance(definition, ast.ClassDef)
    meanings: dict[str, str] = {}
    name = ""
    for statement in definition.body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name)):
                meanings[name] = ""
            case ast.Expr(value=ast.Constant(value=str(text))) if name:
                meanings[name] = " ".join(text.split()).replace("``", "`").replace("|", "\\|")
            case _:
                pass
    return meanings


def main() -> None:
    """Put the table as it should be into the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    text, count = _TABLE.subn(lambda _: make_table(), text, count=1)
    assert count == 1, f"{DOCUMENT.name} has no table that begins with {HEAD[0]}"
    DOCUMENT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
