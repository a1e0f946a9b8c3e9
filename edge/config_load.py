"""Reads the configuration from a TOML file, the environment and command line flags.

The three say the same: a section and a key. Each value remembers its place, so that a wrong one
is reported in one line where a person wrote it. Text from the environment and from flags is read
by the type of its key, a list as ``a,b``. A secret may also come from a file, under its key with
``_file`` appended; a list of keys then stands one a line.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Final, NoReturn, get_type_hints

import msgspec

from edge.config import SECRET_KEYS, Config
from edge.config_rules import Key, broken_rule, check_value
from edge.errors import ConfigError
from edge.ready import Role

ENVIRONMENT_PREFIX: Final = "EDGE_"
CONFIG_VARIABLE: Final = "EDGE_CONFIG"
"""Names the file; read by the command line."""


@dataclass(frozen=True, slots=True)
class _Setting:
    """A value as it was written, and where: ``place`` begins an error's line."""

    key: Key
    value: object = field(repr=False)
    place: str
    from_text: bool = True
    """Text that is read by the type of its key; a TOML value has its own type."""


def load_config(
    file: Path | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, object],
    *,
    role: Role | None = "serve",
    flag_names: Mapping[str, str] | None = None,
) -> Config:
    """Merge the sources: ``overrides`` (keyed ``section.key``), then ``environ``, then ``file``.

    ``flag_names`` gives the name of a key's command line flag, for errors. Without a ``role``,
    for tools, the rules between keys do not apply. Raises ConfigError.
    """
    values: dict[str, dict[str, object]] = {section: {} for section in _TYPES}
    places: dict[str, str] = {}
    names = flag_names or {}
    sources = (
        _from_file(file) if file is not None else [],
        _from_environment(environ),
        (_Setting(Key(k), v, names.get(k, k)) for k, v in overrides.items() if v is not None),
    )
    for source in sources:
        for setting in _resolve_files(source):
            section, _, name = setting.key.partition(".")
            values[section][name] = _checked(setting)
            places[setting.key] = setting.place
    config = msgspec.convert(values, Config)
    broken = broken_rule(config, role) if role is not None else None
    if broken is not None:
        key, sentence = broken
        place = places.get(key) or names.get(key) or names.get(f"{key}_file") or key
        raise ConfigError(f"{place}: {sentence}")
    return config


def _from_file(file: Path) -> Iterator[_Setting]:
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: {(error.strerror or str(error)).lower()}") from None
    except ValueError as error:  # also tomllib.TOMLDecodeError and UnicodeDecodeError
        raise ConfigError(f"{file}: not valid TOML: {' '.join(str(error).split())}") from None
    for section, content in document.items():
        if section not in _TYPES:
            _unknown(f"{file}: [{_quoted(section)}]", "section", section, list(_TYPES), "[{}]")
        if not isinstance(content, dict):
            raise ConfigError(f"{file}: {section}: must be a section, as in [{section}]")
        for name, value in content.items():
            place = f"{file}: [{section}] {_quoted(name)}"
            if f"{section}.{name}" not in _KEYS:
                _unknown(place, "key", name, list(_TYPES[section]), "{}")
            yield _Setting(Key(f"{section}.{name}"), value, place, from_text=False)


def _from_environment(environ: Mapping[str, str]) -> Iterator[_Setting]:
    for variable, text in sorted(environ.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable == CONFIG_VARIABLE:
            continue
        if _is_service_link(variable, text):
            continue
        if variable not in _VARIABLES:
            _unknown_variable(variable)
        yield _Setting(_VARIABLES[variable], text, variable)


def _is_service_link(variable: str, text: str) -> bool:
    """Tell what Kubernetes sets in every pod for a service whose name begins with ``edge``."""
    if variable.endswith("_PORT"):
        return text.startswith(("tcp://", "udp://"))
    return _SERVICE_LINK.search(variable) is not None


def _unknown(place: str, noun: str, name: str, known: list[str], form: str) -> NoReturn:
    close = get_close_matches(name, known, n=1)
    hint = f", did you mean {form.format(close[0])}?" if close else ""
    raise ConfigError(f"{place}: unknown {noun}{hint}")


def _unknown_variable(variable: str) -> NoReturn:
    """Look for what was meant inside the section that the name begins with, else everywhere."""
    prefixes = [f"{ENVIRONMENT_PREFIX}{section.upper()}_" for section in _TYPES]
    prefix = next((p for p in prefixes if variable.startswith(p)), "")
    rest = [name.removeprefix(prefix) for name in _VARIABLES if name.startswith(prefix)]
    _unknown(_quoted(variable), "variable", variable.removeprefix(prefix), rest, prefix + "{}")


def _quoted(name: str) -> str:
    return name if name.isidentifier() and name.isascii() else json.dumps(name)[:80]


def _resolve_files(source: Iterable[_Setting]) -> Iterator[_Setting]:
    """Replace each ``..._file`` of a secret by what the file holds."""
    seen: dict[str, str] = {}
    for setting in source:
        key = _SECRET_FILES.get(setting.key, setting.key)
        if key in seen:
            raise ConfigError(f"{setting.place}: says the same as {seen[key]}; give only one")
        seen[key] = setting.place
        yield setting if key == setting.key else _read_secret(key, setting)


def _read_secret(key: Key, setting: _Setting) -> _Setting:
    if not isinstance(setting.value, str):
        raise ConfigError(f"{setting.place}: must be the name of a file")
    try:
        content = Path(setting.value).read_text(encoding="utf-8").strip()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"{setting.place}: {setting.value}: {reason}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{setting.place}: {setting.value}: not a text file") from None
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    return _Setting(key, lines if _KEYS[key] == tuple[str, ...] else content, setting.place)


def _checked(setting: _Setting) -> object:
    """Convert a value to its key's type and apply its rule."""
    expected, value = _KEYS[setting.key], setting.value
    from_text = setting.from_text and isinstance(value, str)
    if from_text and isinstance(value, str) and expected in _LISTS:
        value = [item.strip() for item in value.split(",") if item.strip()]
    try:
        value = msgspec.convert(value, expected, strict=not from_text)
    except (msgspec.ValidationError, TypeError):
        raise ConfigError(f"{setting.place}: must be {_WORDS[expected]}") from None
    try:
        check_value(setting.key, value)
    except ValueError as error:
        raise ConfigError(f"{setting.place}: {error}") from None
    return value


_TYPES: Final[dict[str, dict[str, object]]] = {
    section: {
        name: kind
        for name, kind in get_type_hints(struct).items()
        if name in struct.__struct_fields__
    }
    for section, struct in get_type_hints(Config).items()
    if section in Config.__struct_fields__
}
_KEYS: Final = {
    f"{section}.{name}": kind for section, keys in _TYPES.items() for name, kind in keys.items()
}
_SECRET_FILES: Final = {
    Key(f"{key}_file"): Key(key) for key in _KEYS if key.partition(".")[2] in SECRET_KEYS
}
for _file_key in _SECRET_FILES:
    _KEYS[_file_key] = str
_VARIABLES: Final = {ENVIRONMENT_PREFIX + key.upper().replace(".", "_"): Key(key) for key in _KEYS}
_WORDS: Final[dict[object, str]] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    float | None: "a number",
    tuple[str, ...]: "a list of texts",
    tuple[int, ...]: "a list of whole numbers",
}
_LISTS: Final = (tuple[str, ...], tuple[int, ...])
_SERVICE_LINK: Final = re.compile(
    r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$"
)
