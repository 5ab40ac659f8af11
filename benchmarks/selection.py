"""Replay whole searches on a table of finished trials: how good and how variable is the winner?

    python -m benchmarks.selection --json benchmarks/results/selection.json

Nothing is trained. A configuration that a search proposes has the learning curves of the nearest
one of the table; proposals, rungs, select stage and choice of the winner are samtune's own. The
table has its configurations on eight bundles of split, weights and order. Each search has one of
them, its select stage the next two of a random order, and the last four, which neither sees, give
the winner's true accuracy.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.environment import environment
from samtune.api.frozen import study_row
from samtune.record.outcome import after_report
from samtune.record.ranking import winners
from samtune.record.record import Record
from samtune.record.rows import TrialRow
from samtune.space.search_space import Range, SearchSpace
from samtune.sweep.search_stage import SearchStage
from samtune.sweep.select_stage import SelectStage
from samtune.sweep.stages import StagePlan

VARIANTS = ("sgd", "sam")
KNOBS = ("lr", "rho", "weight_decay")
BUNDLES = tuple(range(2001, 2009))
# All configurations were trained on these; only the good ones on the others.
_COMPLETE = BUNDLES[:3]
_UNSEEN = 4
N_VAL = 297
# What a rule adds to a shipped space: files that it extends, or words.
RULES: Mapping[str, Sequence[str]] = {
    "32 trials": ("budget.trials=32", "search.sobol=0", "select.top=1"),
    "24 trials, top 3 x 2": ("search.sobol=0",),
    "default": (),
    "thrifty": ("thrifty.yaml",),
}
# The first simulation on this table, by rule: of sgd, then of sam. Its code is not here.
FIRST: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "32 trials": {"tau": (0.36, 0.45), "optimism": (0.93, 1.34), "off": (12, 18)},
    "24 trials, top 3 x 2": {"tau": (0.36, 0.39), "optimism": (0.40, 0.63), "off": (12, 14)},
    "default": {"tau": (0.34, 0.34), "off": (8, 12), "gain": (0.06, 0.01), "share": (1, 1)},
    "thrifty": {
        "tau": (0.48, 0.41),
        "off": (11, 21),
        "gain": (-0.03, -0.07),
        "share": (0.56, 0.56),
    },
}


@dataclass(frozen=True)
class Table:
    """The finished trials of one variant.

    Attributes:
        knobs: The knobs that differ between its configurations.
        points: The configurations in the unit cube of the space, one per row.
        trained: (used, accuracies on validation) by epoch, of a configuration and a bundle.
        accuracies: The last of them, configurations x bundles, as if all bundles were equally
            hard; NaN where a configuration was not trained.
    """

    knobs: Sequence[str]
    points: np.ndarray
    trained: Mapping[tuple[int, int], tuple[Sequence[float], Sequence[float]]]
    accuracies: np.ndarray

    @classmethod
    def read(cls, path: Path, variant: str, space: SearchSpace) -> Table:
        """Return the part of a table that is about a variant."""
        rows = [row for row in pq.read_table(path).to_pylist() if row["variant"] == variant]
        knobs = [name for name in KNOBS if name in space.knobs]
        by_config = {row["config"]: row for row in rows}
        points = [
            [_share(space, name, by_config[config][name]) for name in knobs]
            for config in sorted(by_config)
        ]
        curves = {(row["config"], row["seed"]): (row["used"], row["val_acc"]) for row in rows}
        values = np.full((len(points), len(BUNDLES)), np.nan)
        for (config, bundle), (_, accuracies) in curves.items():
            values[config, BUNDLES.index(bundle)] = accuracies[-1]
        # How hard a bundle is, by the configurations that all bundles have.
        everywhere = values[~np.isnan(values).any(axis=1)]
        values -= everywhere.mean(axis=0) - everywhere.mean()
        return cls(knobs, np.array(points), curves, values)

    def nearest(self, knobs: Mapping[str, Any], space: SearchSpace) -> int:
        """Return the configuration that is nearest to these knobs."""
        point = [_share(space, name, knobs[name]) for name in self.knobs]
        return int(np.argmin(((self.points - point) ** 2).sum(axis=1)))

    def curve(self, config: int, bundle: int) -> tuple[Sequence[float], Sequence[float]]:
        """Return what a configuration reports on a bundle; a bad one may have it of another."""
        instead = _COMPLETE[bundle % len(_COMPLETE)]
        return self.trained.get((config, bundle)) or self.trained[config, instead]

    def true(self, bundles: Sequence[int]) -> np.ndarray:
        """Return the mean accuracy of each configuration on these bundles, or on all it has."""
        columns = [BUNDLES.index(bundle) for bundle in bundles]
        means = self.accuracies[:, columns].mean(axis=1)
        return np.where(np.isnan(means), np.nanmean(self.accuracies, axis=1), means)


def _share(space: SearchSpace, name: str, value: float) -> float:
    """Return where a value lies in the range of its knob, from 0 to 1; all ranges are log."""
    domain = space.knobs[name]
    assert isinstance(domain, Range) and domain.scale == "log"
    return math.log(value / domain.low) / math.log(domain.high / domain.low)


@dataclass(frozen=True)
class Found:
    """The winner of a search.

    Attributes:
        bundle: The bundle of the search.
        spent: The see of the search and its select stage.
        promise: What validation promises of the winner.
        true: Its true accuracy.
        best: That of the best configuration of the table on the same unseen bundles.
    """

    bundle: int
    spent: float
    promise: float
    true: float
    best: float


def found(path: Path, variant: str, rule: str, searches: int) -> list[Found]:
    """Return the winners of so many searches of a variant by a rule; each has its own seed."""
    base = space_of(variant, RULES[rule])
    table = Table.read(path, variant, base)
    winners = []
    for seed in range(searches):
        space = SearchSpace.from_text(base.text, variant, variant, [f"search.seed={seed + 1}"])
        first = BUNDLES[seed % len(BUNDLES)]
        others = [bundle for bundle in BUNDLES if bundle != first]
        random.Random(seed).shuffle(others)
        config, promise, spent = search(space, table, [first, *others])
        true = table.true(others[-_UNSEEN:])
        winners.append(Found(first, spent, promise, float(true[config]), float(true.max())))
    return winners


def space_of(variant: str, words: Sequence[str]) -> SearchSpace:
    """Return a shipped space with what a rule adds to it."""
    files = [f"{variant}.yaml", *(word for word in words if "=" not in word)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"{variant}.own.yaml")
        file.write_text(f"samtune: 1\nextends: [{', '.join(files)}]\n")
        return SearchSpace.load(file, [word for word in words if "=" in word])


def search(space: SearchSpace, table: Table, bundles: Sequence[int]) -> tuple[int, float, float]:
    """Search a space on the table, one trial at a time, and select its winner.

    Args:
        space: The space, with the seed of the search.
        table: The finished trials of its variant.
        bundles: The bundle of the search, then those of the select stage.

    Returns:
        The configuration that won, what validation promises of it, and the see that were used.
    """
    with tempfile.TemporaryDirectory(dir=_in_memory()) as folder:
        row = study_row(space, space.budget.trials)
        with Record.create(Path(folder), "run", [row]) as record:
            for stage in (SearchStage, SelectStage):
                _play(stage(record, [space]), record, table, bundles)
            ((winner, promise),) = winners(record, record.studies()[0], most=1)
            config = table.nearest(winner.config.knobs, space)
            return config, promise, sum(record.used().values())


def _play(plan: StagePlan, record: Record, table: Table, bundles: Sequence[int]) -> None:
    """Run a stage to its end. Only the last report of an attempt goes to the record."""
    reported: dict[int, int] = {}
    while (trial := plan.next()) is not None:
        attempt, _ = record.start_attempt(trial)
        used, values = _curve(plan, trial, table, bundles)
        config, end = trial.config, None
        while end is None:
            k = reported.get(trial.trial, 0)
            reported[trial.trial] = k + 1
            verdict = plan.judge(trial, used[k], N_VAL, values[k])
            end = after_report(k + 1, used[k], values[k], verdict, config.budget, config.metric)
        report = {"epoch": k + 1, "used": used[k], "metrics": {config.metric: values[k]}}
        report |= {"facts": {}, "checkpoint": None, "checkpoint_sha256": None}
        record.add_report(trial.trial, attempt, report, config.metric)
        record.end_trial(trial.trial, end.state, end.reason)
        plan.ended(trial, end.state, {e + 1: v for e, v in enumerate(values[: k + 1])})
    plan.finish()


def _curve(
    plan: StagePlan, trial: TrialRow, table: Table, bundles: Sequence[int]
) -> tuple[Sequence[float], Sequence[float]]:
    """Return the reports of a trial on the bundle of its stage and seed."""
    space = plan.spaces[trial.study]
    seed = 0 if trial.bundle is None else 1 + trial.bundle % 1000
    return table.curve(table.nearest(trial.config.knobs, space), bundles[seed])


def _in_memory() -> str | None:
    """Return a folder in memory, where a commit waits for no disk; None where there is none."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


def figures(own: Sequence[Found], today: Sequence[Found]) -> dict[str, float]:
    """Return the figures of a rule, in points and per cent; `share` and `gain` against today's."""
    true = np.array([each.true for each in own])
    spent = [np.mean([each.spent for each in side]) for side in (own, today)]
    return {
        "searches": len(own),
        "true": 100 * float(true.mean()),
        "tau": 100 * float(true.std(ddof=1)),
        "optimism": 100 * float(np.mean([each.promise - each.true for each in own])),
        "off": 100 * float(np.mean([each.true < each.best - 0.01 for each in own])),
        "gain": 100 * float(true.mean() - np.mean([each.true for each in today])),
        "share": float(spent[0] / spent[1]),
    }


def with_errors(own: Sequence[Found], today: Sequence[Found]) -> dict[str, dict[str, float]]:
    """Return each figure with its Monte-Carlo error: the jackknife over the search's bundles.

    Searches on one bundle are alike, so the bundles and not the searches are the draws.
    """
    whole = figures(own, today)
    left_out = [
        figures([e for e in own if e.bundle != b], [e for e in today if e.bundle != b])
        for b in BUNDLES
    ]
    found = {}
    for name, value in whole.items():
        values = np.array([each[name] for each in left_out])
        error = math.sqrt((len(values) - 1) * float(values.var()))
        found[name] = {"value": value, "error": error}
    del found["searches"]
    return found


def compared(rule: str, variant: str, own: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return how many errors of a difference lie between a figure and the first simulation."""
    return {
        name: (own[name]["value"] - both[VARIANTS.index(variant)])
        / max(math.sqrt(2) * own[name]["error"], 0.005)
        for name, both in FIRST[rule].items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Replay all rules, print their figures, and write them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selection", description=__doc__)
    parser.add_argument("--table", type=Path, required=True, help="digits-table.parquet")
    parser.add_argument("--searches", type=int, default=192, help="of each variant by each rule")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there")
    asked = parser.parse_args(arguments)
    about = environment("optuna", "numpy", "torch")
    cells = [(variant, rule) for variant in VARIANTS for rule in RULES]
    with ProcessPoolExecutor(asked.processes, get_context("spawn")) as pool:
        jobs = [pool.submit(found, asked.table, *cell, asked.searches) for cell in cells]
        winners = {cell: job.result() for cell, job in zip(cells, jobs, strict=True)}
    rows = []
    for variant, rule in cells:
        own = with_errors(winners[variant, rule], winners[variant, "24 trials, top 3 x 2"])
        rows.append(
            {"variant": variant, "rule": rule, "figures": own}
            | {"errors_from_first": compared(rule, variant, own)}
        )
        said = "  ".join(f"{k} {v['value']:.2f} +- {v['error']:.2f}" for k, v in own.items())
        print(f"{variant}  {rule}: {said}")
    if asked.json:
        text = {"environment": about, "searches": asked.searches, "rules": rows}
        asked.json.write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    main()
