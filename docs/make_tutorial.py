"""Run the tutorial and keep its pictures and outputs: `python docs/make_tutorial.py`.

It takes some minutes. `--run FOLDER` takes a run that exists instead. After it,
`python docs/make_reference.py` puts the outputs into the documents.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

DOCS = Path(__file__).parent
RESULTS = DOCS / "tutorial"
SPACES = ("sgd", "sam", "asam")
KINDS = ("leaderboard", "compute", "curves", "knobs")
WIDTH = "900"


def samtune(*words: str) -> str:
    """Return what a command prints."""
    path = os.pathsep.join([str(DOCS.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "samtune", *words],
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def plan(text: str, space: str) -> str:
    """Return the lines of a dry run that say what one space would spend."""
    (part,) = [part for part in text.split("\n\n") if part.startswith(f"{space}: ")]
    kept = ("trials", "rungs", "search", "select", "confirm")
    lines = part.splitlines()
    first = next(i for i, line in enumerate(lines) if line.strip().startswith("trials"))
    last = max(i for i, line in enumerate(lines) if line.strip().startswith(kept))
    return textwrap.dedent("\n".join(lines[first : last + 1])) + "\n"


def main() -> None:
    """Run the tutorial's sweep, or take a run of it, and write what the documents show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="A run of the tutorial that exists.")
    given: Path | None = parser.parse_args().run
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if given is None else given.absolute().parent
        name = "first" if given is None else given.name
        runs = ("--runs", str(folder))
        planned = samtune("run", *SPACES, "--dry-run", "--runs", str(folder / "none"))
        if given is None:
            samtune("run", *SPACES, "--name", name, *runs)
        for kind in KINDS:
            picture = str(RESULTS / f"{kind}.svg")
            samtune("plot", name, kind, "-o", picture, "--width", WIDTH, *runs)
        board = samtune("leaderboard", name, "--format", "md", *runs)
    (RESULTS / "board.txt").write_text(board)
    (RESULTS / "plan.txt").write_text(plan(planned, "sam"))


if __name__ == "__main__":
    main()
