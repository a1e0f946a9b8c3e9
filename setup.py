"""Build the native forwarder where that can be done; pyproject.toml says all else.

It needs Linux and a C compiler. Without them the installation goes on, and relays use the twin in
Python. One build serves every CPython from 3.11 on (the stable ABI).
"""

from __future__ import annotations

import sys
from glob import glob

from setuptools import Extension, setup

SOURCES = "edge/forwarder/native_src"

native = Extension(
    "edge.forwarder._native",
    sources=sorted(glob(f"{SOURCES}/*.c")),
    depends=sorted(glob(f"{SOURCES}/*.h")),
    define_macros=[("Py_LIMITED_API", "0x030B0000"), ("_GNU_SOURCE", "1")],
    extra_compile_args=["-std=gnu11", "-O2", "-fvisibility=hidden", "-pthread"],
    extra_link_args=["-pthread"],
    py_limited_api=True,
    optional=True,
)

setup(
    ext_modules=[native] if sys.platform == "linux" else [],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
