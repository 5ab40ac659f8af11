"""Write what is made from code and results: `python docs/make_reference.py`.

The pages of the reference come from the code, the figures in the documents from committed results.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))
# A script finds its own folder only, so these imports come after the line above.

from docs import (  # noqa: E402
    make_columns,
    make_commands,
    make_environment,
    make_pictures,
    make_python,
    make_space,
    make_variants,
)
from docs.figures import DOCUMENTS, filled  # noqa: E402

PAGES: dict[str, Callable[[], str]] = {
    "concepts/neighbourhood.svg": make_pictures.neighbourhood,
    "reference/space-words.md": make_space.space_words,
    "reference/task.md": make_space.task_words,
    "reference/columns.md": make_columns.document,
    "reference/variants.md": make_variants.document,
    "reference/commands.md": make_commands.commands,
    "reference/environment.md": make_environment.environment,
    "reference/python.md": make_python.api,
    "reference/optimizers.md": make_python.optimizers,
}
"""Each page under docs/, and the function that returns its text."""


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
        print(path)


if __name__ == "__main__":
    # The networks of the page on variants are tiny; more threads only wait for each other.
    torch.set_num_threads(1)
    for name, text in PAGES.items():
        _write(DOCS / name, text())
    for document in DOCUMENTS:
        _write(document, filled(document.read_text()))
