"""Decisions at a look: which winners need no more seeds, by the leaderboard's verdicts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from analysis.leaderboard import leaderboard
from analysis.tables import QUESTION
from analysis.verdicts import BASELINE, judged
from samtune.record import tables
from samtune.record.export import export
from samtune.record.record import Record
from samtune.record.rows import canonical
from samtune.sweep.confirm_stage import seed_of


def decisions(record: Record, tell: Callable[[str], None]) -> Callable[[int], set[int]]:
    """Return a function of the number of seeds so far, which returns the decided studies.

    Each row is compared with the baseline of its task: tuned SGD where the run has it, else the
    row with the best validation score. Both are known before test is opened. The baseline goes on
    while a comparison is open. More seeds do not help a row that has a diverged repeat, that
    reports nothing of test, or that stands for three searches.

    Args:
        record: The run's record, with the plan of its seeds.
        tell: Called with a sentence about each look.
    """

    def decided(seeds: int) -> set[int]:
        with tempfile.TemporaryDirectory() as scratch:
            going = {*_going(record, Path(scratch), seeds)}
        studies = record.studies()
        tasks = {trial.study: trial.config.task for trial in record.trials(stage="confirm")}
        open_ = [
            study
            for study in studies
            if study.study in tasks
            and (study.settings.get("row", study.name), canonical(dict(tasks[study.study])))
            in going
        ]
        _say(record, seeds, [study.name for study in open_], tell)
        record.set_meta("going", [study.study for study in open_])
        return {study.study for study in studies} - {study.study for study in open_}

    return decided


def _going(record: Record, folder: Path, seeds: int) -> Iterator[tuple[str, str]]:
    """Yield the space and the task of each row that needs more seeds."""
    export(record, folder)
    path = folder / "repeats.parquet"
    repeats = tables.read(path, "repeats")
    # A later look that was cut short is not to be seen.
    early = [seed_of(bundle) < seeds for bundle in repeats.column("seed_bundle").to_pylist()]
    tables.write(path, repeats.schema, repeats.filter(early).to_batches())
    named = next((study.settings.get("baseline") for study in record.studies()), "") or BASELINE
    for _, rows in leaderboard([folder]).groupby(QUESTION, dropna=False):
        board, _ = judged(rows, [folder], _baseline(rows, named))
        more = (board["verdict"] == "underpowered") & (board["n"] > 0)
        more &= board["verdict_about"] == "configuration"
        if more.any():
            shown = board[more | (board["verdict"] == "baseline")]
            yield from zip(shown["space"], shown["task"], strict=True)


def _baseline(rows: pd.DataFrame, named: str) -> str:
    """Return the baseline that is named, else the row with the best validation score."""
    ranked = rows[rows["rank"].notna()]
    if ranked.empty or {named} & {*ranked["space"], *ranked["variant"]}:
        return named
    # The rows are in the order of their test scores, which may not break a tie.
    by = [f"best_{ranked.iloc[0]['metric']}", "space"]
    smaller = ranked.iloc[0]["mode"] == "min"
    return str(ranked.sort_values(by, ascending=[smaller, True]).iloc[0]["space"])


def _say(record: Record, seeds: int, going: list[str], tell: Callable[[str], None]) -> None:
    """Record and tell the result of a look, once."""
    text = f"{seeds} seeds: {', '.join(going) + ' go on' if going else 'all is decided'}"
    if not any(e["kind"] == "look" and e["detail"] == text for e in record.events()):
        record.add_event("look", text)
        tell(f"after {text}")
