"""What is rebuilt from a record: after a kill at any moment a sweep stands where it stood."""

from __future__ import annotations

import errno
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from samtune import provenance, tables
from samtune.cli import main
from samtune.live import QuietView
from samtune.outcome import is_final, of_death, of_exception, shortly
from samtune.provenance import code_hashes
from samtune.record import Record
from samtune.replay import rule_text
from samtune.space import SearchSpace
from samtune.stages import Search, has_work
from samtune.status import status_of, status_text
from samtune.stop import Stop, Watch
from samtune.sweep import _Driver
from samtune.trial import ReportError

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
    """Stands for the end of the process."""


class Slots:
    """Plays Ray Tune for a driver: a few trials at a time, their reports in a random order.

    A trial reports a function of its knobs and epoch, and goes on from the epoch that it was last
    allowed to begin, as its checkpoint would have it. Between any two steps the sweep is killed
    with the probability `kill`, and in their place a worker with half of it.
    """

    def __init__(
        self, record: Record, search: Search, slots: int, draw: random.Random, kill: float
    ) -> None:
        self.record, self.search, self.slots, self.draw = record, search, slots, draw
        self.kill = kill
        self.stop = Stop()
        watch = Watch(record.folder, self.stop)
        self.driver = _Driver(search, record, QuietView(), self.stop, watch)
        self.running: dict[str, Iterator[dict[str, Any]]] = {}

    def run(self, checkpoints: dict[str, int]) -> None:
        count = 0
        while True:
            while len(self.running) < self.slots:
                count += 1
                config = self.driver.propose(str(count))
                if not isinstance(config, dict):
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
            self.driver.ended(trial_id, None, True)
            return
        report = next(self.running[trial_id], None)
        if report is not None:
            verdict = self.driver.reported(Named(trial_id), report)
            if verdict.decision == "continue":
                return
        del self.running[trial_id]
        if not self.stop.requested:
            self.driver.ended(trial_id, {"done": report is None}, False)


class Named:
    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


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
        report = {
            **{"epoch": epoch, "used": float(epoch), "metrics": {"val_acc": value}},
            **{"checkpoint": None, "checkpoint_sha256": None, "facts": {"n_val": 50}},
        }
        yield {"report": json.dumps(report)}


@pytest.fixture(params=["stop", "promote", "halving"])
def mode(request: pytest.FixtureRequest) -> str:
    return f"asha.mode={request.param}"


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


def told(search: Search) -> list[tuple[Any, ...]]:
    """What the study knows, in its own order; nothing where it learns nothing."""
    study = search._proposals[0].study
    rows = study.get_trials(deepcopy=False) if study is not None else []
    return [(r.state, r.params, r.values, r.intermediate_values) for r in rows]


def standing(search: Search) -> dict[str, Any]:
    """All of a search that a rebuilt one must have in common with it."""
    return {
        "rungs": vars(search.progress.rungs[0]),
        "asked": search._proposals[0].asked,
        "turn": search._turn % 1,
        "used": search.progress.used,
        "best": search.progress.best,
        "paused": sorted(search._paused),
    }


def outcome(record: Record) -> list[tuple[Any, ...]]:
    """A record's trials and curves, without times and attempts."""
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
) -> tuple[Search, int]:
    """Runs a search to its end through kills; returns it and how many there were."""
    draw, checkpoints, kills = random.Random(seed), {}, 0
    record = Mortal(record, draw, at_writes) if at_writes else record
    while True:
        try:
            search = Search(record, spaces)
            Slots(record, search, slots, draw, between_steps).run(checkpoints)
            return search, kills
        except Killed:
            kills += 1
        assert "replay differs" not in {event["kind"] for event in record.events()}
        if between_steps:
            rebuilt = Search(record, spaces)
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


@pytest.mark.parametrize("method", ["random", "tpe", "tpe that forgets"])
def test_one_at_a_time_kills_leave_no_trace(
    create: Callable[..., tuple[Record, list[SearchSpace]]],
    mode: str,
    method: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if method == "tpe that forgets":
        method = "tpe"
        for name, count in {"HELD": 10, "KEPT": 3, "_BEST": 2}.items():
            monkeypatch.setattr(f"samtune.search.{name}", count)
    overrides = [mode, f"search.method={method}", "resources.parallel=1"]
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
            for trial in record.trials("state = 'completed'"):
                assert [e for t, e in sorted(epochs) if t == trial.trial] == list(range(1, 10))
            stopped = {r.trial: r.seq for r in record.reports("decision = 'stop'")}
            assert not any(r.seq > stopped.get(r.trial, r.seq) for r in record.reports())
    assert total > 10


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
            slots = Slots(record, Search(record, spaces), 1, random.Random(0), 0)
            slots.run(checkpoints)
            assert slots.stop.why == "disk full" and "full" in slots.stop.detail
            record._db.execute("PRAGMA max_page_count = 100000")
        room = shutil.disk_usage(record.folder)
        with monkeypatch.context() as patch:
            patch.setattr("shutil.disk_usage", lambda path: room._replace(free=199_000_000))
            slots = Slots(record, Search(record, spaces), 1, random.Random(0), 0)
            slots.run(checkpoints)
            assert slots.stop.why == "disk full" and "199 MB are free" in slots.stop.detail
        assert len(list(record.trials())) < 14
        Slots(record, Search(record, spaces), 1, random.Random(0), 0).run(checkpoints)
        assert outcome(record) == whole


def test_audited_stops_run_on_and_status_says_how_many_were_wrong(
    create: Callable[..., tuple[Record, list[SearchSpace]]],
) -> None:
    record, spaces = create("audited", "asha.audit=1")
    with record:
        Slots(record, Search(record, spaces), 1, random.Random(0), 0).run({})
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
        slots = Slots(record, Search(record, spaces), 1, random.Random(0), 0)
        config = slots.driver.propose("1")
        assert isinstance(config, dict)
        reports = list(epochs(config["trial"], {}))
        tune_trial = Named("1")
        before = [slots.driver.reported(tune_trial, reports[k]) for k in (0, 1)]
        odd = [slots.driver.reported(tune_trial, reports[k]) for k in (1, 0)]
        assert [v.decision for v in before + odd] == ["continue"] * 4
        for report in reports[2:]:
            last = slots.driver.reported(tune_trial, report)
        late = slots.driver.reported(tune_trial, reports[-1])
        slots.driver.ended("1", {"done": True}, False)
        later = slots.driver.reported(tune_trial, reports[-1])
        assert [v.decision for v in (last, late, later)] == ["stop"] * 3
        assert [r.epoch for r in record.reports()] == list(range(1, 10))
        ignored = [e["detail"] for e in record.events() if e["kind"] == "ignored report"]
        assert ignored == ["epoch 2 once more", "epoch 1 once more", *["its trial had ended"] * 2]


@pytest.mark.parametrize(
    ("failures", "final"),
    [
        (["worker_died"] * 2, False),
        (["worker_died", "stalled", "node_lost"], True),
        (["error"], False),
        (["error", "oom"], True),
        (["error", "worker_died"], False),
    ],
)
def test_what_is_tried_again(failures: list[str], final: bool) -> None:
    assert is_final(failures, retries=2) is final
    assert is_final(failures[:1], retries=0)


def test_causes_are_told_apart() -> None:
    class OutOfMemoryError(RuntimeError):
        """Torch's, by its name."""

    assert of_exception(OutOfMemoryError("CUDA out of memory"))[0] == "oom"
    assert of_exception(MemoryError())[0] == "oom"
    assert of_exception(OSError(errno.ENOSPC, "full")) == ("disk_full", True)
    assert of_exception(ReportError("lacks val_acc")) == ("error", False)
    assert of_exception(FileNotFoundError(errno.ENOENT, "gone")) == ("error", True)
    assert of_death("The actor died because its node has died. Node Id: 0") == "node_lost"
    killed = "Worker exit detail: (1) The process is killed by SIGKILL by OOM killer"
    assert of_death(killed) == "worker_died"
    hungry = "ray.exceptions.OutOfMemoryError: node running low on memory"
    assert of_death(hungry) == "oom"
    assert shortly(hungry) == "its process was killed, because its machine ran low on memory"
    died = "Failure # 1\nWorker exit type: {} Worker exit detail: {}"
    ended = died.format("INTENDED_USER_EXIT", "Worker exits with an exit code 7. --enable-x")
    assert shortly(ended) == "its process ended with code 7"
    killed = died.format("SYSTEM_ERROR", "Worker unexpectedly exits. --enable-x")
    assert shortly(killed) == "its process was killed, or crashed"
    assert shortly("Failure # 1\nno such \x1b actor") == "no such \\x1b actor"


def test_a_record_of_the_first_format_is_brought_up(
    create: Callable[..., tuple[Record, list[SearchSpace]]], runs: Path
) -> None:
    record, spaces = create("old")
    with record:
        Slots(record, Search(record, spaces), 1, random.Random(0), 0).run({})
        whole = outcome(record)
    with closing(sqlite3.connect(runs / "old" / "sweep.db")) as db, db:
        for column in ("cause", "after", "until"):
            db.execute(f"ALTER TABLE attempts DROP COLUMN {column}")
        db.execute("DROP TABLE checksums")
        db.execute("UPDATE meta SET value = '1' WHERE key = 'format'")
    with Record.open(runs, "old") as record, record.lock():
        assert record.meta("format") == 2
        assert not has_work(Search(record, spaces)) and outcome(record) == whole
        record.verify()


LAB = """
import os
import time
import samtune

def steady(config):
    place = os.path.join(config.checkpoint_dir, "epoch")
    done = int(open(place).read()) if os.path.exists(place) else 0
    for epoch in range(max(done, 1), 7):
        if epoch > done:
            time.sleep(0.05)
            with open(place + ".new", "w") as file:
                file.write(str(epoch))
            os.replace(place + ".new", place)
        value = config.knobs["lr"] * (1 + epoch / 10 + config.seeds.init % 7 / 100)
        test = {"test_acc": value, "n_test": 100} if epoch == 6 and config.test_permit else {}
        samtune.report(epoch=epoch, val_acc=value, see=epoch, **test)
"""
LAB_SPACE = """
samtune: 1
trainable: lab:steady
knobs:
  lr: {min: 0.01, max: 0.5, default: 0.05}
budget: {kind: epochs, per_trial: 6, trials: 9}
asha: {grace: 2, factor: 3}
resources: {parallel: 1}
confirm: {top: 1, seeds: 3}
"""
# What a kill may change: times, what was tried again, and the memory of a process.
CHANGES = {
    *("started_at", "ended_at", "wall_s", "train_s", "eval_s", "data_s", "peak_rss_mb"),
    *("peak_gpu_mb", "attempts", "epochs_repeated", "ckpt_sha256"),
    *("search_wall_s", "train_s_per_run", "peak_mem_mb"),
}
_MAIN = "from samtune.cli import main; main()"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("lab.py").write_text(LAB)
    Path("lab.yaml").write_text(LAB_SPACE)
    return tmp_path


def command(*words: str) -> subprocess.Popen[str]:
    """`samtune WORDS` in a process of its own; its progress comes line by line."""
    return subprocess.Popen(
        [sys.executable, "-c", _MAIN, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=200)
    return process.returncode, err


def cut(process: subprocess.Popen[str], draw: random.Random) -> bool:
    """Kills the process at some moment of its work; False if it ended before."""
    assert process.stderr is not None
    line = next((x for x in process.stderr if x.startswith("[")), None)
    for _ in range(draw.randrange(4)):
        line = line and process.stderr.readline()
    time.sleep(draw.random() / 4)
    process.kill()
    process.communicate()
    return bool(line)


def tables_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [
            {column: value for column, value in row.items() if column not in CHANGES}
            for row in tables.read(folder / f"{name}.parquet", name).to_pylist()
        ]
        for name in ("trials", "leaderboard")
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_run_ends_in_the_tables_of_one_that_never_was(here: Path) -> None:
    code, err = ended(command("run", "lab.yaml", "--name", "lab", "--runs", "whole"))
    assert code == 0, err
    draw, kills = random.Random(5), 0
    words = ["run", "lab.yaml", "--name", "lab", "--runs", "cut"]
    while kills < 2 and cut(command(*words), draw):
        kills += 1
        words = ["resume", "lab", "--runs", "cut"]
    code, err = ended(command(*words))
    assert code == 0 and kills == 2, err
    assert tables_of(Path("cut/lab")) == tables_of(Path("whole/lab"))
    with Record.open(Path("cut"), "lab") as record:
        epochs = Counter((r.trial, r.epoch) for r in record.reports())
        assert set(epochs.values()) == {1}
        assert Counter(a["cause"] for a in record.attempts())["killed"] >= 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_is_stopped_from_elsewhere_and_gone_on_with_by_its_name(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def typed(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as caught:
            main(words)
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out + err

    run = ["run", "lab.yaml", "--name", "lab"]
    process = command(*run)
    assert process.stderr is not None
    assert any(line.startswith("[2/") for line in process.stderr)
    assert typed(*run)[0] == 4, "two may not write one run"
    assert typed("stop", "lab") == (
        0,
        "lab has stopped; `samtune resume lab` goes on with it\nasked lab to stop\n",
    )
    code, err = ended(process)
    assert code == 75 and "`samtune resume lab` goes on" in err, err
    code, told = typed("stop", "lab")
    assert code == 0 and "lab is not running" in told
    code, told = typed(*run, "--set", "lr.max=0.4")
    assert code == 4 and "samtune resume lab" in told

    with Record.open(Path("runs"), "lab") as record:
        began = record.meta("versions")
        record.set_meta("versions", began | {"optuna": "4.0.0"})
    code, told = typed("resume", "lab")
    assert code == 2 and "optuna was 4.0.0" in told and "--accept-version-change" in told
    with Record.open(Path("runs"), "lab") as record:
        record.set_meta("versions", began)
    Path("lab.py").write_text(LAB.replace("% 7 / 100", "% 7 / 101"))
    for words in (["resume", "lab"], run):
        code, told = typed(*words)
        assert code == 2 and "code of lab was " in told and "optuna" not in told
    # The frozen copy is what counts, whatever has become of the file.
    Path("lab.yaml").rename("moved.yaml")
    code, err = ended(command("resume", "lab", "--accept-version-change"))
    assert code == 0, err
    with Record.open(Path("runs"), "lab") as record:
        states = Counter(trial.state for trial in record.trials())
        assert sum(states.values()) == 12 and states["completed"] >= 4
        assert not states["cancelled"] and not states["running"]
        kinds = [event["kind"] for event in record.events()]
        assert "version change accepted" in kinds and "resumed" in kinds
    code, told = typed("resume", "lab")
    assert code == 0 and "nothing is left to do in lab" in told
    assert "lab has finished" in typed("stop", "lab")[1]
    Path("moved.yaml").rename("lab.yaml")
    code, told = typed(*run)
    assert code == 4 and "'lab' is taken" in told


def test_code_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "my_lab.py"
    file.write_text("def mine(config): ...\n")
    ours = code_hashes(["sam"])
    first = code_hashes(["sam", "my_lab:mine"])
    assert {*first} == {"code of samtune", "code of my_lab"} and ours.items() < first.items()
    file.write_text("def mine(config): return\n")
    second = code_hashes(["my_lab:mine"])
    assert second["code of my_lab"] != first["code of my_lab"] and ours.items() < second.items()
    home = tmp_path / "samtune"
    (home / "optimizers").mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(home / "provenance.py"))
    assert code_hashes([]) != ours
