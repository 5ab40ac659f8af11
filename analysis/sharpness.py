"""The sharpness of confirmed models: means per row, and its relation to the test score.

Sharpness describes and never ranks. It follows the learning rate more than generalisation does
(Andriushchenko et al., 2023, arXiv 2302.07011), so a relation is shown within bins of the learning
rate only.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.descriptive import kendall_in_bins
from analysis.tables import on_test

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
