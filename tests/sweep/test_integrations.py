"""Files of a sweep for other tools, read back with the readers or servers of those tools."""

from __future__ import annotations

import importlib.util
import json
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from lab_run import SPACE, add, make_run

from samtune.cli import main
from samtune.record.record import Record
from samtune.record.rows import Verdict
from samtune.space.search_space import SearchSpace
from samtune.sweep.loggers import LOGGERS
from samtune.sweep.observers import observers
from samtune.trial import Seeds, TrialConfig

MAIN = "from samtune.cli import main; main()"
LAB = """
import json
import samtune

def quick(config):
    for epoch in range(1, 4):
        samtune.report(epoch=epoch, val_acc=config.knobs["lr"] + epoch / 100, see=epoch)

def heard(report):
    with open("heard.jsonl", "a") as file:
        print(json.dumps(report), file=file)
    raise KeyError("the dashboard is down")
"""


@pytest.fixture
def record(runs: Path) -> Record:
    return make_run(runs)


def fetched(url: str, server: subprocess.Popen[str]) -> Any:
    """Return the page when the server answers; JSON is parsed."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as page:
                assert page.status == 200
                text = page.read().decode()
                return json.loads(text) if "json" in page.headers["Content-Type"] else text
        except (urllib.error.URLError, ConnectionError):
            assert server.poll() is None and time.monotonic() < deadline, "no answer"
            time.sleep(0.1)


def test_optuna_dashboard_opens_an_exported_run(record: Record, tmp_path: Path) -> None:
    add(record, 0, [0.11, 0.12, 0.13], "completed")
    add(record, 1, [0.21], "pruned")
    add(record, 2, [0.3, float("nan")], "diverged")
    add(record, 3, [], "error")
    add(record, 4, [0.2, 0.25], None)
    journal = tmp_path / "study.journal"
    words = ["export", "mine", "--optuna", str(journal), "--runs", str(record.folder.parent)]
    with record.lock(), pytest.raises(SystemExit) as ended:
        main(words)
    assert not ended.value.code
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dashboard = "import sys; from optuna_dashboard._cli import main; sys.exit(main())"
    server = subprocess.Popen(
        [sys.executable, "-c", dashboard, str(journal), "--port", str(port), "--quiet"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        here = f"http://127.0.0.1:{port}"
        assert "<html" in fetched(f"{here}/dashboard", server).lower()
        (study,) = fetched(f"{here}/api/studies", server)["study_summaries"]
        assert study["study_name"] == "lab"
        told = fetched(f"{here}/api/studies/{study['study_id']}", server)
    finally:
        server.terminate()
        server.wait(30)
    trials = {trial["number"]: trial for trial in told["trials"]}
    states = [trials[number]["state"].upper() for number in range(5)]
    assert states == ["COMPLETE", "PRUNED", "PRUNED", "FAIL", "RUNNING"]
    curves = [
        [(each["step"], each["value"]) for each in trials[number]["intermediate_values"]]
        for number in range(5)
    ]
    assert curves[0] == [(1, 0.11), (2, 0.12), (3, 0.13)] and curves[1] == [(1, 0.21)]
    assert curves[2] == [(1, 0.3)] and curves[3] == []
    assert trials[0]["values"] == [0.13]
    knobs = {each["name"]: each["param_external_value"] for each in trials[0]["params"]}
    assert float(knobs["lr"]) == 0.1 and set(knobs) == {"kind", "lr"}


@pytest.mark.slow
def test_loggers_and_a_hook_hear_all_of_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real `samtune run` uses all loggers at once, and each one's own reader reads its files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    Path("lab.py").write_text(LAB)
    Path("lab.yaml").write_text(SPACE)
    words = ["run", "lab.yaml", "--log", "tensorboard", "--log", "wandb", "--log", "mlflow"]
    run = subprocess.run(
        [sys.executable, "-c", MAIN, *words, "--hook", "lab:heard"],
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    assert run.stderr.count("the dashboard is down") == 1
    folder = Path("runs/lab")
    # Read before the readers, which write: nothing lies elsewhere.
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {
        *("lab.py", "lab.yaml", "heard.jsonl", "runs")
    }
    with Record.open(Path("runs"), "lab", read_only=True) as record:
        failed = [event for event in record.events() if event["kind"] == "observer failed"]
        reports = list(record.reports())
        curve = {
            trial.number: [r.value for r in reports if r.trial == trial.trial]
            for trial in record.trials(stage="search")
        }
    assert (
        len(failed) == 1
        and "KeyError" in failed[0]["detail"]
        and failed[0]["trial"] == reports[0].trial
    )
    heard = [json.loads(line) for line in Path("heard.jsonl").read_text().splitlines()]
    assert [one["metrics"]["val_acc"] for one in heard] == [report.value for report in reports]
    assert [one["decision"] for one in heard] == [report.decision for report in reports]
    assert heard[0]["run"] == heard[0]["space"] == "lab" and heard[0]["stage"] == "search"
    assert heard[0]["knobs"] == {"lr": 0.1, "kind": "plain", "momentum": 0.9}
    assert heard[-1]["stage"] == "confirm" and len(curve) == 3
    check_tensorboard(folder / "tensorboard", curve)
    check_wandb(folder / "wandb", curve)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    check_mlflow(folder / "mlflow", curve)


def check_tensorboard(folder: Path, curve: Mapping[int, list[float]]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    names = {f"lab-{number:05d}" for number in curve}
    assert {path.name for path in folder.iterdir()} == {*names, "lab-repeat-00001"}
    for number, values in curve.items():
        events = EventAccumulator(str(folder / f"lab-{number:05d}"))
        events.Reload()
        scalars = events.Scalars("val_acc")
        assert [scalar.step for scalar in scalars] == list(range(1, len(values) + 1))
        assert [scalar.value for scalar in scalars] == pytest.approx(values)


def check_wandb(folder: Path, curve: Mapping[int, list[float]]) -> None:
    found, knobs = {}, {}
    for path in folder.glob("offline-run-*/run-*.wandb"):
        records = list(wandb_records(path.read_bytes()))
        (run,) = (record.run for record in records if record.HasField("run"))
        knobs[run.display_name] = {item.key: item.value_json for item in run.config.update}
        found[run.display_name] = [
            json.loads(item.value_json)
            for record in records
            for item in record.history.item
            if "val_acc" in {item.key, *item.nested_key}
        ]
        assert records[-1].exit.exit_code == 0
    assert {name: found[name] for name in found if "repeat" not in name} == {
        f"lab-{number:05d}": values for number, values in curve.items()
    }
    assert "lab-repeat-00001" in found and knobs["lab-00001"]["lr"] == "0.2"


def wandb_records(data: bytes) -> Iterator[Any]:
    """The records of a run's file, a LevelDB log: blocks of 32 KiB with pieces that begin with
    4 bytes of checksum, 2 of length and 1 that is 1 or 4 where a record ends."""
    from wandb.proto.wandb_internal_pb2 import Record as WandbRecord

    assert data.startswith(b":W&B")
    position, whole = 7, b""
    while position + 7 <= len(data):
        room = 32768 - position % 32768
        if room < 7:
            position += room
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        whole += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in {1, 4}:
            yield WandbRecord.FromString(whole)
            whole = b""


def check_mlflow(folder: Path, curve: Mapping[int, list[float]]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=folder.absolute().as_uri())
    experiment = client.get_experiment_by_name("lab")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {*(f"lab-{number:05d}" for number in curve), "lab-repeat-00001"}
    for number, values in curve.items():
        run = runs[f"lab-{number:05d}"]
        history = client.get_metric_history(run.info.run_id, "val_acc")
        assert [point.value for point in sorted(history, key=lambda p: p.step)] == values
        assert run.info.status == "FINISHED" and run.data.params["momentum"] == "0.9"


def test_a_missing_package_or_hook_stops_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lab_hooks.py").write_text("def heard(report): ...\n")
    Path("lab_broken.py").write_text("import nowhere\n")
    Path("lab_exits.py").write_text("import sys\nsys.exit(0)\n")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "wandb" else found(name)
    )
    for words, hint in {
        ("--log", "wandb"): "pip install 'samtune[wandb]'",
        ("--log", "comet"): "'tensorboard', 'wandb', 'mlflow'",
        ("--hook", "lab_hooks:hear"): "no function 'hear'; did you mean 'heard'?",
        ("--hook", "lab_hook:heard"): "no module 'lab_hook' in ",
        ("--hook", "lab_broken:heard"): "No module named 'nowhere'",
        ("--hook", "lab_hooks"): "write my_package.my_module:function",
        ("--hook", "lab_exits:heard"): "module lab_exits cannot be imported: ",
        ("--hook", "lab_exits:hear"): "it called sys.exit(0)",
    }.items():
        with pytest.raises(SystemExit) as ended:
            main(["run", "sgd", *words])
        err = capsys.readouterr().err
        assert ended.value.code == 2 and hint in err and "Traceback" not in err
    assert not Path("runs").exists()


def test_extras_name_what_the_loggers_need() -> None:
    import tomllib

    project = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    for name, logger in LOGGERS.items():
        assert any(logger.package.lower() in wanted.lower() for wanted in extras[name])
    assert any("optuna-dashboard" in wanted for wanted in extras["dashboard"])


def test_a_paused_trial_goes_on_in_its_tracker_and_300_knobs_are_taken(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each tracker's own reader reads the driver's events, which come without a sweep here."""
    space = SearchSpace.from_text(SPACE, "lab", "lab")
    knobs = {f"knob_{k}": k / 7 for k in range(299)} | {"text": "x" * 9000}
    config = TrialConfig(
        **{"trainable": "lab:quick", "variant": "quick", "base": "none", "task": {}},
        **{"knobs": knobs, "budget": space.trial_budget, "seeds": Seeds(1, 1, 1)},
    )
    trial = record.add_trial(0, "search", 0, "grid", config)
    told: list[str] = []

    def report(epoch: int) -> dict[str, Any]:
        return {"epoch": epoch, "used": epoch, "metrics": {"val_acc": epoch / 10, "odd": 2**70}}

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for attempt, epochs in enumerate([(1, 2), (3,)]):
        # A sweep that was stopped and resumed, and a pause within each.
        with observers(record, ["tensorboard", "mlflow"], None, told.append) as trackers:
            trackers.started(trial, attempt)
            for epoch in epochs:
                trackers.reported(trial, attempt, report(epoch), Verdict("continue"))
            trackers.ended(trial, "paused")
        with observers(record, ["tensorboard", "mlflow"], None, told.append) as trackers:
            trackers.started(trial, attempt)
    assert not told
    curve = {0: [0.1, 0.2, 0.3]}
    from mlflow import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(record.folder / "tensorboard" / "lab-00000"))
    events.Reload()
    # Files that were begun in the same second are read in any order; a chart goes by the step.
    used = sorted(events.Scalars("used"), key=lambda scalar: scalar.step)
    assert [scalar.value for scalar in used][:3] == [1, 2, 3]
    client = MlflowClient(tracking_uri=(record.folder / "mlflow").as_uri())
    experiment = client.get_experiment_by_name(record.name)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "val_acc")
    assert [point.value for point in sorted(history, key=lambda p: p.step)] == curve[0]
    assert len(run.data.params) == 300 and run.info.status == "KILLED"
