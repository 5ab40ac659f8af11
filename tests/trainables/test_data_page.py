"""What docs/reference/data.md says of the words of a task is what they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from trainables.datasets.split_names import split_of
from trainables.schedule import KINDS
from trainables.task import TASK

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "data.md").read_text()


def test_its_space_has_words_of_a_task() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    for name, value in yaml.safe_load(block)["task"].items():
        if name != "model":  # timm need not be installed.
            assert TASK[name].lists or not isinstance(value, list)
            TASK[name].check(", ".join(value) if isinstance(value, list) else value)


def test_its_table_has_every_schedule_with_the_defaults() -> None:
    table = PAGE.split("## Schedules")[1].split("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(KINDS)
    for name, value in re.findall(r"`(lr_\w+): ([^`]+)`", PAGE):
        assert TASK[name].default == yaml.safe_load(value)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_its_names_of_splits_are_known(split: str) -> None:
    (line,) = re.findall(rf"`{split}`, [^;]*", PAGE.split("A folder is a split")[1])[:1]
    names = re.findall(r"`(\w+)`", line.split(";")[0])
    assert len(names) > 2 and {split_of(name) for name in names} == {split}
