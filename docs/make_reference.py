"""Write the pages that are made from the code: `python docs/make_reference.py`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))

from docs import make_variants  # noqa: E402

PAGES: dict[str, Callable[[], str]] = {
    "reference/variants.md": make_variants.document,
}
"""Each page under docs/, and the function that returns its text."""


def stale() -> list[str]:
    """Return the pages that are not what the code says now."""
    return [name for name, text in PAGES.items() if (DOCS / name).read_text() != text()]


if __name__ == "__main__":
    for name, text in PAGES.items():
        (DOCS / name).write_text(text())
        print(DOCS / name)
