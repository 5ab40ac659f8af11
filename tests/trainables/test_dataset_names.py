"""The words of a task that name data: wrong ones are told by place before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_sets import folder_of, left_in
from typed import typed

from samtune.space.search_space import SearchSpace, SpaceError
from trainables.data import DataError, load, open_test
from trainables.datasets import full_name

pytestmark = pytest.mark.usefixtures("root")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("cifar", "did you mean cifar100?|did you mean cifar10?"),
        ("cifar-10", r"did you mean cifar10\?"),
        ("parket:/x", r"did you mean parquet:/path\?"),
        ("tiny-imagenet", r"did you mean tinyimagenet\?"),
        ("mnist", "there is: digits, cifar10, .* folder:/path"),
        ("folder:", "write folder:/path"),
        ("folder:/no/such/folder", "/no/such/folder does not exist"),
        (7, "unknown data set 7"),
    ],
)
def test_a_name_that_names_nothing(name: object, match: str) -> None:
    with pytest.raises(DataError, match=match):
        full_name(name)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("fetch cifar9", "unknown data set 'cifar9'; did you mean cifar10?"),
        ("check cifar9", "unknown data set 'cifar9'; did you mean cifar10?"),
        ("fetch CIFAR10", "did you mean cifar10?"),
        ("fetch mnist", "there is: digits, cifar10, "),
        ("fetch cifar100-c", "did you mean cifar100c?"),
        ("check parquet:", "write parquet:/path"),
        ("fetch folder:/no/such/folder", "/no/such/folder does not exist"),
        ("fetch cifar10 --from-file /no/such.tar.gz", "there is no file /no/such.tar.gz"),
        ("fetch digits --from-file x", "digits comes from no archive; leave --from-file out"),
        ("fetch cifar10 --image-size 8", "leave --image-size out"),
    ],
)
def test_a_wrong_word_typed_is_wrong_usage(
    words: str, said: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = typed(capsys, "data", *words.split())
    assert code == 2 and said in err
    assert left_in(root) == []


def test_a_space_tells_mistakes_in_data_words_by_place(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    words = "dataset: cifar_10\n  classes: 3\n  label_noise_kind: asym\n  severity: 9\n"
    path.write_text(f"samtune: 1\nextends: sgd.yaml\ntask:\n  {words}")
    with pytest.raises(SpaceError) as told:
        SearchSpace.load(path)
    places = (":4:12: dataset: unknown", ":5:12: classes is 3", ":6:21: ", ":7:13: severity is 9")
    assert len(told.value.messages) == 4
    for message, place in zip(told.value.messages, places, strict=True):
        assert place in message
    assert "did you mean cifar10?" in told.value.messages[0]


def test_a_space_makes_paths_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(tmp_path / "mine")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    space = SearchSpace.load("sgd", ["task.dataset=folder:../mine"])
    assert space.task["dataset"] == f"folder:{tmp_path}/mine"


def test_a_sweep_without_its_data_or_model_ends_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = typed(capsys, "run", "sgd", "--set", "task.dataset=cifar10")
    assert code == 5 and "type: samtune data fetch cifar10" in err
    code, _, err = typed(capsys, "run", "sgd", "--set", "task.classes=3,12")
    assert code == 2 and "digits has no class '12'" in err
    for words, said in (
        (("task.train_size=0.001",), "0.001 leaves 1 of 1000 training images for 10 classes"),
        (
            ("task.train_size=0.004", "task.classes=3,5"),
            "0.004 leaves 1 of 203 training images for 2 classes",
        ),
    ):
        code, _, err = typed(capsys, "run", "sgd", *(f"--set={word}" for word in words))
        assert code == 2 and f"samtune: train_size {said}" in err.splitlines()[-1]
    code, _, err = typed(capsys, "run", "sgd", "--set", "task.model=torchvision:resnet18")
    assert code == 2 and "take 3 channels, these images have 1" in err
    assert not (tmp_path / "runs").exists()
    assert typed(capsys, "run", "sgd", "--dry-run", "--set", "task.dataset=cifar10")[0] == 0


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(DataError, match="x is a file"):
        full_name(f"parquet:{tmp_path}/x")


def test_known_sets_have_one_size(root: Path) -> None:
    with pytest.raises(DataError, match="all images of digits have one size"):
        load({"dataset": "digits", "image_size": 16}, 1)
    with pytest.raises(DataError, match="only cifar10 and cifar100"):
        open_test({"dataset": "digits", "corruption": "fog"}, 1, "a test")
