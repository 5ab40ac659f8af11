"""Optuna studies as spaces: distributions, starting points, and what is not there."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from samtune.search.imported_study import from_optuna
from samtune.space.errors import SpaceError
from samtune.space.search_space import Choice, Range, SearchSpace


def objective(trial: optuna.Trial) -> float:
    lr = trial.suggest_float("lr", 1e-4, 0.1, log=True)
    layers = trial.suggest_int("layers", 1, 4)
    width = trial.suggest_int("width", 32, 128, step=16)
    drop = trial.suggest_float("drop", 0.0, 0.5, step=0.25)
    act = trial.suggest_categorical("act", ["relu", "tanh"])
    trial.suggest_categorical("nothing", [None, "x"])
    trial.suggest_float("a.b", 0, 1)
    return lr + layers + width + drop + (act == "relu")


@pytest.mark.parametrize("kind", ["sqlite file", "url", "journal"])
def test_a_study_converts_to_a_space_that_loads(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "study"
    url = f"sqlite:///{path}"
    storage = JournalStorage(JournalFileBackend(str(path))) if kind == "journal" else url
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(study_name="s", storage=storage, sampler=sampler)
    study.optimize(objective, n_trials=6)
    found = from_optuna(url if kind == "url" else str(path))
    space = SearchSpace.from_text(found.text, "study", "study.yaml")
    lr, width, drop = (space.knobs[name] for name in ("lr", "width", "drop"))
    assert isinstance(lr, Range) and (lr.low, lr.high, lr.scale) == (1e-4, 0.1, "log")
    assert isinstance(width, Range) and (width.low, width.step, width.type) == (32, 16, "int")
    assert isinstance(drop, Range) and (drop.step, drop.type) == (0.25, "float")
    act = space.knobs["act"]
    assert isinstance(act, Choice) and act.values == ("relu", "tanh")
    assert (space.search.mode, space.budget.trials) == ("min", 6)
    left = "\n".join(found.left_out)
    assert "nothing: None is not a number" in left
    assert "a.b: 'a.b' is no name for a knob" in left
    # A trial sets knobs that the space lacks, so none is a starting point.
    assert space.search.first == ["default"]


def test_the_best_trials_are_where_the_search_starts(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(study_name="s", storage=url, direction="maximize")
    for lr in (0.1, 0.4, 0.2, 0.4, 0.3):
        study.enqueue_trial({"lr": lr})
    study.optimize(lambda trial: trial.suggest_float("lr", 0.0, 1.0), n_trials=5)
    space = from_optuna(url, "s").space
    assert space["search"]["first"] == [{"lr": 0.4}, {"lr": 0.3}, {"lr": 0.2}]
    assert space["search"]["mode"] == "max"


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    for name in ("one", "two"):
        optuna.create_study(study_name=name, storage=url)
    with pytest.raises(SpaceError, match=r"has 2 studies \('one', 'two'\); name one with --study"):
        from_optuna(url)
    with pytest.raises(SpaceError, match="no study 'oen'; did you mean 'one'"):
        from_optuna(url, "oen")
    with pytest.raises(SpaceError, match="no file nowhere"):
        from_optuna("nowhere")
    (tmp_path / "text").write_text("hello\n")
    with pytest.raises(SpaceError, match="text holds no Optuna study"):
        from_optuna(str(tmp_path / "text"))
    with pytest.raises(SpaceError, match="nosuch://x cannot be read as an Optuna storage"):
        from_optuna("nosuch://x")


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_several_objectives_are_several_metrics(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(study_name="s", storage=url, directions=["maximize", "minimize"])
    for lr in (0.1, 0.4):
        study.enqueue_trial({"lr": lr})
    study.optimize(lambda trial: (trial.suggest_float("lr", 0.0, 1.0), 1.0), n_trials=2)
    found = from_optuna(url)
    assert found.space["search"]["metrics"] == {"value": "max", "value_2": "min"}
    assert found.space["search"]["first"] == [{"lr": 0.4}, {"lr": 0.1}]
    assert not any("objective" in sentence for sentence in found.left_out)
    study.set_metric_names(["val_acc", "see"])
    space = SearchSpace.from_text(from_optuna(url).text, "study", "study.yaml")
    assert space.search.aims.metrics == {"val_acc": "max", "see": "min"}
    study.set_metric_names(["val_acc", "see per epoch"])
    assert [*from_optuna(url).space["search"]["metrics"]] == ["value", "value_2"]
