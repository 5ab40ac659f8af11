"""The site: it builds without a warning, every page is in it, and no link leads out of it."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from docs import make_environment, make_reference
from docs.figures import DOCUMENTS, FIGURES, filled
from samtune.optimizers import VARIANTS
from samtune.space.schema import space_schema

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def listed(nav: object) -> list[str]:
    """Return the pages of a `nav`, at any depth."""
    if isinstance(nav, str):
        return [nav]
    below = nav.values() if isinstance(nav, dict) else nav
    assert not isinstance(below, (str, type(None)))
    return [page for each in below for page in listed(each)]


def test_every_page_is_in_the_navigation() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert sorted(listed(config["nav"])) == PAGES, "name the page in `nav` of mkdocs.yml"


@pytest.mark.parametrize("page", PAGES)
def test_no_link_leads_out_of_the_site(page: str) -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", (DOCS / page).read_text()):
        target = (DOCS / page).parent.joinpath(link).resolve()
        assert target.is_relative_to(DOCS) and target.exists(), f"{page}: {link}"


@pytest.mark.parametrize("page", make_reference.PAGES)
def test_a_page_of_the_reference_is_what_the_code_says(page: str) -> None:
    text = make_reference.PAGES[page]()
    assert (DOCS / page).read_text() == text, "write it again: python docs/make_reference.py"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_figures_of_a_document_are_those_of_the_results(document: Path) -> None:
    text = document.read_text()
    assert text == filled(text), "write them again: python docs/make_reference.py"
    assert text.count("<!-- figure") == text.count("<!-- end -->")


def test_every_figure_is_shown_somewhere() -> None:
    texts = "".join(document.read_text() for document in DOCUMENTS)
    assert {name for name in FIGURES if f"<!-- figure {name} -->" not in texts} == set()


def test_the_page_on_variants_names_each_of_them_once() -> None:
    named = re.findall(r"^\| `(\w+)` \|", (DOCS / "concepts/sam.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(set(VARIANTS) - {"sgd", "adamw"})


def test_every_word_of_a_space_file_has_a_meaning() -> None:
    schema = space_schema()
    sections = {name: word for name, word in schema["properties"].items() if "$ref" in word}
    for name, words in [
        ("", {n: w for n, w in schema["properties"].items() if n not in sections}),
        *(
            (n, schema["$defs"][w["$ref"].split("/")[-1]]["properties"])
            for n, w in sections.items()
        ),
    ]:
        for word, about in words.items():
            assert about.get("description"), f"{name}.{word} of samtune/space/schema.py"


def test_every_variable_that_the_code_names_is_explained() -> None:
    assert make_environment.named_in_code() == set(make_environment.OURS), (
        "explain it in docs/make_environment.py, then: python docs/make_reference.py"
    )


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("zensical") is None, reason="needs samtune[docs], an extra"
)
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns(".cache"))
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    built = subprocess.run(
        [Path(sys.executable).parent / "zensical", "build", "--strict"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    for page in PAGES:
        assert (tmp_path / "site" / page).with_suffix(".html").exists(), page
