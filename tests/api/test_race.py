"""Studies through real Ray, and their race: who is left out, and that nothing is done twice."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

import samtune
from samtune.api.race import active, left_out
from samtune.record.record import Record
from samtune.space.search_space import SearchSpace

pytestmark = pytest.mark.slow

LAB = '''
import samtune

def line(config, slope):
    """Report a score that falls with x and with the slope, and a little with the seed."""
    noise = config.seeds.split % 7 / 1000
    score = 1 - slope - 0.1 * float(config.knobs["x"]) - noise
    test = {"test_f1": score} if config.test_permit else {}
    samtune.report(epoch=1, f1=score, **test)

def good(config):
    line(config, 0.1)

def fair(config):
    line(config, 0.2)

def poor(config):
    line(config, 0.5)
'''
SPACE = """
samtune: 1
trainable: lab_of_race:{name}
knobs: {{x: {{min: 0.0, max: 1.0}}}}
"""
STUDY = """
samtune: 1
study: {spaces: [good, fair, poor], searches: 4, baseline: good, race: true, keep: 1}
budget: {kind: epochs, per_trial: 1, trials: 20}
search: {method: random, metric: f1}
select: {top: 2, seeds: 2}
resources: {parallel: 2}
confirm: {seeds: 2}
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "lab_of_race.py").write_text(LAB)
    for name in ("good", "fair", "poor"):
        (tmp_path / f"{name}.yaml").write_text(SPACE.format(name=name))
    (tmp_path / "own.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "own.yaml"


def test_a_row_that_cannot_be_best_is_not_searched_again(study: Path) -> None:
    run = samtune.run("own.yaml", progress=False)
    assert run.name == "own" and run.exit_code == 0
    with Record.open(Path("runs"), "own", read_only=True) as record:
        raced = record.meta("raced")
        rows = {int(k): row for k, row in raced.items()}
        trials = record.counts()
        assert set(rows.values()) == {"fair", "poor"}
        for study_row in record.studies():
            searched = trials.get((study_row.study, "search"), {}).get("completed", 0)
            assert searched == (0 if study_row.study in rows else 20), study_row.name
        kept = [s.settings["search"] for s in record.studies() if s.study not in rows]
        assert sorted(kept) == [0, 0, 0, 1, 2, 3]
        count = len(list(record.trials()))
    assert run.status()["finished"]
    board = run.leaderboard.set_index("space")
    assert set(board["baseline"]) == {"good"}, "the baseline of the study"
    assert board.loc["good", "searches"] == 4 and board.loc["poor", "searches"] < 4
    # The same command again, and with more searches: what is done is not done again.
    assert run.resume(progress=False).exit_code == 0
    with Record.open(Path("runs"), "own", read_only=True) as record:
        assert len(list(record.trials())) == count
        assert record.meta("raced") == raced


def test_a_study_that_gains_searches_adds_them_to_its_run(study: Path) -> None:
    words = ["study.race=false", "budget.trials=2", "study.searches=1"]
    samtune.run("own.yaml", name="grown", set=words, progress=False)
    with Record.open(Path("runs"), "grown", read_only=True) as record:
        first = [(t.key, t.ended_at) for t in record.trials()]
    _begun_before_the_word("grown", "  sharpness: false\n")
    words[-1] = "study.searches=2"
    run = samtune.run("own.yaml", name="grown", set=words, progress=False)
    with Record.open(Path("runs"), "grown", read_only=True) as record:
        assert [(t.key, t.ended_at) for t in record.trials()][: len(first)] == first
        assert len(record.studies()) == 6
        bundles = {t.bundle for t in record.trials(stage="confirm")}
    assert bundles == {0, 1, 100, 101}
    assert run.leaderboard["searches"].tolist() == [2, 2, 2]
    assert run.repeats.groupby(["space", "search"]).size().tolist() == [2] * 6
    other = ["study.race=false", "budget.trials=3", "study.searches=2"]
    with pytest.raises(samtune.SamtuneError, match="exists"):
        samtune.run("own.yaml", name="grown", set=other, progress=False)


def _begun_before_the_word(name: str, word: str) -> None:
    """Make the record of a run such as a samtune left it that did not know the word."""
    with Record.open(Path("runs"), name) as record, record.lock():
        studies = []
        for study in record.studies():
            assert word in study.space
            older = study.space.replace(word, "")
            sha = hashlib.sha256(older.encode()).hexdigest()
            row = {"name": study.name, "variant": study.variant, "base": study.base}
            settings = json.dumps(study.settings)
            studies.append({**row, "space": older, "sha256": sha, "settings": settings})
        record.grow(studies, "made older")


def test_the_rank_sets_decide(study: Path) -> None:
    clear = {"a": [0.9, 0.91, 0.9, 0.92], "b": [0.5, 0.51, 0.5, 0.52], "c": [0.9, 0.9, 0.91, 0.9]}
    assert left_out(clear, keep=2) == {"b"}
    assert left_out(clear, keep=3) == set()
    assert left_out({row: values[:1] for row, values in clear.items()}, keep=1) == set()


def test_without_a_race_all_members_of_a_search_take_part(study: Path) -> None:
    from samtune.api.frozen import study_row
    from samtune.api.spaces import resolved

    spaces: list[SearchSpace] = resolved(["own.yaml"])
    studies = [study_row(space, 20) for space in spaces]
    with Record.create(Path("runs"), "new", studies) as record:
        assert active(record, spaces, 1) == {3, 4, 5}
        assert record.meta("raced") == {}
