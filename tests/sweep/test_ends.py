"""A search ends before its last trial: by its budget, a target, the noise or the time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import samtune
from analysis.sources import ends
from samtune.api.launch import seconds_of
from samtune.record.record import Record
from samtune.record.rows import TrialRow
from samtune.space.search_space import SearchSpace, SpaceError
from samtune.sweep.search_stage import SearchStage
from samtune.sweep.stages import has_work
from samtune.trial import TrialConfig
from samtune.views.plan import plan
from samtune.views.study import status_lines

PLAIN = """
samtune: 1
trainable: labtrainables.mod:plain
budget: {kind: epochs, per_trial: 10, trials: 40}
asha: {grace: 2}
knobs: {x: {min: 0.0, max: 1.0}}
"""

pytestmark = pytest.mark.usefixtures("toy_trainable", "in_folder")


def space(name: str = "lab", *overrides: str) -> SearchSpace:
    Path(f"{name}.yaml").write_text(PLAIN)
    return SearchSpace.load(f"{name}.yaml", ["search.seed=3", "search.sobol=4", *overrides])


def record_of(runs: Path, spaces: list[SearchSpace]) -> Record:
    words = {"variant": "plain", "base": "none"}
    settings = (
        '{"search_alg": "tpe", "scheduler": "", "mode": "max", "trials": 40, "searched": []}'
    )
    rows = [
        {**words, "name": s.name, "space": s.text, "sha256": s.sha256, "settings": settings}
        for s in spaces
    ]
    return Record.create(runs, "run", rows)


class Searched:
    """A search without a Ray: its trials start, report and end as a test says."""

    def __init__(self, record: Record, spaces: list[SearchSpace]) -> None:
        self.record = record
        self.stage = SearchStage(record, spaces)

    def start(self) -> TrialRow | None:
        trial = self.stage.next()
        if trial is not None:
            self.record.start_attempt(trial)
        return trial

    def end(self, trial: TrialRow, value: float, used: float = 10, n_val: int = 100) -> None:
        report = {"epoch": int(used), "used": used, "metrics": {"val_acc": value}}
        report |= {"facts": {"n_val": n_val}, "checkpoint": None, "checkpoint_sha256": None}
        state = "completed" if used == 10 else "pruned"
        self.record.add_report(trial.trial, 0, report, "val_acc")
        self.stage.progress.used[trial.trial] = used
        self.record.end_trial(trial.trial, state, "", 1.0, state)
        self.stage.ended(trial, state, {int(used): value})

    def run(self, value: float = 0.5, used: float = 10) -> int:
        """Run all that is left, one trial at a time, and return how many that was."""
        count = 0
        while (trial := self.start()) is not None:
            self.end(trial, value + 1e-6 * count, used)
            count += 1
        return count


def reasons(record: Record) -> list[str]:
    return [e["detail"] for e in record.events() if e["kind"] == "search ended early"]


def test_a_total_is_never_exceeded_and_is_the_same_for_each_space(runs: Path) -> None:
    spaces = [space("one", "budget.total=65"), space("two", "budget.total=65")]
    with record_of(runs, spaces) as record:
        search = Searched(record, spaces)
        held = [search.start() for _ in range(12)]
        # 6 trials of 10 may run in each; a seventh would go over.
        assert all(held) and search.start() is None and not search.stage.progress.ends
        # One that stops early leaves room for one more in its space.
        search.end(held[0], 0.5, used=3)
        more = search.start()
        assert more is not None and more.study == held[0].study and search.start() is None
        for trial in (*held[1:], more):
            search.end(trial, 0.5)
        assert search.run() == 0
        assert record.used() == {0: 63, 1: 60}
        why = "total: less than one trial's budget is left of 65 epochs"
        assert sorted(reasons(record)) == [f"one: {why}", f"two: {why}"]
        again = Searched(record, spaces)
        assert again.run() == 0 and len(reasons(record)) == 2
        assert again.stage.progress.total == again.stage.progress.ended == 13


def test_a_target_that_was_reached_ends_the_search_of_its_space(runs: Path) -> None:
    spaces = [space("one", "search.target=0.9"), space("two", "search.target=0.9")]
    with record_of(runs, spaces) as record:
        search = Searched(record, spaces)
        first = search.start()
        assert first is not None
        # Not what a trial shows on its way.
        search.end(first, 0.95, used=4)
        second = search.start()
        assert second is not None and second.study == 1
        search.end(second, 0.9)
        rest = [search.start() for _ in range(3)]
        assert {trial.study for trial in rest if trial} == {0}
        assert reasons(record) == ["two: target: trial 0 has reached val_acc 0.9"]


@pytest.mark.parametrize(("n_val", "ends"), [(20, True), (10_000_000, False)])
def test_a_search_ends_when_noise_hides_what_is_still_possible(
    runs: Path, n_val: int, ends: bool
) -> None:
    spaces = [space("lab", "search.enough=noise", "budget.trials=16")]
    with record_of(runs, spaces) as record:
        search = Searched(record, spaces)
        count = 0
        while (trial := search.start()) is not None:
            x = float(trial.config.knobs["x"])
            luck = 0.02 * math.sin(97 * count)
            search.end(trial, 0.8 - 0.1 * (x - 0.4) ** 2 + luck, n_val=n_val)
            count += 1
        assert (10 <= count < 16) if ends else count == 16
        assert len(reasons(record)) == ends
        assert Searched(record, spaces).run() == 0


def test_a_time_limit_ends_the_search_and_a_longer_one_opens_it_again(runs: Path) -> None:
    spaces = [space()]
    with record_of(runs, spaces) as record:
        record.set_meta("time_limit", 1e-9)
        search = Searched(record, spaces)
        first = search.start()
        assert first is not None and search.start() is None
        search.end(first, 0.5)
        assert not has_work(search.stage)
        assert reasons(record) == ["lab: time: the run has worked for its limit of 0:00"]
        record.set_meta("time_limit", 3600)
        assert has_work(SearchStage(record, spaces)) and record.meta("ends") == {}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("8h", 28800), ("90m", 5400), ("1d12h", 129600), ("300s", 300), ("20", 20), (2.5, 2.5)],
)
def test_times_are_read(text: float | str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "8 hours", "0", "h", -1])
def test_what_is_no_time_is_refused(text: float | str) -> None:
    with pytest.raises(samtune.SamtuneError, match="is no time limit; write 8h, 90m"):
        seconds_of(text)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["budget.total=5"], "budget.total: 5 is less than one trial's budget (10)"),
        (["search.enough=noise", "search.method=sobol"], "search.enough: it needs a method that"),
        (["search.enough=noise", "search.metric=val_loss"], "the noise of val_loss is not known"),
        (["search.target=0.9", "asha.mode=halving"], "asha.mode: the rungs of halving wait for"),
        (["search.target=0.9", "asha.rescue=2"], "asha.rescue: the rescued trials wait for all"),
        (["search.enough=nois"], "search.enough: 'nois' is none of noise"),
    ],
)
def test_ends_that_cannot_be_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        space("lab", *overrides)
    assert message in str(caught.value)


def test_a_total_beyond_all_trials_is_doubted() -> None:
    warnings = " ".join(space("lab", "budget.total=500").warnings)
    assert "budget.total: 40 trials use at most 400, so it is never reached" in warnings
    assert "budget.total" not in " ".join(space("lab", "budget.total=400").warnings)


def hill(config: TrialConfig) -> None:
    """Report x as the accuracy."""
    test: dict[str, Any] = {"test_acc": 0.5} if config.test_permit else {}
    for epoch in (1, 2):
        samtune.report(epoch=epoch, val_acc=float(config.knobs["x"]), **test)


def test_a_run_tells_why_its_search_ended(capsys: pytest.CaptureFixture[str]) -> None:
    body = {
        **{"trainable": hill, "knobs": {"x": {"min": 0.5, "max": 1.0}}},
        **{"budget": {"kind": "epochs", "per_trial": 2, "trials": 9, "total": 5}},
        **{"resources": {"parallel": 1}, "confirm": {"seeds": 1}},
    }
    run = samtune.run(samtune.Space(**body), name="run", progress=False)
    said = "hill: the search ended early  total: less than one trial's budget is left of 5 epochs"
    assert said in capsys.readouterr().err
    status = run.status()
    assert status["finished"] and status["studies"][0]["ended_early"].startswith("total: ")
    assert (len(run.trials), len(run.repeats)) == (2, 1)
    why = "hill (total: less than one trial's budget is left of 5 epochs)"
    assert ends([run.folder]) == [f"Searches of run that ended early: {why}."]
    (line,) = status_lines(status["studies"])
    assert line.endswith(", 1 ended early by total")


def test_a_plan_expects_no_more_than_the_total() -> None:
    planned = plan(space("lab", "budget.total=65"))
    assert (planned["budget_at_most"], planned["budget_expected"]) == (65, 65)
