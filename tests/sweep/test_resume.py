"""State rebuilt from the record: after a kill at any moment it equals the state before."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from samtune.cluster.size import TrialSize
from samtune.cluster.start import Cluster
from samtune.record.record import Record
from samtune.space.search_space import SearchSpace
from samtune.sweep.driver import Driver
from samtune.sweep.live import QuietView
from samtune.sweep.search_stage import SearchStage
from samtune.sweep.stop import Stop
from samtune.views.rules import rule_text
from samtune.views.status import status_of, status_text

SPACE = """
samtune: 1
trainable: sam
knobs:
  lr: {min: 1e-3, max: 0.5, scale: log, default: 0.05}
  rho: {choice: [0.05, 0.1, 0.5]}
  momentum: {grid: [0, 0.9]}
budget: {kind: epochs, per_trial: 9, trials: 7}
asha: {grace: 1, factor: 3}
search: {method: random, seed: 3}
resources: {retries: 9}
"""


class Killed(BaseException):
    """An exception in place of the end of the process."""


class Slots:
    """A replacement of Ray Tune for a driver: a few trials at a time, reports in random order.

    A trial reports a function of its knobs and epoch. It continues from the last epoch that it was
    allowed to start, as from a checkpoint. Between two steps the sweep is killed with probability
    `kill`, and a worker with half of that.
    """

    def __init__(
        self, record: Record, search: SearchStage, slots: int, draw: random.Random, kill: float
    ) -> None:
        self.record, self.search, self.slots, self.draw = record, search, slots, draw
        self.kill = kill
        self.stop = Stop()
        on = Cluster(slots, TrialSize(cpus=1, gpus=0, workers=1), record.folder)
        self.driver = Driver([search], record, on, QuietView(), self.stop)
        self.running: dict[str, Iterator[dict[str, Any]]] = {}

    def run(self, checkpoints: dict[str, int]) -> None:
        count = 0
        self.driver.open_next()
        while True:
            while len(self.running) < self.slots:
                count += 1
                config = self.driver.propose(str(count))
                if config is None:
                    break
                self.running[str(count)] = epochs(config["trial"], checkpoints)
            if not self.running:
                self.driver.close(cut=self.stop.requested)
                return
            if self.draw.random() < self.kill:
                raise Killed
            self.step(self.draw.choice(sorted(self.running)))

    def step(self, trial_id: str) -> None:
        if self.draw.random() < self.kill / 2:
            # Only its worker dies; it is tried again.
            del self.running[trial_id]
            self.driver.ended(trial_id, None, error=True)
            return
        report = next(self.running[trial_id], None)
        if report is not None and self.driver.reported(trial_id, report):
            return
        del self.running[trial_id]
        if not self.stop.requested:
            self.driver.ended(trial_id, {"done": report is None}, error=False)


def epochs(config: dict[str, Any], checkpoints: dict[str, int]) -> Iterator[dict[str, Any]]:
    place, knobs = config["checkpoint_dir"], config["knobs"]
    # Like vision's: the report of the checkpoint that is found is sent once more.
    for epoch in range(max(checkpoints.get(place, 1), 1), 10):
        checkpoints[place] = epoch
        value = round(knobs["lr"] + knobs["rho"] * epoch / 20 + knobs["momentum"] / 10, 2)
        if epoch == 1 and knobs["rho"] == 0.1 and knobs["momentum"]:
            yield {"error": "bad luck", "traceback": "", "cause": "error", "again": False} | {
                "raises": False
            }
            return
        costs = {"see": epoch * knobs["rho"], "train_s": epoch**2 * knobs["lr"], "step": epoch}
        report = {
            **{"epoch": epoch, "used": float(epoch), "metrics": {"val_acc": value, **costs}},
            **{"checkpoint": None, "checkpoint_sha256": None, "facts": {"n_val": 50}},
        }
        yield {"report": json.dumps(report)}


@pytest.fixture(params=["mode=stop", "mode=promote", "mode=halving", "rescue=2"])
def mode(request: pytest.FixtureRequest) -> str:
    return f"asha.{request.param}"


@pytest.fixture
def create(runs: Path, tmp_path: Path) -> Callable[..., tuple[Record, list[SearchSpace]]]:
    def create(name: str, *overrides: str) -> tuple[Record, list[SearchSpace]]:
        (tmp_path / "space.yaml").write_text(SPACE)
        space = SearchSpace.load(tmp_path / "space.yaml", overrides)
        row = {"name": space.name, "variant": "sam", "base": "sgd", "space": space.text}
        settings = {"mode": "max", "trials": 14, "searched": ["lr", "rho"]}
        settings |= {"scheduler": rule_text(space.asha.model_dump())}
        row |= {"sha256": space.sha256, "settings": json.dumps(settings)}
        return Record.create(runs, name, [row]), [space]

    return create


def told(search: SearchStage) -> list[tuple[Any, ...]]:
    """Return the trials that the study knows, in its own order; none if it does not learn."""
    learning = search.proposals[0].learning
    rows = learning.study.get_trials(deepcopy=False) if learning is not None else []
    return [(r.state, r.params, r.values, r.intermediate_values, r.constraints) for r in rows]


def standing(search: SearchStage) -> dict[str, Any]:
    """Return the state of a search that a rebuilt search must have too."""
    return {
        "rungs": vars(search.progress.rungs[0]),
        "asked": search.proposals[0].asked,
        "turn": search._turn % 1,
        "used": search.progress.used,
        "best": search.progress.best,
        "paused": sorted(search._paused),
    }


def outcome(record: Record) -> list[tuple[Any, ...]]:
    """Return a record's trials and curves, without times and attempts."""
    trials = [
        (t.key, t.number, t.origin, t.config.to_dict()["knobs"], t.state, t.reason)
        for t in record.trials()
    ]
    curves = [
        (r.trial, r.epoch, r.used, r.value, r.decision, r.rung, r.cutoff) for r in record.reports()
    ]
    return [*trials, *sorted(curves)]


def swept(
    record: Record,
    spaces: list[SearchSpace],
    slots: int,
    seed: int,
    between_steps: float = 0.0,
    at_writes: float = 0.0,
) -> tuple[SearchStage, int]:
    """Run a search to its end through kills. Return it and the number of kills."""
    draw, checkpoints, kills = random.Random(seed), {}, 0
    record = Mortal(record, draw, at_writes) if at_writes else record
    while True:
        try:
            search = SearchStage(record, spaces)
            Slots(record, search, slots, draw, between_steps).run(checkpoints)
            return search, kills
        except Killed:
            kills += 1
        assert "replay differs" not in {event["kind"] for event in record.events()}
        if between_steps:
            rebuilt = SearchStage(record, spaces)
            assert standing(rebuilt) == standing(search)
            if slots == 1:
                assert [r[1:] for r in told(rebuilt)] == [r[1:] for r in told(search)]


class Mortal:
    """A record whose process may be killed right before or right after each of its commits."""

    def __init__(self, record: Record, draw: random.Random, kill: float) -> None:
        self._record, self._draw, self._kill = record, draw, kill

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._record, name)
        if not name.startswith(("add_", "start_", "end_")) or name == "add_event":
            return found

        def write(*arguments: Any, **words: Any) -> Any:
            moment = self._draw.random()
            if moment < self._kill / 2:
                raise Killed
            answer = found(*arguments, **words)
            if moment < self._kill:
                raise Killed
            return answer

        return write


AIMS = ["search.metrics={val_acc: max, see: min}", "search.constraints={s_per_step: 0.3}"]


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_one_at_a_time_kills_leave_no_trace(
    create: Callable[..., tuple[Record, list[SearchSpace]]], mode: str, method: str
) -> None:
    no_trace(create, mode, f"search.method={method}")


def test_kills_leave_no_trace_in_a_search_of_several_aims(
    create: Callable[..., tuple[Record, list[SearchSpace]]],
) -> None:
    # Promoted trials have been told at their pauses, with what they had cost until then.
    no_trace(create, "asha.mode=promote", "search.method=tpe", *AIMS)


def no_trace(create: Callable[..., tuple[Record, list[SearchSpace]]], *overrides: str) -> None:
    """Compare a sweep with sweeps that are killed at many moments."""
    overrides = (*overrides, "resources.parallel=1")
    record, spaces = create("whole", *overrides)
    with record:
        search, _ = swept(record, spaces, 1, 0)
        whole, study = outcome(record), told(search)
        assert Counter(t.state for t in record.trials())["completed"] >= 1
    total = 0
    for seed, manner in enumerate([{"between_steps": 0.15}, {"at_writes": 0.1}] * 2):
        record, spaces = create(f"cut{seed}", *overrides)
        with record:
            search, kills = swept(record, spaces, 1, seed, **manner)
            assert outcome(record) == whole and told(search) == study
            total += kills
    assert total > 10


def test_several_at_a_time_kills_lose_nothing(
    create: Callable[..., tuple[Record, list[SearchSpace]]], mode: str
) -> None:
    total = 0
    for seed, manner in enumerate([{"between_steps": 0.1}, {"at_writes": 0.06}] * 2):
        record, spaces = create(f"cut{seed}", mode)
        with record:
            _, kills = swept(record, spaces, 3, seed, **manner)
            total += kills
            states = Counter(trial.state for trial in record.trials())
            assert sum(states.values()) == 14 and not {"running", "paused"} & states.keys()
            assert all(report.decision for report in record.reports())
            epochs = Counter((report.trial, report.epoch) for report in record.reports())
            assert set(epochs.values()) == {1}, "a report that was sent twice is kept once"
            for trial in record.trials(states={"completed"}):
                assert [e for t, e in sorted(epochs) if t == trial.trial] == list(range(1, 10))
            stopped = {r.trial: r.seq for r in record.reports() if r.decision == "stop"}
            assert not any(r.seq > stopped.get(r.trial, r.seq) for r in record.reports())
    assert total > 10


@pytest.mark.parametrize("saves", [False, True])
def test_a_pause_without_a_checkpoint_is_said(
    create: Callable[..., tuple[Record, list[SearchSpace]]],
    mode: str,
    saves: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The work since the last checkpoint is lost, and is not given back to a budget in seconds."""

    def saved(*words: Any) -> Iterator[dict[str, Any]]:
        for message in unsaved(*words):
            report = str(message.get("report", "")).replace(
                '"checkpoint": null', '"checkpoint": "epoch-1"'
            )
            yield message | ({"report": report} if report else {})

    unsaved = epochs
    if saves:
        monkeypatch.setitem(globals(), "epochs", saved)
    record, spaces = create("whole", mode)
    with record:
        swept(record, spaces, 1, 0)
        said = [event["detail"] for event in record.events() if event["kind"] == "warning"]
        pauses = sum(report.decision == "pause" for report in record.reports())
        assert (pauses > 0) == (mode != "asha.mode=stop")
        assert len(said) == (0 if saves else pauses)
        assert all("task.checkpoint_every: 1)" in detail for detail in said)


def test_a_full_disk_stops_cleanly_and_the_sweep_goes_on_after_it(
    create: Callable[..., tuple[Record, list[SearchSpace]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record, spaces = create("whole")
    with record:
        swept(record, spaces, 1, 0)
        whole = outcome(record)
    record, spaces = create("cut")
    with record:
        checkpoints: dict[str, int] = {}
        for pages in (0, 1):
            (have,) = record._db.execute("PRAGMA page_count").fetchone()
            record._db.execute(f"PRAGMA max_page_count = {have + pages}")
            slots = Slots(record, SearchStage(record, spaces), 1, random.Random(0), 0)
            slots.run(checkpoints)
            assert slots.stop.why == "disk full" and "full" in slots.stop.detail
            record._db.execute("PRAGMA max_page_count = 100000")
        room = shutil.disk_usage(record.folder)
        with monkeypatch.context() as patch:
            patch.setattr("shutil.disk_usage", lambda path: room._replace(free=199_000_000))
            slots = Slots(record, SearchStage(record, spaces), 1, random.Random(0), 0)
            slots.run(checkpoints)
            assert slots.stop.why == "disk full" and "199 MB are free" in slots.stop.detail
        assert len(list(record.trials())) < 14
        Slots(record, SearchStage(record, spaces), 1, random.Random(0), 0).run(checkpoints)
        assert outcome(record) == whole


def test_audited_stops_run_on_and_status_says_how_many_were_wrong(
    create: Callable[..., tuple[Record, list[SearchSpace]]],
) -> None:
    record, spaces = create("audited", "asha.audit=1")
    with record:
        Slots(record, SearchStage(record, spaces), 1, random.Random(0), 0).run({})
        (study,) = status_of(record)["studies"]
        judged = [report for report in record.reports() if report.rung is not None]
        stopped = {report.trial for report in judged if report.decision == "audit"}
        assert stopped and study["audit"]["audited"] == len(stopped)
        # The longer, the better, for each trial alike: what leads at first leads at last.
        assert study["audit"]["wrong"] < len(stopped) and study["audit"]["used"] > 0
        assert study["states"] == {"completed": 14 - study["states"].get("error", 0)} | {
            state: count for state, count in study["states"].items() if state == "error"
        }
        assert f"of {len(stopped)} stops" in status_text(status_of(record))


def test_reports_that_come_twice_late_or_out_of_order_are_ignored(
    create: Callable[..., tuple[Record, list[SearchSpace]]],
) -> None:
    record, spaces = create("run")
    with record:
        driver = Slots(record, SearchStage(record, spaces), 1, random.Random(0), 0).driver
        driver.open_next()
        config = driver.propose("1")
        assert config is not None
        reports = list(epochs(config["trial"], {}))
        before = [driver.reported("1", reports[k]) for k in (0, 1)]
        odd = [driver.reported("1", reports[k]) for k in (1, 0)]
        assert before + odd == [True] * 4
        for report in reports[2:]:
            last = driver.reported("1", report)
        late = driver.reported("1", reports[-1])
        driver.ended("1", {"done": True}, error=False)
        later = driver.reported("1", reports[-1])
        assert [last, late, later] == [False] * 3
        assert [r.epoch for r in record.reports()] == list(range(1, 10))
        ignored = [e["detail"] for e in record.events() if e["kind"] == "ignored report"]
        assert ignored == ["epoch 2 once more", "epoch 1 once more", *["its trial had ended"] * 2]
