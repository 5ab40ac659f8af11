"""The chart and the table of a Pareto front."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from made_runs import AIMS, search

from analysis.charts.pareto import pareto, steps
from analysis.charts.sample import by_question
from analysis.pareto import aims_of, cells, front, headings, read_fronts
from analysis.row import _winner
from analysis.tables import may_win
from samtune.record import tables


def test_a_front_is_drawn_and_listed(tmp_path: Path) -> None:
    tables = search(tmp_path, ["sam", "asam"], 60, 5)
    [(_, part)] = by_question(tables)
    trials = part["trials"]
    assert aims_of(trials) == AIMS
    [panel] = pareto(trials)
    svg = panel.svg()
    full = trials[trials["full"]]
    on_front = int(full["pareto"].eq(True).sum())
    assert 2 < on_front < len(full)
    assert svg.count(" big") == on_front and svg.count("line step") == 2
    assert svg.count(" hollow") == full["feasible"].eq(False).sum() > 0
    assert panel.x_label.endswith("lower is better") and panel.y_label.endswith("higher is better")
    listed = front(trials)
    assert len(listed) == on_front
    for _, own in listed.groupby("space"):
        assert own["val_acc"].is_monotonic_decreasing and own["s_per_step"].is_monotonic_decreasing
    assert headings(trials)[2:4] == ["val_acc (max)", "s_per_step (min)"]
    best = listed.iloc[0]
    assert cells(trials)[0][:2] == [best["space"], str(best["trial"])]
    assert cells(trials)[0][2] == f"{100 * best['val_acc']:.2f}"
    # Three aims are three pairs, whose fronts are no lines.
    three = json.dumps({**AIMS, "see": "min"})
    panels = pareto(trials.assign(aims=three, see=trials["see"].astype(float)))
    assert [each.title.split(" against ") for each in panels] == [
        ["val_acc", "s_per_step"], ["val_acc", "see"], ["s_per_step", "see"]
    ]  # fmt: skip
    assert not any("line step" in each.svg() for each in panels)
    # A search with one aim, and a table of an older samtune, have no front.
    for other in (trials.assign(aims='{"val_acc": "max"}'), trials.drop(columns="aims")):
        assert pareto(other) == [] and len(front(other)) == 0


def test_the_fronts_of_tasks_searches_and_runs_are_told_apart(tmp_path: Path) -> None:
    found = search(tmp_path, ["sam"], 12, 5)["trials"]
    other = found.assign(search=1), found.assign(task='{"dataset": "digits", "noise": 0.2}')
    rows = pd.concat([found, *other]).replace({float("nan"): None}).to_dict("records")
    place = tmp_path / "r"
    knobs = {"lr": [0.1], "rho": [0.1]}
    tables.write(place / "trials.parquet", tables.schema("trials", knobs=knobs), rows)
    (first, _, both), (second, _, one) = read_fronts([place])
    assert first != second and second.startswith("digits") and "noise 0.2" in second
    assert {cell[1].partition(":")[0] for cell in both} == {"0", "1"}
    assert len(both) == 2 * len(one) and all(cell[1].isdecimal() for cell in one)
    assert [name.partition(", ")[0] for name, _, _ in read_fronts([place, place])] == ["r"] * 4


def test_a_front_is_joined_by_what_it_dominates() -> None:
    points = [(2.0, 3.0), (1.0, 1.0)]
    assert steps(points, falls=True) == [(1.0, 1.0), (2.0, 1.0), (2.0, 3.0)]
    assert steps([(2.0, 1.0), (1.0, 3.0)], falls=False) == [(1.0, 3.0), (1.0, 1.0), (2.0, 1.0)]


def test_a_trial_that_misses_a_constraint_wins_nothing() -> None:
    trials = pd.DataFrame(
        {"trial_key": ["a", "b"], "state": "completed", "val_acc": [0.9, 0.8]}
    ).assign(feasible=pd.Series([False, None], dtype=object))
    none = pd.DataFrame({"source_trial_key": [], "state": [], "val_acc": []})
    winner = _winner(trials, none, none, "val_acc", "max")
    assert winner is not None and winner["trial_key"] == "b"
    assert may_win(trials.drop(columns="feasible")).all()
