"""What a trainable may do in a worker: exit, raise, leave its process changed, report oddly."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_sweeps import by_mode, one_at_a_time, record_of, sweep

from samtune.cluster.start import Cluster
from samtune.record.logs import LARGEST, log_path
from samtune.record.record import Record
from samtune.space.search_space import SearchSpace
from samtune.sweep.live import QuietView
from samtune.sweep.run_stages import run_stages
from samtune.sweep.search_stage import SearchStage
from samtune.sweep.stop import Stop

pytestmark = pytest.mark.slow

LAB = '''
import os
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import samtune


class Own(BaseException):
    """Derived from no Exception."""


def quick(config):
    mode = config.knobs["mode"]
    match mode:
        case "exit 0":
            samtune.report(epoch=1, val_acc=0.5)
            sys.exit(0)
        case "exit none":
            samtune.report(epoch=1, val_acc=0.5)
            sys.exit()
        case "exit 3":
            sys.exit(3)
        case "exit text":
            sys.exit("no data")
        case "keyboard":
            raise KeyboardInterrupt
        case "generator":
            raise GeneratorExit
        case "own":
            raise Own("of my own")
        case "swallow":
            for epoch in range(1, 100):
                try:
                    samtune.report(epoch=epoch, val_acc=0.5)
                except BaseException:
                    pass
        case "huge":
            samtune.report(epoch=1, val_acc=2**70)
        case "far":
            samtune.report(epoch=10**30, val_acc=0.5)
        case "half":
            samtune.report(epoch=1.9, val_acc=0.5)
        case "twice":
            samtune.report(epoch=1, val_acc=0.5)
            samtune.report(epoch=1, val_acc=0.6)
        case "fact":
            samtune.report(epoch=1, val_acc=0.5, facts={"n_params": [1]})
        case "thread":
            thread = threading.Thread(target=epochs)
            thread.start()
            thread.join()
        case "pool":
            with ThreadPoolExecutor(1) as pool:
                pool.submit(epochs).result()
        case "here":
            samtune.report(epoch=1, val_acc=float(Path("data.txt").read_text()))
        case "numpy fact":
            samtune.report(epoch=1, val_acc=0.5, facts={"n_params": np.int64(5)})
        case "draw":
            samtune.report(epoch=1, val_acc=(random.random() + np.random.rand()) / 2)
        case "leave":
            os.environ["LAB_LEFT"] = "1"
            os.chdir("/")
            np.seterr(all="raise")
            sys.path.insert(0, "/lab")
            samtune.report(epoch=1, val_acc=0.5)
        case "find":
            found = "LAB_LEFT" in os.environ or os.getcwd() == "/"
            found = found or np.geterr()["under"] == "raise" or "/lab" in sys.path
            samtune.report(epoch=1, val_acc=float(found))
    samtune.report(epoch=9, val_acc=0.5)


def clocked(config):
    """Starts again at epoch 1 in each attempt; an epoch takes a second of its clock."""
    true, passed = time.monotonic, 0
    place = Path(config.checkpoint_dir, "began")
    dies = config.knobs["mode"] == "die" and not place.exists()
    place.touch()
    time.monotonic = lambda: true() + passed
    try:
        for epoch in range(1, 100):
            if dies and epoch == 5:
                os._exit(7)
            passed += 1
            samtune.report(epoch=epoch, val_acc=0.5)
    finally:
        time.monotonic = true


def epochs():
    for epoch in range(1, 100):
        samtune.report(epoch=epoch, val_acc=0.5)
'''


@pytest.fixture
def lab(lab_of: Callable[[str], str]) -> str:
    return lab_of(LAB)


def space_of(lab: str, modes: list[str], name: str = "quick", **sections: str) -> SearchSpace:
    sections = {
        "search": "{method: grid}",
        "asha": "{grace: 9, factor: 3}",
        "budget": "{kind: epochs, per_trial: 9}",
        **sections,
    }
    text = f"samtune: 1\ntrainable: {lab}:{name}\nknobs:\n  mode: {{grid: {json.dumps(modes)}}}\n"
    text += "".join(f"{section}: {body}\n" for section, body in sections.items())
    Path("lab.yaml").write_text(text)
    return SearchSpace.load(Path("lab.yaml"))


def swept(runs: Path, on: Cluster, space: SearchSpace) -> Iterator[Record]:
    with record_of(runs, [space]) as record:
        sweep(record, [space], on)
        yield record


def test_an_exit_is_a_return_or_an_error_with_its_name(
    two_slots: Cluster, runs: Path, lab: str
) -> None:
    good = ["exit 0", "exit none", "swallow"]
    bad = {
        "exit 3": "SystemExit: 3",
        "exit text": "SystemExit: no data",
        "keyboard": "KeyboardInterrupt",
        "generator": "GeneratorExit",
        "own": "Own: of my own",
    }
    # Good ones between, because five errors in a row end a sweep.
    modes = [*list(bad)[:2], *good, *list(bad)[2:]]
    for record in swept(runs, one_at_a_time(two_slots), space_of(lab, modes)):
        trials = by_mode(record)
        assert {mode: trials[mode].state for mode in good} == dict.fromkeys(good, "completed")
        assert {mode: trials[mode].reason for mode in bad} == bad
        for mode in bad:
            causes = [a["cause"] for a in record.attempts(trial=trials[mode].trial)]
            assert causes == ["error", "error"], mode


def test_an_odd_report_ends_its_own_trial_alone(two_slots: Cluster, runs: Path, lab: str) -> None:
    bad = {
        "huge": "val_acc is an integer of 71 bits",
        "far": "epoch is an integer of 100 bits",
        "half": "epoch is 1.9",
        "twice": "epoch 1 was reported twice",
        "fact": "facts['n_params'] is a list",
    }
    modes = ["huge", "far", "half", "thread", "twice", "fact", "pool", "numpy fact"]
    for record in swept(runs, one_at_a_time(two_slots), space_of(lab, modes)):
        trials = by_mode(record)
        for mode, words in bad.items():
            assert trials[mode].state == "error" and words in (trials[mode].reason or "")
            assert len(record.attempts(trial=trials[mode].trial)) == 1, "not retried"
        for mode in ("thread", "pool", "numpy fact"):
            assert trials[mode].state == "completed", mode
        assert trials["numpy fact"].facts["n_params"] == 5
        for mode in ("thread", "pool"):
            epochs = [report.epoch for report in record.reports(trial=trials[mode].trial)]
            assert epochs == list(range(1, 10))


def test_a_trial_is_seeded_stands_in_the_commands_folder_and_finds_nothing_left(
    two_slots: Cluster, runs: Path, lab: str
) -> None:
    Path("data.txt").write_text("0.25")
    modes = ["draw", "leave", "find", "here"]
    values = []
    for name in ("first", "second"):
        for record in swept(runs / name, one_at_a_time(two_slots), space_of(lab, modes)):
            firsts = {r.trial: r.value for r in record.reports() if r.epoch == 1}
            values.append({mode: firsts[t.trial] for mode, t in by_mode(record).items()})
    assert values[0] == values[1]
    assert values[0]["find"] == 0 and values[0]["here"] == 0.25


@pytest.mark.parametrize("mode", ["stop", "promote"])
def test_a_budget_of_seconds_goes_on_after_an_interruption_and_a_pause(
    two_slots: Cluster, runs: Path, lab: str, mode: str
) -> None:
    """For a trainable without checkpoints, which knows nothing of its earlier attempts."""
    words = {"budget": "{kind: seconds, per_trial: 9}"}
    asha = f"{{mode: {mode}, grace: 3, factor: 3}}"
    modes = ["die", "good", "fine"]
    for record in swept(runs, two_slots, space_of(lab, modes, "clocked", asha=asha, **words)):
        trials = by_mode(record)
        ends = {name: trial.state for name, trial in trials.items()}
        assert "completed" in ends.values()
        for name, trial in trials.items():
            used = [report.used for report in record.reports(trial=trial.trial)]
            assert used == sorted(used)
            if ends[name] == "completed":
                assert 9 <= max(used) < 10.5 and len(used) <= 10, name
        if mode == "promote":
            again = [a["trial"] for a in record.attempts() if a["attempt"] > 0]
            assert any(
                trial.state == "completed" for trial in trials.values() if trial.trial in again
            )


@pytest.mark.parametrize(
    "error", [OverflowError("too large"), sqlite3.ProgrammingError("no type")]
)
def test_a_report_that_the_record_refuses_costs_its_own_trial_alone(
    two_slots: Cluster, runs: Path, lab: str, error: Exception
) -> None:
    space = space_of(lab, ["exit 0", "thread", "numpy fact"])
    with record_of(runs, [space]) as record:
        commit = record.add_report

        def refusing(trial: int, attempt: int, report: Any, metric: str) -> int:
            if trial == 2 and report["epoch"] == 3:
                raise error
            return commit(trial, attempt, report, metric)

        record.add_report = refusing
        sweep(record, [space], one_at_a_time(two_slots))
        states = [trial.state for trial in record.trials()]
        assert states == ["completed", "error", "completed"]
        assert f"cannot be recorded: {type(error).__name__}" in (record.trial(2).reason or "")
        assert len(record.attempts(trial=2)) == 1


PRINTING = """
import os
import subprocess
import sys
import time
import warnings

import samtune


def prints(config):
    mode = config.knobs["mode"]
    print("to stdout", mode)
    print("to stderr", mode, file=sys.stderr)
    os.write(1, b"to the descriptor\\n")
    subprocess.run(["echo", "from a child"], check=True)
    warnings.warn("a warning")
    if mode == "raise":
        raise ValueError("upside down")
    if mode == "silent":
        return
    if mode == "die":
        print("last words")
        os._exit(7)
    if mode == "much":
        for line in range(200_000):
            print(f"line {line} of a trainable that prints too much")
        sys.stdout.flush()
        # The last report ends the trial, and its worker may be ended before it cuts the log.
        while os.fstat(1).st_size > 2**20:
            time.sleep(0.01)
    samtune.report(epoch=9, val_acc=0.5)
"""


def test_what_a_trial_prints_is_kept_and_shown_at_once_only_for_debugging(
    two_slots: Cluster,
    runs: Path,
    lab: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path(f"{lab}.py").write_text(PRINTING)
    shown: list[str] = []

    class Listen(QuietView):
        def event(self, text: str) -> None:
            shown.append(text)

    modes = ["raise", "good", "die", "much"]
    for debug in ("", "1"):
        monkeypatch.setenv("SAMTUNE_DEBUG", debug)
        space = space_of(lab, modes, "prints", resources="{retries: 1}")
        with record_of(runs / f"debug{debug}", [space]) as record:
            run_stages([SearchStage(record, [space])], record, two_slots, Listen(), Stop())
            logs = {
                mode: log_path(record.folder, trial.trial).read_text(errors="replace")
                for mode, trial in by_mode(record).items()
            }
        assert any("| to stderr good" in line for line in shown) is bool(debug)
        for mode in modes:
            assert mode == "much" or f"to stdout {mode}\n" in logs[mode]
        for words in ("to stderr", "to the descriptor", "from a child", "a warning"):
            assert words in logs["good"]
        assert logs["raise"].count("ValueError: upside down") == 2, "of both attempts"
        assert logs["die"].count("last words") == 2
        assert len(logs["much"]) <= LARGEST and logs["much"].startswith("[the first ")
        assert logs["much"].endswith("line 199999 of a trainable that prints too much\n")
        assert not any(":actor_name:" in log or ":task_name:" in log for log in logs.values())


def test_json_is_one_document_whatever_fails(tmp_path: Path) -> None:
    """Neither Ray's lines nor a trial's own reach the command's terminal."""
    (tmp_path / "odd_lab.py").write_text(PRINTING)
    (tmp_path / "lab.yaml").write_text(
        "samtune: 1\ntrainable: odd_lab:prints\nbudget: {kind: epochs, per_trial: 9}\n"
        "asha: {grace: 9, factor: 3}\nsearch: {method: grid}\nresources: {retries: 0}\n"
        "knobs:\n  mode: {grid: [die, raise, silent, good]}\n"
    )
    words = ["run", "lab.yaml", "--name", "odd", "--no-confirm", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", "from samtune.cli import main; main()", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["schema"].startswith("leaderboard/")
    for words_of_others in ("raylet", "\x1b", "to stdout", "to stderr", "a warning", "Traceback"):
        assert words_of_others not in done.stderr
    assert "worker_died" in done.stderr
    assert "ValueError: upside down" in done.stderr and "without a report" in done.stderr
