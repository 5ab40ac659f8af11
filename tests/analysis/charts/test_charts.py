"""Charts of hand-made tables: scales, looks, what is drawn, and hostile names."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
from made_runs import search

from analysis.charts import KINDS, draw
from analysis.charts.palette import HUES, INK, SHAPES, SHIPPED, THEMES, looks
from analysis.charts.sample import by_question
from analysis.charts.scales import Scale
from analysis.charts.svg import text, visible
from samtune.optimizers import VARIANTS

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("scale", "values"),
    [
        (Scale(0.0, 20.0, 40.0, 340.0), (0.0, 7.0, 20.0)),
        (Scale(1e-4, 1.0, 40.0, 340.0, "log"), (1e-4, 0.03, 1.0)),
        (Scale(0.5, 0.98, 200.0, 30.0, "error"), (0.5, 0.9, 0.97)),
        (Scale(2.5, -0.5, 200.0, 30.0), (0.0, 1.0, 2.0)),
    ],
)
def test_a_scale_is_inverted_exactly(scale: Scale, values: tuple[float, ...]) -> None:
    for value in values:
        assert scale.invert(scale(value)) == pytest.approx(value)
    assert scale(scale.low) == pytest.approx(scale.start)
    assert scale(scale.high) == pytest.approx(scale.end)


@pytest.mark.parametrize("kind", ["linear", "log", "error"])
def test_ticks_lie_inside_in_order_and_one_value_has_a_scale(kind: Any) -> None:
    for low, high in ((0.11, 0.93), (0.901, 0.904), (0.0021, 0.99)):
        scale = Scale(low, high, 0.0, 100.0, kind)
        ticks = [value for value, _ in scale.ticks()]
        assert len(ticks) >= 1 and ticks == sorted(ticks)
        assert all(low - 1e-9 <= value <= high + 1e-9 for value in ticks)
        assert len({label for _, label in scale.ticks()}) == len(ticks)
    assert math.isfinite(Scale(0.5, 0.5, 0.0, 100.0, kind)(0.5))


def test_accuracies_near_one_stand_apart() -> None:
    scale = Scale(0.5, 0.99, 0.0, 100.0, "error")
    assert scale(0.97) - scale(0.95) > 2 * (scale(0.72) - scale(0.70))


def linear(colour: str) -> list[float]:
    """Return the linear red, green and blue of a colour such as `#1a353d`."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]


def times(matrix: tuple[tuple[float, ...], ...], vector: list[float]) -> list[float]:
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def luminance(colour: str) -> float:
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear(colour), strict=True))


@pytest.mark.parametrize("theme", THEMES)
def test_every_hue_stands_out_from_the_page(theme: Any) -> None:
    page = luminance(INK[theme]["page"])
    for colour in (*HUES[theme], INK[theme]["stopped"]):
        light, dark = sorted((luminance(colour), page), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3


# What is seen of linear red, green and blue: all of it, and by readers without red, green or blue
# cones (Machado, Oliveira and Fernandes 2009, severity 1).
SIGHT = {
    "all": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "no red": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "no green": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "no blue": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}


def oklab(colour: list[float]) -> list[float]:
    """Return the OKLab coordinates of a linear colour (Ottosson 2020)."""
    cones = times(
        (
            (0.4122214708, 0.5363325363, 0.0514459929),
            (0.2119034982, 0.6806995451, 0.1073969566),
            (0.0883024619, 0.2817188376, 0.6299787005),
        ),
        colour,
    )
    return times(
        (
            (0.2104542553, 0.7936177850, -0.0040720468),
            (1.9779984951, -2.4285922050, 0.4505937099),
            (0.0259040371, 0.7827717662, -0.8086757660),
        ),
        [math.cbrt(cone) for cone in cones],
    )


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("sight", SIGHT)
def test_hues_are_told_apart_by_colour_blind_readers_too(theme: Any, sight: str) -> None:
    seen = [
        oklab([min(1.0, max(0.0, part)) for part in times(SIGHT[sight], linear(colour))])
        for colour in (*HUES[theme], INK[theme]["stopped"])
    ]
    for one, other in itertools.combinations(seen, 2):
        assert 100 * math.dist(one, other) >= 9


def test_looks_never_change() -> None:
    frozen = json.dumps([HUES, SHAPES, {name: str(look) for name, look in SHIPPED.items()}])
    assert hashlib.sha256(frozen.encode()).hexdigest()[:16] == "0e4d54759d5b8822"
    assert str(looks(["mine"])["mine"]) == "h7 v73"


def test_every_shipped_variant_has_a_look_of_its_own() -> None:
    assert set(SHIPPED) == set(VARIANTS)
    assert len(set(SHIPPED.values())) == len(SHIPPED)


def test_an_own_variant_keeps_its_look_and_shares_none() -> None:
    assert looks(["mine"])["mine"] == looks(["sam", "mine"])["mine"]
    many = looks([*SHIPPED, *(f"own{k}" for k in range(26))])
    assert len(set(many.values())) == 48
    assert len(looks([f"own{k}" for k in range(60)])) == 60


def test_hidden_characters_are_shown_and_markup_is_text() -> None:
    assert visible("a\u202eb\x00\ud800") == "a\\u202eb\\u0000\\ud800"
    assert text("</script><b a='1'>&") == "&lt;/script&gt;&lt;b a=&#x27;1&#x27;&gt;&amp;"
    assert len(visible("x" * 300)) == 80


@pytest.fixture
def run_tables(tmp_path: Path) -> dict[str, pd.DataFrame]:
    return search(tmp_path, ["sgd", "sam", "asam"], 60, 20)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("theme", THEMES)
def test_every_kind_is_one_whole_document(
    run_tables: dict[str, pd.DataFrame], kind: str, theme: Any
) -> None:
    figure = draw(kind, run_tables, theme=theme)
    root = ElementTree.fromstring(figure.svg())
    panels = [each for each in root.iter(f"{SVG}svg") if each.get("role") == "img"]
    assert panels and all(panel.get("aria-label") for panel in panels)
    assert INK[theme]["page"] in figure.svg()
    assert "nan" not in figure.svg()
    assert draw(kind, run_tables, theme=theme).svg() == figure.svg()


def test_the_rings_of_the_leaderboard_are_the_seeds(run_tables: dict[str, pd.DataFrame]) -> None:
    ((_, tables),) = by_question(run_tables)
    (panel,) = KINDS["leaderboard"].panels(tables, 720.0)
    rings = re.findall(r'hollow" d="M([\d.]+) ', "".join(panel.marks))
    drawn = sorted(panel.to_x.invert(float(x) + 3) for x in rings)
    seeds = sorted(100 * run_tables["repeats"]["test_acc"])
    assert len(seeds) == 15
    assert drawn == pytest.approx(seeds, abs=0.02)


def test_many_rows_and_seeds_are_thinned(tmp_path: Path) -> None:
    tables = search(tmp_path, [f"own{k}" for k in range(30)], 90, 20)
    again = [
        tables["repeats"].assign(seed_bundle=tables["repeats"]["seed_bundle"] + k)
        for k in (0, 5, 10, 15)
    ]
    tables["repeats"] = pd.concat(again, ignore_index=True)
    ((_, part),) = by_question(tables)
    (panel,) = KINDS["leaderboard"].panels(part, 720.0)
    assert "20 seeds, 11 drawn" in "".join(panel.marks)
    (matrix,) = KINDS["pairs"].panels(part, 720.0)
    assert re.fullmatch(r"24 of \d\d rows", matrix.title)


def test_a_trial_that_has_reported_once_is_a_mark(run_tables: dict[str, pd.DataFrame]) -> None:
    run_tables["curves"] = run_tables["curves"].groupby("trial_key").tail(1)
    panels = draw("curves", run_tables).panels
    assert sum(len(re.findall(r"data-k=", "".join(panel.marks))) for panel in panels) == 60


def test_a_knob_spans_what_its_space_searched(run_tables: dict[str, pd.DataFrame]) -> None:
    run_tables["trials"]["knob.lr"] = run_tables["trials"]["knob.lr"] * 0.001 + 0.1
    ranges = [["r", "lr", 1e-4, 1.0, "log"], ["r", "rho", 0.0, 9.0, "linear"]]
    run_tables["ranges"] = pd.DataFrame(ranges, columns=["run", "knob", "low", "high", "scale"])
    ((_, tables),) = by_question(run_tables)
    rho, lr = KINDS["knobs"].panels(tables, 720.0)
    assert lr.x_kind == "log" and lr.x[0] < 1e-4 and lr.x[1] > 1.0
    assert rho.x_kind == "linear" and rho.x[0] < 0.0 and rho.x[1] > 9.0
    for panel in KINDS["surface"].panels(tables, 720.0):
        assert panel.x[0] < 1e-4 and panel.x[1] > 1.0
    run_tables["ranges"]["run"] = "another run"
    ((_, tables),) = by_question(run_tables)
    _, lr = KINDS["knobs"].panels(tables, 720.0)
    assert lr.x_kind == "linear" and lr.x[0] > 0.09


def test_measured_repeats_and_the_selected_mean_are_drawn(
    run_tables: dict[str, pd.DataFrame],
) -> None:
    repeats, board = run_tables["repeats"], run_tables["leaderboard"]
    repeats["sharp_lambda_max"] = [float(k + 1) ** 2 for k in range(len(repeats))]
    board["select_mean"] = [0.95, float("nan"), 0.93]
    ((_, tables),) = by_question(run_tables)
    panel = KINDS["sharpness"].panels(tables, 720.0)[-1]
    assert panel.x_kind == "log" and panel.title.endswith("15 repeats")
    assert len(panel.marks) == 15 and "largest eigenvalue" in panel.marks[0]
    (panel,) = KINDS["compute"].panels(tables, 720.0)
    drawn = "".join(panel.over)
    assert drawn.count("on validation") == 2 and "selected by 95.00" in drawn


def test_names_cannot_add_elements(run_tables: dict[str, pd.DataFrame]) -> None:
    evil = '</text><script>alert(1)</script>"\u202e'
    for table in ("trials", "repeats", "leaderboard"):
        frame = run_tables[table]
        for column in ("space", "variant"):
            frame[column] = frame[column].replace("sam", evil)
    frame = run_tables["trials"]
    frame["knobs_searched"] = json.dumps(["rho", "lr", evil])
    run_tables["trials"] = frame.assign(**{f"knob.{evil}": evil})
    known = {"svg", "style", "rect", "g", "path", "text"}
    for kind in KINDS:
        root = ElementTree.fromstring(draw(kind, run_tables).svg())
        assert {each.tag.removeprefix(SVG) for each in root.iter()} <= known
        attributes = itertools.chain.from_iterable(each.attrib for each in root.iter())
        assert not any(name.startswith("on") for name in attributes)


def test_thousands_of_trials_are_thinned_and_the_count_is_said(
    run_tables: dict[str, pd.DataFrame],
) -> None:
    one = {**run_tables["trials"].iloc[0].to_dict(), "metric": "val_acc", "mode": "max"}
    many = [{**one, "trial_key": f"t{k}", "val_acc": 0.5 + k / 5000} for k in range(2000)]
    run_tables["trials"] = pd.DataFrame(many)
    run_tables["repeats"] = run_tables["repeats"].iloc[:0]
    panels = draw("knobs", run_tables).panels
    (panel,) = (p for p in panels if p.title.startswith("lr"))
    assert panel.title == "lr: 150 of 2000 trials"
    assert len(panel.marks) == 150
    # The best is the winner of its search, and a sample never loses it.
    assert 'data-k="1999"' in panel.marks[-1]


def test_nothing_to_draw_is_said(run_tables: dict[str, pd.DataFrame]) -> None:
    board = run_tables["leaderboard"]
    board["repeats"] = 0
    with pytest.raises(LookupError, match="nothing to draw: mean on test of each confirmed row"):
        draw("leaderboard", run_tables)
