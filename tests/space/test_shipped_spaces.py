"""The spaces that are shipped: they fit the schema, load without a warning and plan."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
from toy_space import same

import samtune
from samtune.optimizers import VARIANTS
from samtune.space import strict_yaml
from samtune.space.search_space import Range, SearchSpace, SpaceError, shipped, space_schema
from samtune.views.plan import plan, plan_text
from trainables.models import check_name

pytestmark = pytest.mark.usefixtures("in_folder")


@pytest.mark.parametrize("name", [*shipped(), "common", "thrifty"])
def test_shipped_files_fit_the_schema(name: str) -> None:
    path = Path(samtune.__file__).parent.parent / "search_spaces" / f"{name}.yaml"
    plain = strict_yaml.load(path.read_bytes(), name).plain()
    schema = space_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(plain, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**plain, "knobs": {"lr": {"chioce": [1]}}}, schema)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_shipped_spaces_load_without_a_warning(name: str) -> None:
    space = SearchSpace.load(name)
    assert space.warnings == []
    assert (space.name, space.variant) == (name, name)
    assert space.task["dataset"] == "digits"
    assert space.search.first == ["default"]
    assert same(SearchSpace.from_text(space.text, name, "space.yaml"), space)
    for knob, domain in space.knobs.items():
        if isinstance(domain, Range):
            assert space.origin[f"knobs.{knob}.default"].startswith(str(shipped()[name].parent))


PAPERS = {
    *("cifar10_resnet18", "cifar10_wrn28_10", "cifar10_pyramidnet"),
    *("cifar100_resnet18", "cifar100_wrn28_10", "cifar100_pyramidnet"),
    *("tinyimagenet_resnet18", "imagenet_resnet50", "imagenet_vit_small"),
}


def test_every_setting_of_papers_is_shipped_and_examined() -> None:
    assert set(shipped()) - set(VARIANTS) == PAPERS


@pytest.mark.parametrize("name", sorted(PAPERS))
def test_settings_of_papers_load_and_plan(name: str) -> None:
    space = SearchSpace.load(name)
    assert space.warnings == []
    assert (space.name, space.variant, space.resources.gpus) == (name, "sam", 1)
    assert space.task["dataset"] == name.split("_")[0]
    assert space.task["label_noise"] == 0 and space.task["compile"] is True
    check_name(str(space.task["model"]))
    assert same(SearchSpace.from_text(space.text, name, "space.yaml"), space)
    planned = plan(space)
    # At least two rungs, and a search that costs less than half of what it would without them.
    assert len(planned["rungs"]) >= 2
    assert 0 < planned["see_expected"] < planned["budget_at_most"] / 2
    assert f"{planned['budget_per_trial']:g} see" in plan_text(planned)


def test_variants_are_compared_on_another_spaces_setting() -> None:
    setting = SearchSpace.load("cifar100_wrn28_10")
    for name in ("sgd", "asam", "gsam"):
        own = SearchSpace.load(name)
        space = SearchSpace.load(name, on="cifar100_wrn28_10")
        assert (space.name, space.variant, space.knobs) == (name, own.variant, own.knobs)
        assert space.task == setting.task and space.budget == setting.budget
        assert space.asha == setting.asha and space.resources == setting.resources
        assert space.origin["task.dataset"].startswith(str(shipped()["cifar100_wrn28_10"]))
    assert SearchSpace.load("asam", ["budget.trials=3"], "cifar100_wrn28_10").budget.trials == 3
    with pytest.raises(SpaceError, match="did you mean 'cifar10_resnet18'"):
        SearchSpace.load("asam", on="cifar10_resnet")


def test_a_plan_says_what_each_rung_costs() -> None:
    planned = plan(SearchSpace.load("sgd", ["budget.trials=24"]))
    assert planned["rungs_cost"] == [
        {"until": 8, "trials": 24, "budget": 192},
        {"until": 16, "trials": 12, "budget": 96},
        {"until": 20, "trials": 6, "budget": 24},
    ]
    assert planned["budget_expected"] == 312
    line = "24 trials to 8 use 192 see, 12 trials to 16 use 96 see, 6 trials to 20 use 24 see"
    assert line in plan_text(planned)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("{min: 1000000000001, max: 1000000000005}", "int 1000000000001 .. 1000000000005"),
        ("{min: 8, max: 64, step: 8, scale: log}", "log int 8 .. 64 by 8"),
    ],
)
def test_a_plan_writes_whole_numbers_with_all_their_digits(words: str, text: str) -> None:
    Path("case.yaml").write_text(f"samtune: 1\ntrainable: sam\nknobs: {{m: {words}}}\n")
    assert plan(SearchSpace.load("case.yaml"))["knobs"]["m"]["domain"] == text


def test_a_plan_shows_a_normal_distribution() -> None:
    Path("case.yaml").write_text(
        "samtune: 1\ntrainable: sam\nknobs: {lr: {mean: 0.1, sd: 0.02}}\n"
    )
    assert plan(SearchSpace.load("case.yaml"))["knobs"]["lr"]["domain"] == (
        "normal 0.1 +- 0.02, 0.02 .. 0.18"
    )
