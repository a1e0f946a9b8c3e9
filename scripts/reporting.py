"""How benches write their figures down: the option ``--json FILE``."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

json_option = click.option(
    "--json", "json_file", type=click.Path(path_type=Path), help="Write the figures here."
)
"""Gives a command its argument ``json_file``."""


def write_json(json_file: Path | None, figures: object) -> None:
    """Write figures as indented JSON, where somebody asked for it."""
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=2) + b"\n")
