"""Build the native forwarder and offload where that can be done; pyproject.toml says all else.

They need Linux and a C compiler. Without them the installation goes on, and relays and transceivers
use the twins in Python. One build serves every CPython from 3.11 on (the stable ABI).
"""

from __future__ import annotations

import sys
from glob import glob

from setuptools import Extension, setup


def native(package: str) -> Extension:
    """The extension of a package that has its C sources beside it."""
    sources = f"edge/{package}/native_src"
    return Extension(
        f"edge.{package}._native",
        sources=sorted(glob(f"{sources}/*.c")),
        depends=sorted(glob(f"{sources}/*.h")),
        define_macros=[("Py_LIMITED_API", "0x030B0000"), ("_GNU_SOURCE", "1")],
        extra_compile_args=["-std=gnu11", "-O2", "-fvisibility=hidden", "-pthread"],
        extra_link_args=["-pthread", "-ldl"],
        py_limited_api=True,
        optional=True,
    )


setup(
    ext_modules=[native("forwarder"), native("offload")] if sys.platform == "linux" else [],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
