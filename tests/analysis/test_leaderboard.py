"""Hand-made tables in, a known leaderboard out."""

from __future__ import annotations

import datetime
import json
import math
from pathlib import Path
from typing import Any

import pytest

from analysis.board import cells, efforts, headings, questions, records, winners
from analysis.leaderboard import leaderboard, save
from analysis.row import interval
from samtune.cli import main
from samtune.record import tables

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
TASK = {"dataset": "digits", "model": "small_cnn", "label_noise": 0.4, "augment": "none"}


def task_columns(**changes: Any) -> dict[str, Any]:
    task = TASK | changes
    return {name: task[name] for name in TASK} | {"task": json.dumps(task, sort_keys=True)}


def trial(number: int, state: str, val_acc: float | None, **changes: Any) -> dict[str, Any]:
    lr = 0.1 * (number + 1)
    row = {
        **{
            "run": "r",
            "study": 0,
            "space": "sam",
            "search": 0,
            "trial": number,
            "trial_key": f"k{number}",
        },
        **{"variant": "sam", "base_optimizer": "sgd", "stage": "search", "search_alg": "tpe"},
        **task_columns(),
        **{
            "scheduler": "asha 2 x 3",
            "knobs_searched": '["lr"]',
            "config_sha": f"c{number}",
            "origin": "sampled",
        },
        "config_json": json.dumps({"base": "sgd", "knobs": {"lr": lr, "momentum": 0.9}}),
        **{"seed_init": 1, "seed_order": 1, "seed_split": 1},
        **{"budget_kind": "compute", "budget_max": 20.0, "state": state, "val_acc": val_acc},
        **{"epochs_done": 1, "steps_done": 16, "see": 10.0, "fwd_samples": 1, "bwd_samples": 1},
        **{"train_s": 1.0, "eval_s": 0.0, "data_s": 0.0, "wall_s": 1.0, "attempts": 1},
        **{"epochs_repeated": 0, "started_at": NOW, "samtune_version": "0"},
        "ended_at": NOW + datetime.timedelta(seconds=10 * (number + 1)),
        **{"knob.lr": lr, "knob.momentum": 0.9},
    }
    return row | changes


def repeat(bundle: int, test_acc: float | None, **changes: Any) -> dict[str, Any]:
    row = {
        **{
            "run": "r",
            "study": 0,
            "space": "sam",
            "search": 0,
            "variant": "sam",
            "base_optimizer": "sgd",
        },
        **task_columns(),
        **{"budget_kind": "compute", "budget_max": 20.0, "source_trial_key": "k1"},
        **{"config_sha": "c1", "rank_in_search": 0, "seed_bundle": bundle, "test_openings": 1},
        **{"val_acc": 0.9, "test_acc": test_acc, "test_nll": 0.5, "test_ece": 0.1, "n_test": 500},
        **{"see": 20.0, "train_s": 2.0, "state": "completed"},
    }
    return row | changes


def folder(
    path: Path,
    trials: list[dict[str, Any]],
    repeats: list[dict[str, Any]],
    metrics: tuple[str, ...] = (),
) -> Path:
    path.mkdir()
    knobs = {"lr": [0.1], "momentum": [0.9]}
    metadata = {
        **{"samtune.run": path.name, "samtune.version": "1.2", "samtune.space_sha256": "ab"},
        "samtune.search_wall_s": '{"sam": 40.0}',
    }
    typed = tables.schema("trials", floats=metrics, knobs=knobs)
    tables.write(path / "trials.parquet", typed, trials, metadata)
    typed = tables.schema("repeats", floats=metrics)
    tables.write(path / "repeats.parquet", typed, repeats, metadata)
    return path


def test_one_row_a_space_from_its_repeats_alone(tmp_path: Path) -> None:
    trials = [
        trial(0, "completed", 0.90, origin="default"),
        trial(1, "completed", 0.95),
        trial(2, "pruned", 0.99),
        trial(3, "diverged", None),
    ]
    repeats = [repeat(b, a) for b, a in enumerate([0.91, 0.93, 0.92])]
    repeats += [repeat(9, 0.1, rank_in_search=1, source_trial_key="k0")]
    row = records(leaderboard([folder(tmp_path / "r", trials, repeats)]))[0]
    assert row["test_acc_mean"] == pytest.approx(0.92)
    # t(0.975, 2) = 4.302653 by any table; s = 0.01
    half = 4.302652729911275 * 0.01 / math.sqrt(3)
    assert row["test_acc_lo"] == pytest.approx(0.92 - half)
    assert row["test_acc_hi"] == pytest.approx(0.92 + half)
    assert row["optimism"] == pytest.approx(0.95 - 0.90)
    assert (row["repeats"], row["repeats_diverged"], row["test_openings"]) == (3, 0, 4)
    assert row["rank"] == 1
    assert (row["trials"], row["trials_completed"], row["trials_pruned"]) == (4, 2, 1)
    assert row["best_val_acc"] == 0.95 and row["tuning_gain"] == pytest.approx(0.05)
    assert row["search_see"] == 40 and row["see_per_run"] == 20 and row["search_wall_s"] == 40
    assert json.loads(row["config_json"])["knobs"]["lr"] == pytest.approx(0.2)
    assert row["n_knobs"] == 1 and json.loads(row["knobs_searched"]) == ["lr"]
    assert row["test_binom_se"] == pytest.approx(math.sqrt(0.92 * 0.08 / 500))


def test_rows_are_ranked_by_test_and_the_unconfirmed_come_last(tmp_path: Path) -> None:
    other = {"run": "q", "space": "sgd", "variant": "sgd"}
    good = folder(tmp_path / "r", [trial(1, "completed", 0.8)], [repeat(0, 0.7), repeat(1, 0.72)])
    none = folder(tmp_path / "q", [trial(1, "completed", 0.99, **other)], [])
    board = leaderboard([none, good])
    assert list(board["variant"]) == ["sam", "sgd"] and board["rank"].isna().tolist() == [0, 1]
    rows = cells(board)
    assert rows[1][2] == "not confirmed" and rows[0][1:3] == ["r/sam", "71.00"]
    assert headings(board)[2:4] == ["test acc %", "95 % interval"]
    path = tmp_path / "leaderboard.parquet"
    save(board, path, [none, good])
    found = tables.metadata(path)
    assert found["samtune.run"] == "q,r" and found["samtune.version"] == "1.2"
    assert found["samtune.space_sha256"] == "ab"
    again = tables.read(path, "leaderboard").to_pylist()
    assert [row["test_acc_mean"] for row in again] == [pytest.approx(0.71), None]
    assert len(cells(board)[0]) == len(cells(board)[1])


def test_ranks_count_within_equal_task_and_budget_and_not_over_survivors(tmp_path: Path) -> None:
    def one(name: str, accuracies: list[float | None], **changes: Any) -> Path:
        own = {"run": name, **changes}
        states = ["completed" if a is not None else "diverged" for a in accuracies]
        repeats = [
            repeat(k, a, state=s, **own)
            for k, (a, s) in enumerate(zip(accuracies, states, strict=True))
        ]
        return folder(tmp_path / name, [trial(1, "completed", 0.9, **own)], repeats)

    folders = [
        one("a", [0.7, 0.7]),
        one("b", [0.8, 0.8]),
        one("c", [0.9, None]),
        one("d", [0.95, 0.95], **task_columns(label_noise=0.0)),
        one("e", [0.5, 0.6], **task_columns(train_size=0.5)),
    ]
    board = leaderboard([*folders, folders[0]])
    ranks = {row["run"]: row["rank"] for row in records(board)}
    assert ranks == {"a": 2, "b": 1, "c": None, "d": 1, "e": 1}
    apart = {name: len(rows) for name, rows in questions(board)}
    assert sorted(apart.values()) == [1, 1, 3]
    assert any("label noise 0," in name for name in apart)
    assert any("train_size 0.5," in name for name in apart)


def test_the_winner_is_what_was_repeated_whatever_metric_chose_it(tmp_path: Path) -> None:
    trials = [trial(0, "completed", 0.99), trial(1, "completed", 0.80)]
    board = leaderboard([folder(tmp_path / "r", trials, [repeat(0, 0.7), repeat(1, 0.7)])])
    assert board["config_sha"].tolist() == ["c1"] and board["best_val_acc"].tolist() == [0.80]


@pytest.mark.parametrize(("metric", "mode", "won"), [("val_loss", "min", 0.3), ("f1", "max", 0.5)])
def test_an_unconfirmed_run_is_ranked_by_its_own_metric(
    tmp_path: Path, metric: str, mode: str, won: float
) -> None:
    trials = [
        trial(number, "completed", 0.9 - number / 10, **{metric: value}, metric=metric, mode=mode)
        for number, value in enumerate([0.5, 0.3])
    ]
    board = leaderboard([folder(tmp_path / "r", trials, [], (metric,))])
    (row,) = records(board)
    assert row[f"best_{metric}"] == won and row["rank"] is None
    assert winners(board) == [f"lr={0.2 if metric == 'val_loss' else 0.1}"]


@pytest.mark.parametrize(("mode", "order"), [("min", ["a", "b"]), ("max", ["b", "a"])])
def test_any_metric_is_compared_on_test(tmp_path: Path, mode: str, order: list[str]) -> None:
    def one(name: str, values: list[float]) -> Path:
        own = {"run": name, "space": name, "metric": "rmse", "mode": mode}
        repeats = [
            repeat(k, None, test_rmse=value, rmse=value - 1, **own)
            for k, value in enumerate(values)
        ]
        trials = [trial(1, "completed", None, rmse=values[0] - 2, **own)]
        return folder(tmp_path / name, trials, repeats, ("rmse", "test_rmse"))

    board = leaderboard([one("a", [3.0, 5.0]), one("b", [6.0, 6.0])])
    assert list(board["run"]) == order and list(board["rank"]) == [1, 2]
    row = board.set_index("run").loc["a"]
    assert (row["test_rmse_mean"], row["rmse_mean"], row["best_rmse"]) == (4.0, 3.0, 1.0)
    # How much better the search said it was than fresh seeds show.
    assert row["optimism"] == (2.0 if mode == "min" else -2.0)
    ((question, rows),) = questions(board)
    better = "lower" if mode == "min" else "higher"
    assert question.endswith(f"20 see per trial, by rmse, {better} is better")
    named = headings(rows)
    assert named[2] == "test rmse" and named[7] == "rmse" and named[5] == "optimism"
    shown = {row[1]: row for row in cells(rows)}
    assert shown["a/a"][2] == "4" and shown["b/b"][2:4] == ["6", "6 to 6"]


def test_a_heading_names_only_what_is_known(tmp_path: Path) -> None:
    own = {"dataset": "", "model": "", "label_noise": None, "augment": "none", "task": "{}"}
    own |= {"budget_kind": "epochs", "budget_max": 3.0}
    board = leaderboard([folder(tmp_path / "r", [trial(0, "completed", 0.5, **own)], [])])
    assert [question for question, _ in questions(board)] == ["3 epochs per trial"]


def test_unequal_search_efforts_are_said_in_a_sentence(tmp_path: Path) -> None:
    sgd = [trial(0, "completed", 0.5, space="sgd")]
    sam = [trial(number, "completed", 0.5) for number in range(2)]
    assert efforts(leaderboard([folder(tmp_path / "equal", sgd + sam[:1], [])])) == ""
    said = efforts(leaderboard([folder(tmp_path / "grown", sgd + sam, [])]))
    assert said.startswith("The search efforts are not equal; trials: ")
    assert "sgd 1" in said and "sam 2" in said


def test_many_knobs_take_one_line(tmp_path: Path) -> None:
    knobs = {f"knob_number_{k}": k / 7 for k in range(300)}
    own = {"config_json": json.dumps({"knobs": knobs}), "knobs_searched": json.dumps([*knobs])}
    board = leaderboard([folder(tmp_path / "r", [trial(0, "completed", 0.5, **own)], [])])
    (won,) = winners(board)
    assert len(won) < 240 and won.startswith("knob_number_0=0 ") and "more)" in won


def test_the_end_of_an_interval_is_shown_as_it_is(tmp_path: Path) -> None:
    run = folder(tmp_path / "r", [trial(1, "completed", 0.9)], [repeat(0, 0.9), repeat(1, 1.0)])
    board = leaderboard([run])
    assert board["test_acc_hi"][0] > 1 and cells(board)[0][3] == "31.47 to 158.53"


@pytest.mark.parametrize(
    ("method", "stopped", "share"),
    [("random", False, 0.5), ("random", True, None), ("tpe", False, None)],
)
def test_how_many_draws_come_near_the_best(
    tmp_path: Path, method: str, stopped: bool, share: float | None
) -> None:
    ends = [("completed", 0.9), ("completed", 0.895), ("completed", 0.88), ("diverged", None)]
    trials = [trial(k, *end, search_alg=method) for k, end in enumerate(ends)]
    trials += [trial(4, "completed", 0.99, search_alg=method, origin="default")]
    trials += [trial(5, "error", None, search_alg=method)]
    if stopped:
        trials += [trial(6, "pruned", 0.9, search_alg=method)]
    row = records(leaderboard([folder(tmp_path / "r", trials, [])]))[0]
    assert row["within_1pp_share"] == share
    assert row["diverged_share"] == pytest.approx(1 / (6 if stopped else 5))
    # Wilson's interval of 1 in 5 by any table.
    assert stopped or row["diverged_lo"] == pytest.approx(0.0362, abs=1e-4)
    # Of the four draws the diverged one counts as zero; there are no sixteen of them.
    four = sum(v * ((k + 1) ** 4 - k**4) for k, v in enumerate([0.0, 0.88, 0.895, 0.9])) / 4**4
    expected = (0.66875, four) if share else (None, None)
    found = row["expected_best_1"], row["expected_best_4"]
    assert found == tuple(each and pytest.approx(each) for each in expected)
    assert row["expected_best_16"] is None


def test_draws_that_all_diverged_are_not_near_the_best(tmp_path: Path) -> None:
    trials = [trial(k, "diverged", None, search_alg="random") for k in range(3)]
    row = records(leaderboard([folder(tmp_path / "r", trials, [])]))[0]
    assert (row["diverged_share"], row["within_1pp_share"]) == (1, None)


def test_a_row_without_a_winner_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, state, why in (
        ("missed", "completed", "no trial that was completed keeps the constraints"),
        ("failed", "error", "no trial was completed"),
    ):
        trials = [trial(0, state, 0.9, space="sam", feasible=False)]
        with pytest.raises(SystemExit):
            main(["leaderboard", str(folder(tmp_path / name, trials, []))])
        assert capsys.readouterr().out.splitlines()[-1] == f"sam: {why}"


def test_the_plateau_of_the_radius_is_that_of_the_draws(tmp_path: Path) -> None:
    radii = [0.01, 0.1, 1.0, 10.0]
    knobs = {"search_alg": "sobol", "knobs_searched": '["rho"]'}
    rows = [
        trial(k, "completed", value, **knobs, **{"knob.rho": rho})
        for k, (rho, value) in enumerate(zip(radii, [0.90, 0.905, 0.5, 0.3], strict=True))
    ]
    place = folder(tmp_path / "r", rows, [])
    tables.write(place / "trials.parquet", tables.schema("trials", knobs={"rho": radii}), rows)
    (row,) = records(leaderboard([place]))
    assert row["rho_star"] == 0.1 and row["rho_lo"] <= 0.1 <= row["rho_hi"] < 1
    decades = math.log10(row["rho_hi"] / row["rho_lo"])
    assert row["rho_plateau_decades"] == pytest.approx(decades)


def test_an_audit_says_how_often_the_rungs_were_wrong(tmp_path: Path) -> None:
    values = [(0.5, 0.8), (0.6, 0.9), (0.4, 0.95), (0.3, 0.7), (0.2, None)]
    rows = [
        trial(
            *(k, "diverged" if final is None else "completed", final),
            audited=k >= 2,
            first_rung_value=early,
        )
        for k, (early, final) in enumerate(values)
    ]
    (row,) = records(leaderboard([folder(tmp_path / "a", rows, [])]))
    # One of three, by Clopper and Pearson's table.
    assert row["wrong_stop_share"] == pytest.approx(1 / 3)
    assert (row["wrong_stop_lo"], row["wrong_stop_hi"]) == pytest.approx(
        (0.0084, 0.9057), abs=1e-4
    )
    assert row["rung_spearman"] == pytest.approx(0.4)
    # A second search is judged by its own best; lower is better in a loss.
    less = {"metric": "val_loss", "mode": "min", "search": 1}
    other = [trial(9, "completed", 0.1, val_loss=0.4, audited=True, **less)]
    other += [trial(8, "completed", 0.1, val_loss=0.5, **less)]
    rows = [row | {"val_loss": 0.1, "metric": "val_loss", "mode": "min"} for row in rows[:2]]
    (row,) = records(leaderboard([folder(tmp_path / "b", rows + other, [])]))
    assert row["wrong_stop_share"] == 1.0 and row["rung_spearman"] is None
    (row,) = records(leaderboard([folder(tmp_path / "c", rows, [])]))
    assert row["wrong_stop_share"] is None


def test_a_space_where_nothing_was_completed_still_has_a_row(tmp_path: Path) -> None:
    board = leaderboard([folder(tmp_path / "r", [trial(0, "error", None)], [])])
    row = records(board)[0]
    assert row["trials_error"] == 1 and row["best_val_acc"] is None and row["optimism"] is None


def test_an_interval_needs_two_values() -> None:
    assert interval([]) == interval([[0.5]]) == (None, None)
    assert interval([[0.5, 0.5]]) == (0.5, 0.5)
