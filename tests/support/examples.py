"""How many examples a property gets: some in the fast level, many where there is time for them.

``EDGE_EXAMPLES=all`` in the environment takes ten times as many, as ``scripts/test fuzz`` does.
"""

from __future__ import annotations

import os
from typing import Final

from hypothesis import settings

MANY: Final = os.environ.get("EDGE_EXAMPLES") == "all"
USUAL: Final = 10
"""Examples of a property that says nothing else, in the fast level."""


def examples(some: int) -> settings:
    """So many in the fast level; a decorator."""
    return settings(max_examples=some * 10 if MANY else some)
