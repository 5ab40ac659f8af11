"""What is shipped: the README's commands, the wheel, the folders and who imports whom."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import samtune
from samtune.cli import COMMANDS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md"),
]


def test_the_readme_opens_with_the_two_commands() -> None:
    commands = [line.strip() for line in README.splitlines() if line.startswith("    ")]
    assert commands[:2] == [
        "pip install -e . && samtune run spaces/asam.yaml",
        "pip install -e '.[test]' && pytest",
    ]
    assert "pip install -e '.[test]' && pytest" in (ROOT / ".ci/run").read_text().replace("\\", "")


def test_the_readme_names_every_command_and_shipped_file() -> None:
    for name in COMMANDS:
        assert f"samtune {name}" in README, name


@pytest.mark.parametrize("page", PAGES)
def test_every_link_in_a_page_leads_to_a_file(page: str) -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / link).exists(), link


def test_the_readme_links_every_page_beside_it_and_the_first_of_the_site() -> None:
    for page in ("CONTRIBUTING.md", "CHANGELOG.md", "docs/index.md", "docs/architecture.md"):
        assert f"]({page})" in README, page


def test_the_tree_of_the_architecture_is_the_real_one() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    for path in (ROOT / "samtune").iterdir():
        if path.name not in {"__pycache__", "__main__.py", "py.typed"}:
            assert path.name in text, path.name


def test_the_changelog_opens_with_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None and newest[1] == version == samtune.__version__


def test_the_readme_example_runs() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    setup = (
        "import torch\nmodel = torch.nn.Linear(3, 2)\n"
        "batches = [(torch.randn(4, 3), torch.tensor([0, 1, 1, 0]))]\n"
    )
    given: dict[str, object] = {}
    exec(setup + block, given)
    assert given["result"].forward_samples == 8


@pytest.mark.slow
def test_the_wheel_works_from_another_folder(tmp_path: Path) -> None:
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"),
            *("-w", str(tmp_path), str(ROOT)),
        ],
        check=True,
        timeout=120,
    )
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(site)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
        "import samtune; assert samtune.__file__.startswith(sys.path[0]), samtune.__file__\n"
        "from samtune.cli import main; main()"
    )
    for words, expected in [
        (["spaces", "list"], "asam"),
        (["run", "asam", "--dry-run"], "trainables.vision:asam"),
    ]:
        ran = subprocess.run(
            [sys.executable, "-c", code, str(site), *words],
            cwd=elsewhere,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": ""},
            timeout=120,
        )
        assert ran.returncode == 0 and expected in ran.stdout, ran.stderr
    assert (site / "trainables" / "digits.npz").stat().st_size < 50_000
    assert (site / "samtune" / "py.typed").exists()


def test_import_directions_hold() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    ran = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
