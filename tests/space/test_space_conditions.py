"""Conditions and tied values: which knobs a trial has, and which it can never have."""

from __future__ import annotations

import pytest
from toy_space import SCHEDULED, load, messages

pytestmark = pytest.mark.usefixtures("toy_trainable", "in_folder")


def test_a_conditional_knob_is_active_only_where_its_condition_holds() -> None:
    space = load(SCHEDULED)
    values = {"schedule": "linear", "end": 0.5}
    assert space.active(values) == values
    assert space.active({**values, "schedule": "constant"}) == {"schedule": "constant"}
    assert "end" not in space.default()


def test_a_condition_may_ask_a_conditional_knob() -> None:
    space = load(
        SCHEDULED.replace("min: 0.01, max: 1", "choice: [0.1, 1]")
        + "  late: {choice: [1, 2], when: {end: [0.1]}}\n"
    )
    everything = {"schedule": "linear", "end": 0.1, "late": 1.0}
    assert space.active(everything) == everything
    assert space.active({**everything, "end": 1.0}) == {"schedule": "linear", "end": 1.0}
    assert space.active({**everything, "schedule": "constant"}) == {"schedule": "constant"}


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ("{schedul: linear}", "no knob is called 'schedul'; did you mean 'schedule'?"),
        ("{schedule: linaer}", "schedule is 'linaer'; it must be constant or linear"),
        ("{m: 7}", "m is never 7; it is one of: 4"),
        ("{end: 1}", "a knob cannot depend on itself"),
        ("{lr: 0.5}", "lr is a range from 0.0 to 1.0, which is hardly ever 0.5"),
        ("{schedule: linear, late: 3}", "these conditions are never true together"),
    ],
)
def test_a_condition_that_cannot_be_is_an_error(when: str, message: str) -> None:
    body = (
        "knobs:\n"
        "  schedule: {choice: [constant, linear]}\n"
        "  lr: {min: 0, max: 1}\n"
        "  late: {choice: [2, 3], when: {schedule: constant}}\n"
        f"  end: {{min: 0.01, max: 1, when: {when}}}\n"
    )
    found = messages(body)
    assert len(found) == 1
    assert found[0].startswith("lab.yaml:7:")
    assert message in found[0]


def test_conditions_in_a_circle_or_a_long_row_are_refused() -> None:
    circle = messages(
        "knobs:\n"
        "  rho: {choice: [0.1, 0.2], when: {late: 1}}\n"
        "  late: {choice: [1, 2], when: {rho: 0.1}}\n"
    )
    assert "knobs" not in circle[0] and "goes round in a circle: rho -> late -> rho" in circle[0]
    row = messages(
        "knobs:\n"
        "  m: {choice: [1, 2]}\n"
        "  rho: {choice: [0.1, 0.2], when: {m: 1}}\n"
        "  late: {choice: [1, 2], when: {rho: 0.1}}\n"
        "  end: {choice: [1, 2], when: {late: 1}}\n"
    )
    assert row == [
        "lab.yaml:7:31: end.when: at most two conditions in a row: end -> late -> rho -> m"
    ]


def test_points_tie_values_and_stay_out_of_the_knobs() -> None:
    space = load("points: [{lr: 0.1, rho: 0.5}, {lr: 0.05, rho: 0.1}]\nknobs: {lr: null}\n")
    assert space.points == ({"lr": 0.1, "rho": 0.5}, {"lr": 0.05, "rho": 0.1})
    assert not {"lr", "rho"} & set(space.knobs)
    assert (space.default()["lr"], space.default()["rho"]) == (0.1, 0.5)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("points: []\n", "3:9: points: the list is empty"),
        ("points: [{lr: 1}, {rho: 1}]\n", "3:19: points[1]: every point names the same knobs: lr"),
        ("points: [{lr: 1}, {lr: 1}]\n", "3:19: points[1]: this point is listed twice"),
        ("points: [{lrr: 1}]\n", "3:11: toy has no knob 'lrr'; did you mean 'lr'?"),
        ("points: [{lr: 1}]\nknobs: {lr: 2}\n", "4:9: lr is tied by `points`; remove it here"),
        ("points: {lr: 1}\n", "3:9: points: a list [a, b, ...] belongs here, not a map"),
    ],
)
def test_points_that_cannot_be(body: str, message: str) -> None:
    found = messages(body)
    assert len(found) == 1
    assert found[0].startswith(f"lab.yaml:{message}")


FIRST = (
    "knobs:\n"
    "  schedule: {choice: [constant, linear]}\n"
    "  end: {choice: [0.1, 1], when: {schedule: linear}}\n"
    "  late: {choice: [2, 3], when: {end: 0.1}}\n"
)


@pytest.mark.parametrize(
    ("point", "message"),
    [
        (
            "{schedule: constant, end: 1}",
            "end is not used where schedule is constant; remove it, or write `schedule: linear`",
        ),
        ("{schedule: constant, late: 2}", "late is not used where schedule is constant"),
        ("{end: 1, late: 2}", "late is not used where end is 1.0; remove it, or write `end: 0.1`"),
        ("{schedule: constant}, {schedule: constant}", "first[1]: this point is listed twice"),
    ],
)
def test_a_first_point_that_cannot_be_tried_as_written_is_refused(
    point: str, message: str
) -> None:
    (found,) = messages(f"search: {{first: [{point}]}}\n{FIRST}")
    assert found.startswith("lab.yaml:3:") and message in found


@pytest.mark.parametrize(
    "point", ["{late: 2}", "{end: 0.1, late: 2}", "{schedule: linear, end: 1}"]
)
def test_a_first_point_may_leave_a_condition_open(point: str) -> None:
    assert load(f"search: {{first: [{point}]}}\n{FIRST}").search.first
