"""The words metrics and constraints of a search: what they mean, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from samtune.space.search_space import SearchSpace, SpaceError


def space(search: dict[str, Any], **sections: Any) -> SearchSpace:
    return SearchSpace.from_document({"extends": "sam", "search": search, **sections}, "lab")


def test_the_first_of_several_metrics_is_the_one_that_is_judged() -> None:
    made = space(
        {
            "metrics": {"val_loss": "min", "see": "min"},
            "constraints": {"s_per_step": 0.2, "val_acc": {"min": 0.9}},
        },
        budget={"kind": "epochs"},
    )
    assert (made.search.metric, made.search.mode) == ("val_loss", "min")
    assert made.warnings == []
    aims = made.search.aims
    assert aims.several and aims.reported == ("see", "train_s", "step", "val_acc")
    last = {"val_loss": 0.3, "see": 5.0, "train_s": 8.0, "step": 40.0, "val_acc": 0.95}
    assert aims.values(last) == [0.3, 5.0]
    assert aims.excess(last) == pytest.approx({"s_per_step": 0.0, "val_acc": -0.05})
    assert aims.keeps(last)
    assert not aims.keeps({**last, "train_s": 8.1}) and not aims.keeps({**last, "val_acc": 0.8})
    assert not aims.keeps({**last, "step": 0.0}) and not aims.keeps({})
    # A frozen space has one of the two forms, and both mean what was written.
    for again in (
        SearchSpace.from_text(made.text, "lab", "lab"),
        SearchSpace.from_text(made.text, "lab", "lab", frozen=False),
    ):
        assert again.text == made.text and again.search == made.search
    one = space({"metric": "val_loss", "mode": "min"}).search.aims
    assert one.metrics == {"val_loss": "min"} and one.reported == () and one.keeps({})


@pytest.mark.parametrize(
    ("search", "messages"),
    [
        ({"metrics": {"val_ac": "max", "sees": "min"}},
         ["metrics.val_ac: 'val_ac' is not reported; did you mean 'val_acc'?",
          "metrics.sees: 'sees' is not reported; did you mean 'see'?"]),
        ({"metrics": {"val_acc": "min", "see": "max"}},
         ["metrics.val_acc: val_acc is the better the higher it is; write `val_acc: max`",
          "metrics.see: see is the better the lower it is; write `see: min`"]),
        ({"metric": "see", "mode": "min"},
         ["metric: see is a cost, and comes after a score; "
          "write `metrics: {val_acc: max, see: min}`"]),
        ({"metrics": {"val_acc_averaged": "max"}},
         ["metrics.val_acc_averaged: 'val_acc_averaged' is not reported; "
          "it takes `task: {average: ema}`, or swa"]),
        ({"metrics": {"val_acc": "max"}, "metric": "val_loss", "mode": "min"},
         ["metric: it is the first of search.metrics; remove one of the two",
          "mode: it is the first of search.metrics; remove one of the two"]),
        ({"metrics": {"val_acc": "maxi"}},
         ["metrics.val_acc: 'maxi' is none of max, min; did you mean 'max'?"]),
        ({"metrics": {}, "constraints": {}},
         ["metrics: the map is empty; remove it", "constraints: the map is empty; remove it"]),
        ({"metrics": {"test_acc": "max"}, "constraints": {"test_loss": 1}},
         ["metrics.test_acc: test_acc would choose on the test split; name a val_ metric",
          "constraints.test_loss: test_loss would choose on the test split; name a val_ metric"]),
        ({"constraints": {"peak_gpu_mb": {"min": 1234567}}},
         ["constraints.peak_gpu_mb: peak_gpu_mb is the better the lower it is; "
          "write `peak_gpu_mb: 1234567`"]),
        ({"constraints": {"val_acc": 0.9, "see": {"min": 1}, "s_per_stp": 3}},
         ["constraints.val_acc: val_acc is the better the higher it is; "
          "write `val_acc: {min: 0.9}`",
          "constraints.see: see is the better the lower it is; write `see: 1`",
          "constraints.s_per_stp: 's_per_stp' is not reported; did you mean 's_per_step'?"]),
        ({"constraints": {"see": {"max": 3}}},
         ["constraints.see: a limit is a number, the most that is allowed, or {min: number}"]),
        ({"constraints": {"see": "3"}},
         ["constraints.see: '3' is text, not a number; write 3 without quotes"]),
        ({"metrics": {"val_acc": "max", "val_loss": "min"}, "method": "cmaes", "enough": "noise"},
         ["method: cmaes learns from one metric without constraints; write tpe, gp or nsga2",
          "enough: it needs one metric, and no constraints"]),
        ({"constraints": {"see": 1}, "method": "cmaes"},
         ["method: cmaes learns from one metric without constraints; write tpe, gp or nsga2"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(search: dict[str, Any], messages: list[str]) -> None:
    with pytest.raises(SpaceError) as caught:
        space(search)
    places = [message.split(": ", 1) for message in caught.value.messages]
    assert sorted(text for _, text in places) == sorted(f"search.{text}" for text in messages)
    assert all(place.startswith("lab:") and place.count(":") == 2 for place, _ in places)


def test_an_aim_that_is_equal_for_all_trials_is_a_warning_and_a_misplaced_word_is_told() -> None:
    made = space({"metrics": {"val_acc": "max", "see": "min"}, "constraints": {"peak_gpu_mb": 9}})
    assert [text.split(": ", 1)[1] for text in made.warnings] == [
        "search.metrics.see: a budget of kind compute gives each full trial the same; "
        "with `budget: {kind: epochs}` they differ",
        "search.constraints.peak_gpu_mb: it is 0 where resources.gpus is 0",
    ]
    with pytest.raises(SpaceError, match="'constraints' is a word of `search:`; move it there"):
        space({}, constraints={"see": 1})
    with pytest.raises(SpaceError, match="'row' is not a known word here"):
        space({}, row="sam")


def test_the_metrics_of_a_file_replace_those_that_it_extends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    two = "{metrics: {val_acc: max, val_loss: min}, constraints: {s_per_step: 1}}"
    Path("two.yaml").write_text(f"samtune: 1\nextends: sam\nsearch: {two}\n")
    Path("one.yaml").write_text("samtune: 1\nextends: sam\nsearch: {metric: val_acc}\n")
    for below, search, metrics in (
        ("two", "{metrics: {val_loss: min, val_acc: max}}", ["val_loss", "val_acc"]),
        ("two", "{metric: val_loss, mode: min}", ["val_loss"]),
        ("one", "{metrics: {val_loss: min, val_acc: max}}", ["val_loss", "val_acc"]),
        ("one", "{mode: max}", ["val_acc"]),
        ("two", "{constraints: {see: 20}}", ["val_acc", "val_loss"]),
    ):
        Path("mine.yaml").write_text(f"samtune: 1\nextends: {below}.yaml\nsearch: {search}\n")
        aims = SearchSpace.load("mine.yaml").search.aims
        assert [*aims.metrics] == metrics
    assert aims.limits == {"s_per_step": 1, "see": 20}


def test_one_metric_or_limit_is_set_by_its_own_path() -> None:
    words = ["search.constraints.s_per_step=0.5", "search.metrics.val_loss=min"]
    search = SearchSpace.load("sam", words).search
    assert search.constraints == {"s_per_step": 0.5} and search.metrics == {"val_loss": "min"}
    with pytest.raises(SpaceError, match=r"'search.metrics.a.b' is nothing that can be set"):
        SearchSpace.load("sam", ["search.metrics.a.b=min"])
