"""Study files: their members, their seeds, and what is wrong in one."""

from __future__ import annotations

from pathlib import Path

import pytest

from samtune.api.spaces import resolved
from samtune.search.proposals import Proposals
from samtune.space.errors import SpaceError
from samtune.space.files import shipped, shipped_studies
from samtune.space.search_space import SearchSpace
from samtune.space.study import is_study, members
from samtune.views.plan import plans, plans_text

STUDY = """
samtune: 1
study:
  spaces: [sgd, sam]
  tasks: {clean: {label_noise: 0.0}, noisy: {label_noise: 0.4}}
  budgets: [4, 6]
  searches: 3
  defaults: true
  doubled: [sgd]
budget: {trials: 21}
confirm: {seeds: 2}
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(STUDY)
    return path


def by_name(spaces: list[SearchSpace]) -> dict[str, SearchSpace]:
    assert len({space.name for space in spaces}) == len(spaces)
    return {space.name: space for space in spaces}


def test_a_study_has_a_member_per_task_budget_row_and_search(study: Path) -> None:
    found = members(study)
    spaces = by_name(found)
    # 2 tasks x 2 budgets x (2 spaces, 2 defaults, 1 doubled) x 3 searches.
    assert len(spaces) == 60
    assert [space.member.search for space in found] == sorted(s.member.search for s in found)
    assert "noisy.6.sam.2" in spaces and "clean.4.sgd-2x" in spaces
    sam = spaces["noisy.6.sam.2"]
    assert sam.row == "sam" and sam.member.task == "noisy" and sam.member.study == "small"
    assert sam.task["label_noise"] == 0.4 and sam.budget.per_trial == 6
    assert (sam.budget.trials, sam.confirm.seeds) == (21, 2)
    twice = spaces["clean.4.sgd-2x"]
    assert twice.budget.per_trial == 8 and twice.asha.grace == 16
    assert {space.confirm.seeds for space in found} == {2}


def test_searches_differ_in_their_seeds_alone(study: Path) -> None:
    spaces = by_name(members(study))
    first, third = spaces["clean.4.sam"], spaces["clean.4.sam.2"]
    assert third.search.seed == first.search.seed + 2
    assert third.task["split_seed"] == first.task["split_seed"] + 2
    assert third.trial_task == first.trial_task and third.knobs == first.knobs
    # A search of the same number is the same for all variants: its runs are paired.
    assert spaces["clean.4.sgd.2"].search.seed == third.search.seed


def test_the_row_of_the_defaults_tries_them_alone(study: Path) -> None:
    space = by_name(members(study))["clean.4.sam-default.1"]
    proposals = Proposals(space)
    first = proposals.ask()
    assert first is not None and proposals.total == 1
    assert first.origin == "default" and first.knobs == space.default()


def test_a_member_is_read_back_from_its_frozen_text(study: Path) -> None:
    for space in members(study)[:7]:
        again = SearchSpace.from_text(space.text, space.name, "frozen")
        assert again.text == space.text and again.member == space.member


def test_values_are_set_in_the_study_and_in_every_member(study: Path) -> None:
    words = ["study.searches=1", "study.defaults=false", "budget.trials=30", "lr.max=0.2"]
    found = members(study, words)
    assert len(found) == 12
    assert {space.budget.trials for space in found} == {30}
    assert {space.knobs["lr"].high for space in found} == {0.2}


def test_a_study_takes_its_setting_from_another_space(study: Path) -> None:
    words = ["study.searches=1", "study.budgets=[5]", "study.tasks={}"]
    found = members(study, words, on="cifar10_resnet18")
    assert {space.task["model"] for space in found} == {"resnet18"}


@pytest.mark.parametrize("name", sorted(shipped_studies()))
def test_every_shipped_study_is_right(name: str) -> None:
    assert is_study(f"studies/{name}") and is_study(f"search_spaces/studies/{name}.yaml")
    found = resolved([f"studies/{name}"])
    assert {space.member.study for space in found} == {name}
    assert {space.member.baseline for space in found} == {"sgd"}


def test_the_digits_study_has_every_shipped_variant() -> None:
    spaces = {space.row for space in members("studies/digits", ["study.searches=1"])}
    settings = {name for name in shipped() if "_resnet" in name or "_wrn" in name}
    settings |= {name for name in shipped() if "_pyramidnet" in name or "_vit_" in name}
    variants = {name for name in shipped() if name not in settings}
    assert variants <= spaces


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("spaces: [sgd, sam]", "spaces: [sgd, asma]", "did you mean 'asam'?"),
        ("searches: 3", "serches: 3", "small.yaml:7:3: 'serches' is not a known word here; did"),
        ("doubled: [sgd]", "doubled: [sdg]", "study.doubled: no space 'sdg'; did you mean 'sgd'?"),
        ("  defaults: true", "  baseline: sga", "study.baseline: no such space; did you mean"),
        ("budget: {trials: 21}", "budgets: {trials: 21}", "a study has no word 'budgets'"),
        ("label_noise: 0.0", "label_nois: 0.0", "did you mean 'label_noise'?"),
        ("searches: 3", "searches: 0", "must be at least 1, not 0"),
    ],
)
def test_what_is_wrong_in_a_study_is_said(
    study: Path, before: str, after: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(study.parent)
    study.write_text(STUDY.replace(before, after))
    with pytest.raises(SpaceError) as caught:
        members("small.yaml")
    assert any(said in message for message in caught.value.messages), caught.value.messages


def test_the_plan_of_a_study_is_a_line_per_row(study: Path) -> None:
    text = plans_text(plans(members(study)))
    assert text.startswith("study small: 60 searches of 20 rows, 780 trials\n")
    assert "  noisy.6.sam " in text and "3 x 21 trials of at most 6 see" in text
    assert text.count("\n") < 30


def test_a_study_is_not_a_space(study: Path) -> None:
    assert not is_study("sam") and not is_study({"study": 1}) and is_study(study)
    with pytest.raises(SpaceError):
        SearchSpace.load(study)
