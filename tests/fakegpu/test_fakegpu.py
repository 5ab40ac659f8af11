"""The GPU path, run on a CUDA runtime without a GPU; see README.md."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
import runtime

# The first test runs all that is inside, a sweep through Ray too.
pytestmark = [pytest.mark.fakegpu, pytest.mark.timeout(1200)]
FILES = sorted(path.stem for path in (Path(__file__).parent / "inside").glob("test_*.py"))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[ElementTree.Element, str]:
    """The results of all tests inside, which share one process, and its output."""
    if lacking := runtime.missing():
        pytest.skip(lacking)
    file = tmp_path_factory.mktemp("fakegpu") / "results.xml"
    ended = runtime.inside(f"--junitxml={file}")
    # 1: a test failed. A crash, also one at the interpreter's exit, ends with another number.
    assert ended.returncode in {0, 1}, ended.stdout
    return ElementTree.parse(file).getroot(), ended.stdout


@pytest.mark.parametrize("name", FILES)
def test_the_tests_inside_pass(results: tuple[ElementTree.Element, str], name: str) -> None:
    root, output = results
    found = [case for case in root.iter("testcase") if name in case.get("classname", "")]
    failed = [case.get("name") for case in found if len(case)]
    assert found, output
    assert not failed, output
