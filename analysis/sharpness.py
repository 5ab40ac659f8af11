"""The sharpness of confirmed models: means per row, and its relation to the test score.

Sharpness describes and never ranks. It follows the learning rate more than generalisation does
(Andriushchenko et al., 2023, arXiv 2302.07011), so a relation is shown within bins of the learning
rate only.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.descriptive import kendall_in_bins
from analysis.tables import QUESTION, on_test, read

MEASURES = ("sharp_lambda_max", "sharp_trace", "sharp_worst_rho", "sharp_worst_adaptive")
SETTINGS = ("sharp_samples", "sharp_m", "sharp_rho", "sharp_bn_mode")

# Configurations in a bin of the learning rate: tau of three has four values.
_LEAST_IN_A_BIN = 4


def means(repeats: pd.DataFrame) -> dict[str, Any]:
    """Return the mean of each measure over repeats as `MEASURE_mean`, and the settings.

    All are None unless the measured repeats have equal settings.

    Args:
        repeats: completed repeats of one configuration.
    """
    found = repeats.reindex(columns=[*MEASURES, *SETTINGS]).dropna(subset=[*SETTINGS])
    settings = found[[*SETTINGS]].drop_duplicates()
    if len(settings) != 1:
        return dict.fromkeys([*(f"{name}_mean" for name in MEASURES), *SETTINGS])
    figures = found[[*MEASURES]].astype(float).mean()
    return {
        **{f"{name}_mean": None if pd.isna(mean) else mean for name, mean in figures.items()},
        **{name: settings[name].iloc[0] for name in SETTINGS},
    }


def taus(folders: Iterable[Path]) -> pd.DataFrame:
    """Return the relation of sharpness and test score for each question of several runs.

    Args:
        folders: Folders that hold the tables of a run each.

    Returns:
        The columns `QUESTION` and those of `against_score`; empty where nothing was measured.

    """
    found = []
    read_ = [(folder, read(folder, "repeats")) for folder in dict.fromkeys(folders)]
    measured = [(folder, own) for folder, own in read_ if "sharp_lambda_max" in own]
    measured = [(f, own) for f, own in measured if own["sharp_lambda_max"].notna().any()]
    if measured:
        trials = pd.concat([read(folder, "trials") for folder, _ in measured])
        repeats = pd.concat([own for _, own in measured])
        for question, own in repeats.groupby(QUESTION, dropna=False):
            asked = dict(zip(QUESTION, question, strict=True))
            found += [asked | row for row in against_score(trials, own)]
    return pd.DataFrame(found, columns=[*QUESTION, "measure", "lr_lo", "lr_hi", "n", "tau"])


def sentence(found: pd.DataFrame) -> str:
    """Return the relation for one question in words; empty where nothing is known.

    Args:
        found: Rows of `taus`, of one question.

    """
    parts = []
    for name, own in found.dropna(subset=["tau"]).groupby("measure", sort=False):
        each = ", ".join(f"{tau:+.2f}" for tau in own["tau"])
        parts.append(f"{str(name).removeprefix('sharp_')} {each}")
    if not parts:
        return ""
    bins = found["lr_lo"].nunique()
    where = "" if bins == 1 else f" in {bins} bins of the learning rate, the lowest first"
    return (
        f"Sharpness ranks nothing; Kendall's tau with the test score{where}: {'; '.join(parts)}."
    )


def against_score(trials: pd.DataFrame, repeats: pd.DataFrame) -> list[dict[str, Any]]:
    """Return Kendall's tau of each measure with the test score, within bins of the learning rate.

    A point is a confirmed configuration: the means over its repeats. tau is above 0 where sharper
    models are better, whichever way the metric counts.

    Args:
        trials: rows of `trials.parquet`, of one task.
        repeats: rows of `repeats.parquet`, of the same runs.

    Returns:
        Per measure and bin: `measure`, `lr_lo`, `lr_hi`, `n` configurations and `tau`. None of
        them where fewer than four measured configurations have a learning rate.
    """
    points = _points(trials, repeats)
    bins = min(4, len(points) // _LEAST_IN_A_BIN)
    if not bins:
        return []
    return [
        {"measure": name, "lr_lo": lo, "lr_hi": hi, "n": n, "tau": tau}
        for name in MEASURES
        for lo, hi, n, tau in kendall_in_bins(
            points[name].to_list(), points["score"].to_list(), points["lr"].to_list(), bins
        )
    ]


def _points(trials: pd.DataFrame, repeats: pd.DataFrame) -> pd.DataFrame:
    """Return sharpness, score and learning rate of each configuration that has all of them."""
    done = repeats[repeats["state"] == "completed"].reindex(
        columns=["source_trial_key", "metric", "mode", *repeats.filter(like="test_"), *MEASURES]
    )
    if done.empty or "knob.lr" not in trials:
        return pd.DataFrame(columns=["score", "lr", *MEASURES])
    first = done.iloc[0]
    score = done.get(
        on_test(str(first["metric"])), pd.Series(index=done.index, dtype=float)
    ).astype(float)
    done = done.assign(score=score if first["mode"] == "max" else -score)
    found = done.groupby("source_trial_key")[["score", *MEASURES]].mean()
    lr = trials.set_index("trial_key")["knob.lr"].astype(float)
    return found.join(lr.rename("lr")).dropna()
