"""Tables of made-up runs, for charts and pages."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from test_leaderboard import folder, repeat, trial

from analysis.leaderboard import leaderboard
from analysis.tables import ROW
from analysis.verdicts import judged
from samtune.record import tables
from samtune.record.front import front

AIMS = {"val_acc": "max", "s_per_step": "min"}


def search(
    path: Path, variants: Sequence[str], trials: int, reports: int, **changes: Any
) -> dict[str, pd.DataFrame]:
    """Return the tables of a made-up run with rungs at 8 and 16 of 20."""
    draw = random.Random(1)
    found, curves, repeats = [], [], []
    for number in range(trials):
        variant = variants[number % len(variants)]
        lr, rho = 10 ** draw.uniform(-3, 0), 10 ** draw.uniform(-2, 0.5)
        final = 0.97 - 0.09 * abs(math.log10(lr) + 0.7) / 2 - draw.expovariate(60)
        luck = draw.random()
        used = 8 if luck < 0.4 else 16 if luck < 0.6 else 20
        key = f"{number:016x}"
        for k in range(1, max(1, reports * used // 20) + 1):
            at = 20 * k / reports
            score = final * (1 - math.exp(-at / 4)) + draw.gauss(0, 0.003)
            rung = {8: 0, 16: 1}.get(round(at))
            curves.append((key, at, min(score, 0.999), rung))
        row = trial(number, "completed" if used == 20 else "pruned", min(score, 0.999))
        row |= {"trial_key": key, "space": variant, "variant": variant, "metric": "val_acc"}
        row |= {"mode": "max", "see": float(used), "knob.lr": lr, "knob.rho": rho}
        row |= {"sam_loss_gap": rho * draw.uniform(0.5, 1.0)}
        row |= {"aims": json.dumps(AIMS), "constraints": "{}", "pareto": False}
        row |= {"s_per_step": rho / 10, "feasible": lr < 0.5}
        row |= {"knobs_searched": '["lr", "rho"]', **changes}
        found.append(row)
    for variant in variants:
        own = [row for row in found if row["variant"] == variant and row["state"] == "completed"]
        able = [row for row in own if row["feasible"]]
        points = np.array([[row["val_acc"], -row["s_per_step"]] for row in able])
        for row, first in zip(able, front(points) if able else (), strict=True):
            row["pareto"] = bool(first)
        if own:
            best = max(own, key=lambda row: row["val_acc"])
            who = {"space": variant, "variant": variant, "metric": "val_acc", "mode": "max"}
            source = {"source_trial_key": best["trial_key"], "config_sha": best["config_sha"]}
            for bundle in range(5):
                score = round(best["val_acc"] - 0.01 + draw.gauss(0, 0.004), 3)
                repeats.append(repeat(bundle, score, **who, **source))
    return with_board(path, found, repeats, curves)


def with_board(
    path: Path,
    trials: list[dict[str, Any]],
    repeats: list[dict[str, Any]],
    curves: list[tuple[str, float, float, int | None]],
) -> dict[str, pd.DataFrame]:
    """Return the tables of a run, written as Parquet and read again where samtune would do so."""
    place = folder(path / "r", [], [])
    knobs = {name: [0.1] for name in trials[0] if name.startswith("knob.")} if trials else {}
    knobs = {name.removeprefix("knob."): values for name, values in knobs.items()}
    tables.write(place / "trials.parquet", tables.schema("trials", knobs=knobs), trials)
    tables.write(place / "repeats.parquet", tables.schema("repeats"), repeats)
    columns = ["trial_key", "used", "val_acc", "rung"]
    reports = pd.DataFrame(curves, columns=columns).assign(run="r", stage="search")
    reports = reports.assign(superseded=False, rung_cutoff=0.8, decision="continue")
    board, pairs = judged(leaderboard([place]), [place])
    read = {
        name: tables.read(place / f"{name}.parquet", name).to_pandas()
        for name in ("trials", "repeats")
    }
    shares = [
        {**{word: row[word] for word in ROW}, "knob": knob, "importance": share, "trials": 40}
        | {"at": "at 8 see"}
        for row in board.to_dict("records")
        for knob, share in (("lr", 0.7), ("rho", 0.3))
    ]
    importance = pd.DataFrame(shares, columns=[*ROW, "knob", "importance", "trials", "at"])
    boards = {"leaderboard": board, "pairs": pairs, "importance": importance}
    return {**read, "curves": reports, **boards}
