"""The example settings of torch-unified-SAM-optimization, and its words."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from samtune.cli import main
from samtune.space import strict_yaml
from samtune.space.files import reference_spaces
from samtune.space.search_space import SearchSpace, SpaceError, resolve, space_schema
from samtune.sweep.search_stage import _config
from samtune.trial import running
from samtune.views.plan import plan

pytestmark = pytest.mark.usefixtures("in_folder")

NAMES = sorted(reference_spaces())
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "from-reference.md"


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_is_one_trial_of_its_command(name: str) -> None:
    plain = strict_yaml.load(reference_spaces()[name].read_bytes(), name).plain()
    jsonschema.validate(plain, space_schema())
    space = SearchSpace.load(name)
    assert space.warnings == [] and f"`{name}`" in PAGE.read_text()
    planned = plan(space)
    assert (planned["trials"], planned["budget_kind"], planned["rungs"]) == (1, "epochs", [])
    assert space.task["label_smoothing"] == 0.1 and space.task["label_noise"] == 0


def test_there_are_eight() -> None:
    assert len(NAMES) == 8


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", NAMES)
def test_a_setting_trains_for_one_short_trial(name: str) -> None:
    small = ["task.dataset=digits", "task.model=small_cnn", "task.train_size=128"]
    small += ["task.warmup=0", "budget.per_trial=1", "asha.grace=1"]
    space = SearchSpace.load(name, small)
    config = dataclasses.replace(_config(space, space.default()), gpus=0)
    sent: list[dict[str, Any]] = []
    with running(config, sent.append):
        resolve(space.trainable)(config)
    (report,) = sent
    assert report["epoch"] == 1 and 0 < report["metrics"]["val_acc"] < 1


@pytest.mark.parametrize(
    ("name", "words", "meant"),
    [
        ("sam", "task.model=wideresnet28", "did you mean 'wrn_28_10'?"),
        ("sam", "task.model=pyramidnet", "did you mean 'pyramidnet_110_270_bottleneck'?"),
        ("bayesian_sam", "knobs.delta=40", "did you mean 'prior_precision'?"),
        ("fisher_sam", "knobs.gamma=0.1", "did you mean 'rho'?"),
        ("friendly_sam", "knobs.lmbda=0.9", "did you mean 'lambda_'?"),
        ("sam", "task.arch_type=resnet18", "did you mean 'task.model'?"),
    ],
)
def test_its_words_are_known(name: str, words: str, meant: str) -> None:
    with pytest.raises(SpaceError) as caught:
        SearchSpace.load(name, [words])
    assert meant in str(caught.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("FisherSAM", "fisher_sam"), ("LookLayerSAM", "look_layer_sam"), ("SAM", "sam")],
)
def test_its_names_of_variants_are_known(name: str, meant: str) -> None:
    with pytest.raises(SpaceError, match=f"did you mean '{meant}'"):
        SearchSpace.load(name)


@pytest.mark.parametrize(
    ("option", "answer"),
    [
        ("--optimizer", "a word of the space is set so: `--set base=VALUE`"),
        ("--arch_type", "a word of the space is set so: `--set task.model=VALUE`"),
        ("--rho", "a word of the space is set so: `--set rho=VALUE`"),
        ("--sam_type", "the variant is the space: `samtune run asam`"),
    ],
)
def test_its_options_are_answered(
    option: str, answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "sam", option, "adam"])
    assert ended.value.code == 2 and answer in capsys.readouterr().err
