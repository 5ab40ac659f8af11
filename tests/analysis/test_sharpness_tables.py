"""Sharpness over the tables of a run: means, and its relation to the test score."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from test_leaderboard import folder, repeat, task_columns, trial

from analysis.sharpness import MEASURES, against_score, means, sentence, taus


def repeats(**columns: object) -> pd.DataFrame:
    settings = {"sharp_samples": 1024, "sharp_m": 128, "sharp_rho": 0.1, "sharp_bn_mode": "eval"}
    return pd.DataFrame({**settings, **columns})


def test_means_are_of_the_measured_repeats() -> None:
    table = repeats(sharp_lambda_max=[1.0, 3.0, None], sharp_trace=[2.0, 2.0, None])
    table.loc[2, ["sharp_m"]] = None
    found = means(table)
    assert found["sharp_lambda_max_mean"] == 2.0
    assert found["sharp_worst_rho_mean"] is None
    assert (found["sharp_m"], found["sharp_bn_mode"]) == (128, "eval")


def test_unequal_settings_have_no_mean() -> None:
    found = means(repeats(sharp_lambda_max=[1.0, 3.0], sharp_rho=[0.1, 0.2]))
    assert set(found.values()) == {None}
    assert set(means(pd.DataFrame({"state": []})).values()) == {None}


@pytest.mark.parametrize(("mode", "sign"), [("max", 1), ("min", -1)])
def test_tau_is_within_bins_of_the_learning_rate_and_over_configurations(
    mode: str, sign: int
) -> None:
    """Over all rates it would be negative; within each of the two bins it is 1."""
    lr = [0.01] * 4 + [0.1] * 4
    sharp = [11.0, 12.0, 13.0, 14.0, 1.0, 2.0, 3.0, 4.0]
    score = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    trials = pd.DataFrame({"trial_key": [f"t{k}" for k in range(8)], "knob.lr": lr})
    done = pd.DataFrame(
        {
            "source_trial_key": [f"t{k}" for k in range(8) for _ in range(2)],
            "state": "completed",
            "metric": "val_acc",
            "mode": mode,
            # The repeats of a configuration differ, and only their mean counts.
            "test_acc": [s + e for s in score for e in (-0.3, 0.3)],
            **{name: [s for s in sharp for _ in range(2)] for name in MEASURES},
        }
    )
    found = against_score(trials, done)
    assert [(row["lr_lo"], row["lr_hi"], row["n"]) for row in found[:2]] == [
        (0.01, 0.01, 4),
        (0.1, 0.1, 4),
    ]
    assert [row["tau"] for row in found] == [pytest.approx(sign)] * 8
    assert against_score(trials, done[:6]) == [], "three configurations are too few"
    assert against_score(trials.drop(columns="knob.lr"), done) == []


def test_a_task_has_its_own_relation_and_sentence(tmp_path: Path) -> None:
    """The relation differs in sign between the tasks; over both together it would vanish."""
    searched, repeated = [], []
    for task, sign in ((task_columns(), 1), (task_columns(label_noise=0.0), -1)):
        for k in range(4):
            key = f"{sign}{k}"
            searched.append(trial(k, "completed", 0.9, trial_key=key, **task))
            sharp = dict.fromkeys(MEASURES, sign * k + 10.0)
            row = repeat(0, 0.5 + k / 10, source_trial_key=key, **task)
            repeated.append(row | sharp | {"metric": "val_acc", "mode": "max"})
    place = folder(tmp_path / "r", searched, repeated)
    found = taus([place])
    assert [own["tau"].tolist() for _, own in found.groupby("task")] == [[-1.0] * 4, [1.0] * 4]
    assert sentence(found[found["tau"] > 0]) == (
        "Sharpness ranks nothing; Kendall's tau with the test score: lambda_max +1.00; "
        "trace +1.00; worst_rho +1.00; worst_adaptive +1.00."
    )
    assert sentence(found[:0]) == "" and taus([]).empty
