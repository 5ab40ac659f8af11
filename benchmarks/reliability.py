"""Kill real sweeps, compare their results, and collect the counts of the tests of faults.

    python -m benchmarks.reliability --kills 10 --json benchmarks/results/reliability.json

The benchmark kills the driver, or the driver and all of Ray, at random moments of sweeps that run
one trial at a time. It resumes each sweep until it is done, and compares it with one that was
never killed. Then it runs the tests of faults and adds their counts. It needs Linux, because it
reads /proc.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from statistics import mean, median
from typing import Any
from xml.etree import ElementTree

import psutil

from benchmarks.environment import environment
from samtune.record import tables
from samtune.record.record import Record
from samtune.search.rungs import StoppingRungs

ROOT = Path(__file__).parents[1]

LAB = '''
"""A trial that writes down each epoch when it begins it, and saves and reports as ours do."""
import os
import time
from pathlib import Path

import torch

import samtune
from trainables import checkpoint


def steady(config):
    folder, began = Path(config.checkpoint_dir), Path("began")
    state = {"epoch": 0, "weights": torch.full((64,), float(config.knobs["lr"]))}
    found = checkpoint.latest(folder)
    if found is not None:
        state = checkpoint.load(found)
        report(state, checkpoint.verify(found))
    while state["epoch"] < config.budget.per_trial:
        with open(os.environ["SAMTUNE_BEGAN"], "a") as file:
            file.write(f"{folder.name} {state['epoch'] + 1}\\n")
        time.sleep(0.05)
        weights = torch.cos(state["weights"] + state["epoch"])
        state = {"epoch": state["epoch"] + 1, "weights": weights}
        report(state, checkpoint.save(folder, state["epoch"], state))


def report(state, saved):
    accuracy = state["weights"].mean().item()
    samtune.report(
        epoch=state["epoch"], val_acc=accuracy, checkpoint=str(saved.path),
        checkpoint_sha256=saved.sha256,
    )
'''
SPACE = """
samtune: 1
trainable: reliability_lab:steady
budget: {kind: epochs, per_trial: 9, trials: 12}
asha: {grace: 1, factor: 3, mode: stop}
search: {method: tpe, seed: 3, first: []}
resources: {parallel: 1}
knobs:
  lr: {min: 0.01, max: 3}
"""
# A killed and resumed run may differ from an uninterrupted one in these columns.
PASSING = {
    *("run", "wall_s", "started_at", "ended_at", "reported_at", "state_reason"),
    *("attempt", "attempts", "epochs_repeated", "superseded", "ckpt_sha256"),
}


FILES = ("tests/sweep/test_crash_points.py", "tests/sweep/test_faults.py")
FILES += ("tests/project/test_security.py", "tests/trainables/test_checkpoint.py")
FILES += ("tests/record/test_damage.py",)
# Figures that count passed cases, with the names of their tests.
PASSED = {
    "optimizers resumed bit for bit, each from 4 places": (
        "test_a_resumed_trial_is_bitwise_one_that_never_stopped",
    ),
    "hostile names, links, files, archives and checkpoints refused": (
        "test_a_hostile_name_is_refused",
        "test_every_command_refuses_a_hostile_name",
        "test_a_run_that_is_a_link_is_refused",
        "test_a_link_to_nowhere_takes_a_name",
        "test_hostile_input_is_refused_in_under_a_second",
        "test_a_truncated_archive_is_refused",
        "test_a_truncated_archive_is_refused_even_with_the_right_checksum",
        "test_an_archive_with_one_other_bit_is_refused",
        "test_a_download_with_one_other_bit_is_refused",
        "test_a_tar_archive_that_leads_out_is_refused",
        "test_a_zip_archive_that_leads_out_is_refused",
        "test_a_pickle_that_does_something_is_refused",
        "test_labels_that_cannot_be_are_refused",
        "test_a_payload_is_refused_and_not_executed",
        "test_a_checkpoint_that_is_no_state_is_refused",
    ),
}
_COMMAND = ("-c", "from samtune.cli import main; main()")
# The cases of this test record their own counts.
CUTS = "test_a_cut_trial_goes_on_bitwise"


class Sweep:
    """The sweep of `SPACE` in a folder of its own, in processes that can be killed."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.began = folder / f"{name}.began"
        (folder / "reliability_lab.py").write_text(LAB)
        (folder / "steady.yaml").write_text(SPACE)
        self._process: subprocess.Popen[str] | None = None

    def start(self, *program: str) -> None:
        """Start or continue the sweep with the command, or with `program` if it is given."""
        there = (self.folder / "runs" / self.name / "sweep.db").exists()
        words = ["resume", self.name] if there else ["run", "steady.yaml", "--name", self.name]
        words += [] if there else ["--no-confirm"]
        self._process = subprocess.Popen(
            [sys.executable, *(program or _COMMAND), *words],
            cwd=self.folder,
            env=os.environ | {"SAMTUNE_BEGAN": str(self.began)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def end(self) -> tuple[int, str]:
        """Wait for the end, and return the exit code and the output."""
        assert self._process is not None
        said, _ = self._process.communicate(timeout=600)
        return self._process.returncode, said

    def kill(self, *, tree: bool) -> list[psutil.Process]:
        """Kill the driver alone, or with all its processes. Return those processes."""
        assert self._process is not None
        below = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        if tree:
            for process in below:
                process.kill()
        self.end()
        return below

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def reports(self) -> set[tuple[int, int]]:
        """Return trial and epoch of each committed report, read as another program would."""
        try:
            path = self.folder / "runs" / self.name / "sweep.db"
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
                return set(db.execute("SELECT trial, epoch FROM reports"))
        except sqlite3.OperationalError:
            return set()

    def wait_for_reports(self, more: int) -> float | None:
        """Return the seconds until `more` new reports are recorded; None if the sweep ends."""
        began, first = time.monotonic(), len(self.reports())
        while len(self.reports()) < first + more:
            if not self.running():
                return None
            time.sleep(0.01)
        return time.monotonic() - began

    def content(self) -> dict[str, list[dict[str, Any]]]:
        """Return the tables of the run without times and attempts."""
        rows = {}
        for table in ("trials", "curves"):
            path = self.folder / "runs" / self.name / f"{table}.parquet"
            read = tables.read(path, table).to_pylist()
            kept = [row for row in read if not row.get("superseded")]
            rows[table] = [{k: v for k, v in row.items() if k not in PASSING} for row in kept]
        rows["curves"].sort(key=lambda row: (row["trial_key"], row["epoch"]))
        return rows

    def rungs_replay(self) -> bool:
        """Return whether each recorded decision follows from the reports before it."""
        with Record.open(self.folder / "runs", self.name) as record:
            rungs = StoppingRungs(grace=1, factor=3, limit=9)
            return all(
                rungs.judge(r.trial, r.used, r.value).decision == r.decision
                for r in record.reports()
                if r.decision is not None
            )


def left_over(processes: Sequence[psutil.Process], seconds: float) -> list[str]:
    """Return the names of those processes that are still alive after so many seconds."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return [process.name() for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def kills(folder: Path, wanted: int) -> dict[str, Any]:
    """Kill sweeps `wanted` times at random moments, and resume each to its end."""
    whole = Sweep(folder, "whole")
    whole.start()
    code, said = whole.end()
    if code:
        raise RuntimeError(said)
    draw = random.Random(0)
    lost: list[int] = []
    repeated: list[int] = []
    seconds: list[float] = []
    orphans: list[str] = []
    rungs = replayed = equal = sweeps = 0
    while len(lost) < wanted:
        sweep, marks = Sweep(folder, f"killed-{sweeps}"), [0]
        sweeps += 1
        while True:
            sweep.start()
            first = sweep.wait_for_reports(1)
            if len(marks) > 1 and first is not None:
                seconds.append(first)
            sweep.wait_for_reports(draw.randint(1, 12))
            time.sleep(draw.uniform(0, 0.1))
            if len(lost) == wanted or not sweep.running():
                break
            before = sweep.reports()
            below = sweep.kill(tree=draw.random() < 0.5)
            marks.append(len(sweep.began.read_text().splitlines()))
            lost.append(len(before - sweep.reports()))
            orphans += left_over(below, 30)
            rungs += sweep.rungs_replay()
            print(f"kill {len(lost)}: {lost[-1]} reports lost, left over: {orphans}", flush=True)
        code, said = sweep.end()
        if code:
            raise RuntimeError(said)
        replayed += sweep.rungs_replay()
        equal += sweep.content() == whole.content()
        began = sweep.began.read_text().splitlines()
        for mark, end in itertools.pairwise([*marks[1:], len(began)]):
            repeated.append(len({*began[:mark]} & {*began[mark:end]}))
    n = len(lost)
    return {
        "committed reports lost per kill": _figure(f"{mean(lost):g} (worst {max(lost)})", n),
        "epochs begun again per kill": _figure(f"{mean(repeated):.2g} (worst {max(repeated)})", n),
        "kills after which the rungs equal a replay of the record": _figure(rungs, n),
        "resumed sweeps whose rungs equal a replay of the record at their end": _figure(
            f"{replayed} of {sweeps}", sweeps
        ),
        "resumed sweeps with the tables of one never killed": _figure(
            f"{equal} of {sweeps}", sweeps
        ),
        "seconds from resume to the first new report": _figure(
            f"median {median(seconds):.1f}, worst {max(seconds):.1f}", len(seconds)
        ),
        "processes left 30 s after a kill": _figure(len(orphans), n),
    }


def nodes() -> list[str]:
    """Return the tests to run: `FILES`, and the named tests in other files.

    Raises:
        LookupError: A test does not exist, or is in two files.
    """
    texts = {
        str(p.relative_to(ROOT)): p.read_text()
        for p in sorted((ROOT / "tests").rglob("test_*.py"))
    }
    found = dict.fromkeys(FILES)
    for test in (CUTS, *itertools.chain(*PASSED.values())):
        places = [file for file, text in texts.items() if f"\ndef {test}(" in text]
        if len(places) != 1:
            raise LookupError(f"{test} is in {places or 'no file of tests/'}; name it anew")
        if places[0] not in FILES:
            found[f"{places[0]}::{test}"] = None
    return [*found]


def counted() -> dict[str, Any]:
    """Run the tests of faults, which must all pass, and return their counts."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-o", "junit_family=xunit1"]
        subprocess.run([*command, f"--junitxml={report}", *nodes()], cwd=ROOT, check=True)
        cases = [*ElementTree.parse(report).iter("testcase")]
    told: dict[str, list[tuple[int, int]]] = {}
    for case in cases:
        for counted in case.iter("property"):
            value, _, n = counted.attrib["value"].partition(" of ")
            told.setdefault(counted.attrib["name"], []).append((int(value), int(n)))
    # The counts of a test with several cases are added.
    figures = {name: _figure(*map(sum, zip(*of, strict=True))) for name, of in told.items()}
    for name, tests in PASSED.items():
        n = passed(cases, tests)
        figures[name] = _figure(n, n)
    return figures


def passed(cases: Sequence[ElementTree.Element], tests: Sequence[str]) -> int:
    """Return how many cases of these tests ran, without skipped ones. None has failed."""
    return sum(
        case.attrib["name"].partition("[")[0] in tests and case.find("skipped") is None
        for case in cases
    )


def _figure(value: object, n: int) -> dict[str, Any]:
    return {"value": str(value), "n": n}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark with the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args(arguments)
    about = environment("torch", "ray", "optuna", "pyarrow")
    with tempfile.TemporaryDirectory() as folder:
        figures = kills(Path(folder), chosen.kills)
    figures |= counted()
    for name, figure in figures.items():
        print(f"{name}: {figure['value']}, n = {figure['n']}")
    if chosen.json:
        results = {"environment": about, "figures": figures}
        chosen.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
