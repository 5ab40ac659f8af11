"""`samtune publish`: a run as a tabular benchmark, with a datasheet and checksums."""

from __future__ import annotations

from pathlib import Path

from analysis import board as text
from analysis.verdicts import compare
from samtune.api.tables import write_tables
from samtune.record import published, tables
from samtune.record.reader import Reader

_DATASHEET = """# {run}

Every trial, report and repeat of a samtune run, for studies of search methods and early stopping
without training. Licence: {license}.

`samtune replay . --asha grace=4,factor=3` reads it. `sha256sum -c SHA256SUMS` verifies it.

## What was measured

{questions}

| file | rows | content |
| --- | --- | --- |
{files}

`spaces/` has the frozen spaces, in the order of the column `study`. The metadata of a column has
its meaning: `pyarrow.parquet.read_schema("trials.parquet").field("see").metadata`. Search and
select use the validation split only; `test_` columns are of fresh-seed repeats.

## Where it comes from

- samtune {version}, torch {torch}
- data (SHA-256 of what was trained on): {data}
- devices: {devices}
"""
_CONTENT = {
    "trials": "a trial of the search",
    "curves": "a report of a trial or repeat",
    "selects": "a run of the select stage",
    "repeats": "a repeat of a winner on fresh seeds",
    "leaderboard": "a variant and question",
    "pairs": "a pair of rows",
}


def publish(record: Reader, folder: Path, license: str) -> list[Path]:
    """Write a run as a tabular benchmark, and return the paths of its files.

    Args:
        record: The run.
        folder: An empty folder, or one that is made.
        license: The licence of the tables, for the datasheet.

    Raises:
        RunError: The folder is not empty, or the record is damaged.
        OSError: A file cannot be written.

    """
    published.refuse_filled(folder)
    (folder / "spaces").mkdir(parents=True)
    written, _ = write_tables(record, folder)
    for study in record.studies():
        path = folder / "spaces" / f"{study.study:03d}.{study.name}.yaml"
        path.write_text(study.space)
        written.append(path)
    board, _ = compare([folder])
    trials = tables.read(folder / "trials.parquet", "trials", ["device", "torch_version"])
    about = tables.metadata(folder / "trials.parquet")
    rows = {name: tables.read(folder / f"{name}.parquet", name).num_rows for name in _CONTENT}
    sheet = _DATASHEET.format(
        run=record.name,
        license=license,
        questions="\n".join(f"- {question}" for question, _ in text.questions(board)),
        files="\n".join(f"| {n}.parquet | {rows[n]} | {what} |" for n, what in _CONTENT.items()),
        version=about.get("samtune.version", "unknown"),
        torch=_listed(trials["torch_version"].to_pylist()),
        data=about.get("samtune.data_sha256") or "unknown",
        devices=_listed(trials["device"].to_pylist()),
    )
    (folder / "README.md").write_text(sheet)
    published.write_sums(folder)
    return [*written, folder / "README.md", folder / published.SUMS]


def _listed(values: list[str | None]) -> str:
    return ", ".join(sorted({value for value in values if value})) or "unknown"
