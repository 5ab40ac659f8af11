"""An existing run gains spaces and trials, and does nothing again that it has done."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import samtune
from samtune.api import training
from samtune.api.frozen import frozen_spaces, study_row
from samtune.cli import main
from samtune.record.reader import Reader
from samtune.record.record import Record

pytestmark = pytest.mark.slow

KNOBS = {"x": {"min": 0.0, "max": 1.0}, "y": {"min": 0.0, "max": 1.0}}


def hill(config: samtune.TrialConfig) -> None:
    """Report the height at (x, y), of which 0.3 and 0.6 are best."""
    x, y = float(config.knobs["x"]), float(config.knobs["y"])
    for epoch in (1, 2):
        score = 1 - (x - 0.3) ** 2 - (y - 0.6) ** 2 - 0.1 / epoch
        test = {"test_f1": score} if config.test_permit else {}
        samtune.report(epoch=epoch, f1=score, **test)


def valley(config: samtune.TrialConfig) -> None:
    """Report what `hill` does, upside down."""
    test = {"test_f1": 0.0} if config.test_permit else {}
    samtune.report(epoch=2, f1=-float(config.knobs["x"]), **test)


def space(trials: int = 3, **words: Any) -> samtune.Space:
    given = {
        **{"trainable": hill, "knobs": KNOBS, "metric": "f1", "mode": "max"},
        **{"budget": {"kind": "epochs", "per_trial": 2, "trials": trials}},
        **{"search": {"method": "tpe", "seed": 4, "sobol": 2}, "asha": {"grace": 1}},
        **{"resources": {"parallel": 1}, "confirm": {"seeds": 1}},
    }
    return samtune.Space(**{**given, **words})


@pytest.fixture
def first(here: Path, monkeypatch: pytest.MonkeyPatch) -> samtune.Run:
    """A run of which nothing has been tried yet, made without a Ray."""
    text = "samtune: 1\ntrainable: sgd\nknobs: {lr: {min: 0.01, max: 0.1}}\nbudget: {trials: 4}\n"
    (here / "own.yaml").write_text(text + "resources: {parallel: 1}\n")
    loaded = samtune.api.spaces.resolved(["own.yaml"])
    studies = [study_row(each, 4) for each in loaded]
    ranges = json.loads(studies[0]["settings"])["ranges"]
    assert ranges["lr"] == [0.01, 0.1, "linear"] and "momentum" not in ranges
    Record.create(Path("runs"), "first", studies, {"confirm": False}).__exit__()
    return samtune.load("first")


def knobs(record: Reader, study: int = 0) -> list[Any]:
    return [trial.config.knobs for trial in record.trials(study=study, stage="search")]


def typed(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def opened(name: str) -> Record:
    return Record.open(Path("runs"), name, read_only=True)


def test_a_grown_run_is_the_run_that_was_begun_so(here: Path) -> None:
    run = samtune.run(space(3), name="grown", progress=False)
    with opened("grown") as record:
        before = [(trial.key, trial.state) for trial in record.trials()]
    assert run.add(set={"budget.trials": 6}, progress=False).exit_code == 0
    whole = samtune.run(space(6), name="whole", confirm=False, progress=False)
    with opened("grown") as record, opened("whole") as other:
        record.verify()
        assert [(trial.key, trial.state) for trial in record.trials()][: len(before)] == before
        assert knobs(record) == knobs(other) and len(knobs(record)) == 6
        assert [s.sha256 for s in record.studies()] == [s.sha256 for s in other.studies()]
        assert Path("runs/grown/space.yaml").read_text() == record.studies()[0].space
        kinds = [event["kind"] for event in record.events()]
        assert kinds.count("grown") == 1 and "replay differs" not in kinds
        assert all(len(list(record.reports(trial=t.trial))) <= 2 for t in record.trials())
    assert whole.status()["finished"] and run.status()["finished"]
    assert run.leaderboard["trials"].tolist() == [6]


def test_a_variant_is_added_with_the_setting_of_the_run(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = samtune.run(space(2), name="first", progress=False)
    other = {"trainable": valley, "knobs": {"x": {"min": 0, "max": 1.0}}}
    assert run.add(other, progress=False).exit_code == 0
    assert "first grows: valley with 2 trials" in capsys.readouterr().err
    assert run.leaderboard["space"].tolist() == ["hill", "valley"]
    assert run.repeats.groupby("space").size().tolist() == [1, 1]
    assert run.trials.groupby("space").size().tolist() == [2, 2]
    texts = {path.name: path.read_text() for path in run.folder.glob("space*.yaml")}
    with opened("first") as record:
        assert texts == {f"space.{s.name}.yaml": s.space for s in record.studies()}
        trials = [trial.trial for trial in record.trials()]
    run.add(other, progress=False)
    assert "nothing is left to do in first" in capsys.readouterr().err
    with opened("first") as record:
        assert [trial.trial for trial in record.trials()] == trials


def test_a_resume_without_confirmation_ends_with_the_search(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = samtune.api.spaces.resolved([space(1)])
    studies = [study_row(each, 1) for each in loaded]
    Record.create(Path("runs"), "first", studies, {"confirm": True}).__exit__()
    assert typed("resume", "first", "--no-confirm", "--quiet") == 0
    run = samtune.load("first")
    assert len(run.trials) == 1 and run.repeats.empty
    run.resume(progress=False)
    assert "nothing is left to do in first" in capsys.readouterr().err
    assert len(run.confirm(progress=False).repeats) == 1


def test_a_growth_that_is_cut_short_is_resumed(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = samtune.run(space(1), name="first", confirm=False, progress=False)

    class KilledError(Exception):
        pass

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(training, "_to_the_end", killed)
        with pytest.raises(KilledError):
            run.add(set={"budget.trials": 2})
    assert not run.status()["finished"]
    assert run.resume(progress=False).exit_code == 0
    assert len(run.trials) == 2 and run.status()["finished"]
    assert run.repeats.empty, "a run that was begun without confirmation stays so"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["first"], "`samtune resume first` continues it, and `samtune run first --add SPACE`"),
        (["first", "--set", "lr.max=0.3"], "only budget.trials can change in it, not lr.max"),
        (["first", "--add", "sam", "--set", "task.model=x"], "not task.model"),
        (["first", "--set", "budget.trials=0"], "budget.trials"),
        (["first", "--set", "budget.trials=9", "--name", "b"], "takes no --name"),
        (["first", "--add", "sam", "--on", "cifar10_resnet18", "--dry-run"], "no --on and no"),
        (["first", "sgd", "--add", "sam"], "`samtune run first --add sgd --add sam`"),
        (["firts", "--add", "sam"], "no run 'firts'; runs in "),
        (["first", "--add", "sma"], "did you mean 'sam'?"),
        (["first", "--add", "own.yaml", "--add", "own.yaml"], "two spaces are called 'own'"),
    ],
)
def test_what_a_run_cannot_gain_is_refused_in_a_sentence(
    first: samtune.Run, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (first.folder / "space.yaml").read_text()
    assert typed("run", *words) == 2
    assert sentence in capsys.readouterr().err
    assert (first.folder / "space.yaml").read_text() == before
    with opened("first") as record:
        assert [event["kind"] for event in record.events()] == []


def test_fewer_trials_than_were_tried_are_refused(first: samtune.Run) -> None:
    with Record.open(Path("runs"), "first") as record:
        (frozen,) = frozen_spaces(record)
        for number in range(3):
            trial = samtune.TrialConfig(
                frozen.trainable, "sgd", "sgd", {"lr": 0.05}, {}, frozen.trial_budget,
                samtune.trial.Seeds(1, 1, 1),
            )  # fmt: skip
            record.add_trial(0, "search", number, "sampled", trial)
    with pytest.raises(samtune.SamtuneError, match="has tried 3 configurations"):
        first.add(set={"budget.trials": 2})


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        ("asha.rescue=1", "asha.rescue"),
        ("asha.mode=promote", "asha.mode promote"),
        ("asha.mode=halving", "asha.mode halving"),
    ],
)
def test_rungs_that_are_made_for_all_trials_gain_none(here: Path, rule: str, named: str) -> None:
    texts = ["budget.trials=4", "search.method=random", rule]
    loaded = samtune.api.spaces.resolved(["sgd"], texts)
    studies = [study_row(each, 4) for each in loaded]
    Record.create(Path("runs"), "whole", studies, {"confirm": False}).__exit__()
    with pytest.raises(samtune.SamtuneError, match=f"has {named}, whose rungs .* 4 trials"):
        samtune.load("whole").add(set={"budget.trials": 8})
    with opened("whole") as record:
        assert [each.text for each in frozen_spaces(record)] == [each.text for each in loaded]


def test_a_word_is_a_space_before_it_is_a_run(
    first: samtune.Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first.folder.rename(first.folder.with_name("sgd"))
    seen: list[tuple[str, Any]] = []

    def record(kind: str) -> Callable[..., samtune.Run]:
        def called(*words: Any, **_: Any) -> samtune.Run:
            seen.append((kind, words[0].name if isinstance(words[0], samtune.Run) else words[0]))
            return samtune.load("sgd")

        return called

    monkeypatch.setattr(samtune, "run", record("run"))
    monkeypatch.setattr(samtune.Run, "add", record("add"))
    monkeypatch.setattr("samtune.commands.run._say_all", lambda *_: None)
    assert typed("run", "sgd", "--set", "budget.trials=9") == 0
    assert "`samtune run runs/sgd ...` adds trials to that run" in capsys.readouterr().err
    assert typed("run", "runs/sgd", "--set", "budget.trials=9") == 0
    assert typed("run", "sgd", "--add", "sam") == 0
    assert seen == [("run", "sgd"), ("add", "sgd"), ("add", "sgd")]


def test_a_run_that_exists_is_not_told_to_set_what_it_keeps(
    first: samtune.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The advice must not be `--set`, which `samtune resume` does not take."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(training, "frozen_spaces", lambda record: [on_gpu])
    on_gpu = samtune.api.spaces.resolved(["sgd"], {"resources.gpus": 1})[0]
    with pytest.raises(samtune.SamtuneError, match="new run: first keeps its settings") as caught:
        first.resume(progress=False)
    assert "--set resources.gpus=0, in a new run" in str(caught.value)
    with pytest.raises(samtune.SamtuneError) as caught:
        samtune.run("sgd", name="new", set={"resources.gpus": 1}, progress=False)
    assert str(caught.value).endswith("--set resources.gpus=0")
