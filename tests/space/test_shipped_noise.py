"""The label noise of common.yaml goes with its digits, and not with one's own data."""

from __future__ import annotations

from pathlib import Path

import pytest

from samtune.space.search_space import SearchSpace

OTHER = "task.dataset=cifar10"


@pytest.mark.parametrize(
    ("overrides", "noise"),
    [
        ([], 0.4),
        (["task.dataset=digits"], 0.4),
        ([OTHER], 0.0),
        (["task.dataset=folder:."], 0.0),
        ([OTHER, "task.label_noise=0.2"], 0.2),
        (["task.label_noise=0.4", OTHER], 0.4),
    ],
)
def test_noise_under_set(overrides: list[str], noise: float) -> None:
    space = SearchSpace.load("sgd", overrides)
    assert space.task["label_noise"] == noise
    if noise == 0:
        assert space.origin["task.label_noise"].startswith("default of")


@pytest.mark.parametrize(
    ("task", "noise"),
    [
        ("{dataset: cifar10}", 0.0),
        ("{dataset: cifar10, label_noise: 0.4}", 0.4),
        ("{dataset: digits}", 0.4),
        ("{model: resnet18}", 0.4),
        ("{label_noise: 0.1}", 0.1),
    ],
)
@pytest.mark.parametrize("extends", ["common.yaml", "sgd.yaml"])
def test_noise_in_a_file(tmp_path: Path, task: str, noise: float, extends: str) -> None:
    trainable = "trainable: sgd\nknobs: {lr: 0.1}\n" if extends == "common.yaml" else ""
    (tmp_path / "mine.yaml").write_text(
        f"samtune: 1\nextends: {extends}\n{trainable}task: {task}\n"
    )
    space = SearchSpace.load(tmp_path / "mine.yaml")
    assert space.task["label_noise"] == noise
    # What a file of one's own says stays, whatever data --set names.
    again = SearchSpace.load(tmp_path / "mine.yaml", [OTHER])
    assert again.task["label_noise"] == (noise if "label_noise" in task else 0.0)


def test_a_space_that_extends_nothing_has_no_noise(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("samtune: 1\ntrainable: sgd\nknobs: {lr: 0.1}\n")
    assert SearchSpace.load(tmp_path / "mine.yaml").task["label_noise"] == 0.0
