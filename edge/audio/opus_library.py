"""Finds libopus and knows its C interface; nothing else in the project does.

The interface has been stable since libopus 1.0 (https://opus-codec.org/docs/opus_api-1.5/), so any
build serves: the one that the extra ``audio`` brings inside PyAV's wheels, or else the system's.
PyAV itself, which is FFmpeg's codecs, is never imported: it conceals no loss and knows no FEC.

Calls keep the interpreter's lock (``PyDLL``). A call takes some 20 to 100 us, and a thread that
takes the lock meanwhile may keep it from the loop for 5 ms; docs/audio.md has the figures.
"""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_int, c_int32, c_void_p
from ctypes.util import find_library
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from typing import Final

from edge.ready import StartupError

MISSING: Final = (
    "no Opus codec: `pip install 'edge[audio]'` or install libopus (Debian: libopus0), "
    "or choose a backend that takes the client's own codec"
)

_INT_RESULT: Final = {
    "opus_encoder_get_size": (c_int,),
    "opus_encoder_init": (c_void_p, c_int32, c_int, c_int),
    # A variadic function: what is named here are its fixed parameters.
    "opus_encoder_ctl": (c_void_p, c_int),
    "opus_encode": (c_void_p, c_char_p, c_int, c_void_p, c_int32),
    "opus_decoder_get_size": (c_int,),
    "opus_decoder_init": (c_void_p, c_int32, c_int),
    "opus_decode": (c_void_p, c_char_p, c_int32, c_void_p, c_int, c_int),
}


@cache
def libopus() -> ctypes.PyDLL:
    """Load the library once a process; raises StartupError when there is none."""
    for path in candidates():
        try:
            return load(path)
        except (OSError, AttributeError):  # for another machine, or not what its name says
            continue
    raise StartupError(MISSING)


def load(path: str) -> ctypes.PyDLL:
    """Load one library file; raises OSError or AttributeError when it is no libopus."""
    library = ctypes.PyDLL(path)
    for name, parameters in _INT_RESULT.items():
        function = getattr(library, name)
        function.argtypes, function.restype = parameters, c_int
    library.opus_get_version_string.restype = c_char_p
    return library


def candidates() -> list[str]:
    """Where a libopus may be, best first: PyAV's wheels are newer than most systems."""
    system = find_library("opus")
    return [*_in_wheel("av"), *([system] if system else [])]


def version() -> str:
    """What the loaded library calls itself, ``libopus 1.6.1``."""
    return bytes(libopus().opus_get_version_string()).decode("ascii", "replace")


def _in_wheel(distribution: str) -> list[str]:
    """Library files called libopus that a wheel brought, by its own list of files."""
    try:
        shipped = files(distribution) or []
    except PackageNotFoundError:
        return []
    return [str(path.locate()) for path in shipped if path.name.startswith("libopus")]
