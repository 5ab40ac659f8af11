"""Write the leaderboard of runs from their tables: `python -m analysis RUN... -o FILE`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from analysis import board as text
from analysis.leaderboard import save
from analysis.sources import ends, merged, rules
from analysis.summary import summary
from analysis.tasks import over_tasks, sentences
from analysis.verdicts import compare
from samtune.errors import SamtuneError


def main() -> int:
    """Read Parquet, write Parquet, print the words of the board, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="folder of tables")
    parser.add_argument("-o", "--output", type=Path, default=Path("leaderboard.parquet"))
    parser.add_argument("--pairs", type=Path, help="also write the pairs of the rows")
    parser.add_argument("--baseline", help="without it, the study's, or sgd")
    options = parser.parse_args()
    try:
        folders, notes = merged(options.folders)
        board, pairs = compare(folders, options.baseline)
        save(board, options.output, folders)
        if options.pairs:
            save(pairs, options.pairs, folders, "pairs")
        averages = sentences(over_tasks(board, folders))
    except (SamtuneError, OSError) as error:
        print(f"analysis: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, SamtuneError) else 5
    for note in [*notes, *rules(board), *ends(folders)]:
        print(note)
    for question, rows in text.questions(board):
        print(question)
        print(summary(rows, pairs))
    for sentence in averages:
        print(sentence)
    print(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
