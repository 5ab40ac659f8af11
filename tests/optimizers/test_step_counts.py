"""The counted cost of a step on ResNet-18's shapes: launches, words, waits of the host, memory.

The benchmark shows the same counts beside times: `python -m benchmarks.step`.
"""

from __future__ import annotations

import itertools
from functools import cache, partial

import pytest
import torch
from problems import ADAPTIVE
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from benchmarks.contenders import (
    REFERENCE,
    TEXTBOOK,
    Contender,
    Meter,
    Problem,
    ours,
    peers,
    resnet18,
)
from benchmarks.counting import (
    CHUNK,
    MAX_TENSORS,
    PROMISED,
    Cost,
    StepCounter,
    counted,
    packed,
    without_contents,
)
from benchmarks.timing import FullStep, small_cnn
from docs.make_variants import ABOUT
from samtune.optimizers import VARIANTS, StepResult

EXACT = {"sgd": (2, 5), "adamw": (3, 7), "sam": (11, 11), "asam": (15, 21)}
"""Launches, and words per parameter."""

CHANNELS_LAST = torch.channels_last

WORDS = [
    *(
        (name, knob.name, word)
        for name, variant in VARIANTS.items()
        for knob in variant.knobs().values()
        for word in ((True, False) if knob.kind is bool else knob.choices or ())
        if word != knob.default
        if knob.name not in ("rho_schedule", "fisher", "adaptive")
        if name not in ("lookbehind_sam", "gam")
        if knob.name != "normalize_bias" or name not in ADAPTIVE
    ),
    ("sparse_sam", "update_freq", 1),
]
"""Knobs that change the two-pass step: each word, and a new mask in each step.

Knobs that change only a number are not here, nor is `fisher: sample`, with a pass per sample, nor
`adaptive`, which has a limit of its own.
"""

MORE_LAUNCHES = {"lookbehind_sam": 25, "gam": 34, "bayesian_sam": 90}
"""Launches of variants with three passes and two base steps, with four passes, with seventeen."""

HOST_DECIDES = {"ae_sam": 1}
"""Waits of the host in a step that the method itself needs: it chooses the number of passes."""


@cache
def problem(layout: torch.memory_format = torch.contiguous_format) -> Problem:
    return without_contents(lambda: resnet18().to(memory_format=layout))


@cache
def cost(
    name: str, layout: torch.memory_format = torch.contiguous_format, **knobs: object
) -> Cost:
    return counted(problem(layout), partial(ours, name, **knobs))


@pytest.mark.parametrize("name", VARIANTS)
def test_no_step_waits_for_the_device(name: str) -> None:
    assert cost(name).syncs == HOST_DECIDES.get(name, 0)


@pytest.mark.parametrize("name", VARIANTS)
def test_no_step_has_more_than_twenty_launches(name: str) -> None:
    """The step with the most launches in a cycle counts. Some variants may have more."""
    assert cost(name).most_launches <= MORE_LAUNCHES.get(name, 20), cost(name).by_operator


@pytest.mark.parametrize("name", MORE_LAUNCHES)
def test_the_exceptions_are_exact(name: str) -> None:
    """A change of a variant must update its figures here."""
    assert cost(name).most_launches == MORE_LAUNCHES[name]
    assert MORE_LAUNCHES[name] > 20 and cost(name).passes > 2


@pytest.mark.parametrize(("name", "knob", "word"), WORDS)
def test_no_word_of_a_knob_makes_more_than_twenty_launches(
    name: str, knob: str, word: object
) -> None:
    """Both layouts of the weights are tried."""
    for layout in (torch.contiguous_format, CHANNELS_LAST):
        found = cost(name, layout, **{knob: word})
        assert found.most_launches <= 20, (layout, found.by_operator)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_adaptive_adds_what_asam_has_over_sam(name: str) -> None:
    """|w|, + eta and two products, for each climb; and the norm of T v beside one in use."""
    climbs = 2 if name == "lookbehind_sam" else 1
    another_norm = 5 if name in {"friendly_sam", "stable_sam", "ae_sam"} else 0
    for layout in (torch.contiguous_format, CHANNELS_LAST):
        found, plain = cost(name, layout, adaptive=True), cost(name, layout)
        assert found.most_launches <= plain.most_launches + 4 * climbs + another_norm
        assert found.syncs == plain.syncs and found.copies <= plain.copies + 1.01
    assert cost("sam", adaptive=True) == cost("asam")


def test_two_words_of_look_layer_sam_together() -> None:
    knobs = {"layer_rule": "global", "alpha": "auto", "params": "no_norm"}
    assert cost("look_layer_sam", CHANNELS_LAST, **knobs).most_launches <= 20


@pytest.mark.parametrize("name", VARIANTS)
def test_weights_in_channels_last_cost_the_same(name: str) -> None:
    found = cost(name, CHANNELS_LAST)
    assert found.by_operator == cost(name).by_operator
    assert (found.words, found.copies) == pytest.approx((cost(name).words, cost(name).copies))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_step_moves_fifteen_words_a_pass_at_most(name: str) -> None:
    assert cost(name).words <= 15 * max(2, cost(name).passes)


def test_the_promise_is_that_of_the_page() -> None:
    def copies(name: str) -> float:
        words = ABOUT[name].copies.replace(" kept", "").split(" + ")
        knobs = VARIANTS[name].knobs()
        return sum(int(w) if w.isdigit() else float(knobs[w].default) for w in words)

    assert {name: copies(name) for name in VARIANTS} == PROMISED


@pytest.mark.parametrize("name", VARIANTS)
def test_a_step_takes_no_more_memory_than_promised(name: str) -> None:
    assert cost(name).copies <= PROMISED[name] + 0.01


@pytest.mark.parametrize("name", EXACT)
def test_launches_and_words_are_exactly(name: str) -> None:
    assert (cost(name).launches, round(cost(name).words)) == EXACT[name]


def test_the_textbook_costs_what_its_lines_say() -> None:
    """Per tensor: norm, clone, product, sum and copy, then SGD by foreach; 3 scalar operators
    and the norms' stack and norm. The largest product, of 512 x 512 x 9, lies beside the copy."""
    textbook = counted(problem(), peers()[TEXTBOOK])
    assert textbook.launches == 5 * 62 + 5 + 5
    assert textbook.words == pytest.approx(1 + 2 + 2 + 3 + 2 + 11, abs=1e-3)
    assert textbook.copies == pytest.approx(1 + 512 * 512 * 9 / problem().size, abs=1e-3)
    assert textbook.syncs == 0


def test_the_reference_moves_two_words_more() -> None:
    """Three products for one, and no copy back."""
    reference = counted(problem(), peers()[REFERENCE])
    assert reference.words == pytest.approx((2 + 1) + (2 + 2 + 2 + 3) + 11, abs=1e-3)
    assert reference.launches == 6 * 62 + 5 + 5


@pytest.mark.parametrize(
    ("sizes", "lists", "launches"),
    [
        ([1] * 110, 1, 1),
        ([1] * 111, 1, 2),
        ([1] * 65, 2, 2),
        ([320 * CHUNK], 1, 1),
        ([320 * CHUNK + 1], 1, 2),
        ([0, 0], 1, 0),
    ],
)
def test_tensors_are_packed_as_the_kernels_take_them(
    sizes: list[int], lists: int, launches: int
) -> None:
    assert packed(sizes, MAX_TENSORS[lists - 1]) == launches


def test_each_way_to_wait_is_seen() -> None:
    p = problem()
    assert isinstance(p.losses, FakeTensor)
    with p.losses.fake_mode, StepCounter() as counter:
        x = torch.ones(3, device="cuda")
        waits = (
            lambda: x.sum().item(),
            lambda: bool(x[0] > 0),
            lambda: x.cpu(),
            lambda: torch.ones(3).to("cuda"),
        )
        for i, wait in enumerate(waits, start=1):
            wait()
            assert counter.counts.syncs == i
        x.mul_(2.0).add_(x.sum())
        assert counter.counts.syncs == len(waits)


def test_lists_that_foreach_cannot_take_together_cost_a_launch_each() -> None:
    p = problem()
    assert isinstance(p.losses, FakeTensor)
    with p.losses.fake_mode, StepCounter() as counter:
        many = [torch.empty(4, device="cuda") for _ in range(7)]
        factors = [torch.empty((), device="cuda") for _ in range(7)]
        torch._foreach_mul_(many, many)
        assert counter.counts.launches == 1
        torch._foreach_mul_(many, factors)
        assert counter.counts.launches == 1 + 7


def test_one_list_that_foreach_cannot_take_together_costs_a_launch_each() -> None:
    p = problem()
    assert isinstance(p.losses, FakeTensor)
    with p.losses.fake_mode, StepCounter() as counter:
        mixed = [torch.empty(4, device="cuda", dtype=d) for d in (torch.float32, torch.bfloat16)]
        torch._foreach_mul_(mixed, 2.0)
        torch._foreach_norm(mixed)
        torch._foreach_mul_([torch.empty(4, 4, device="cuda")[:, ::2] for _ in range(3)], 2.0)
        assert counter.counts.launches == 2 + 2 + 3


def test_memory_is_that_of_storages() -> None:
    """A storage counts once, however many views it has, and only while it lives."""
    p = problem()
    assert isinstance(p.losses, FakeTensor)
    with p.losses.fake_mode, StepCounter() as counter:
        x = torch.empty(8, 4, device="cuda")
        views = [x.t().reshape(-1), x[1:], x.view(32).detach()]
        assert counter.live_bytes == 2 * 4 * 32
        del views
        assert (counter.live_bytes, counter.peak_bytes) == (4 * 32, 2 * 4 * 32)


@pytest.mark.parametrize(
    ("cycle", "launches", "words", "syncs"), [(1, 13, 4 + 1.1, 1), (2, 12, 4 + 1.1 / 2, 0.5)]
)
def test_a_contender_of_known_cost(
    cycle: int, launches: float, words: float, syncs: float
) -> None:
    """Ten products, all at once by foreach and kept, and in each other step a sum and zeros."""

    def known(p: Problem) -> Contender:
        turns = itertools.count()

        def step(meter: Meter) -> None:
            with meter.handing_out():
                gradients = p.gradients(0, p.parameters)
            for g in gradients:
                g.mul(2.0)
            kept = torch._foreach_mul(gradients, 2.0)
            if next(turns) % 2:
                kept[0].sum().item()
                torch._foreach_zero_(gradients)

        return Contender("known", step, torch.optim.SGD(p.parameters), cycle)

    ten = without_contents(lambda: nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(10)))
    found = counted(ten, known)
    assert (found.launches, found.most_launches, found.syncs) == (launches, 13, syncs)
    assert found.words == pytest.approx(words, abs=1e-4)
    assert (found.passes, found.copies) == (1, pytest.approx(1, abs=1e-3))


@pytest.mark.parametrize("name", VARIANTS)
def test_the_passes_that_a_whole_step_is_held_against_are_all_of_its_own(name: str) -> None:
    full = FullStep(name, small_cnn, torch.device("cpu"))
    full.inputs, full.targets = full.inputs[:16], full.targets[:16]
    full.step()
    full.begin()
    made = [full.step() for _ in range(full.cycle)]
    assert all(isinstance(result, StepResult) for result in made)
    forward = sum(result.forward_samples for result in made)
    backward = sum(result.backward_samples for result in made)
    assert forward >= 16
    assert sum(size for size, _ in full.passes) == forward
    assert sum(size for size, has_backward in full.passes if has_backward) == backward
    assert full.see == pytest.approx((forward + 2 * backward) / 3 / 16)

    alone: list[int] = []
    full.model.register_forward_pre_hook(lambda _, inputs: alone.append(len(inputs[0])))
    full.passes_alone()
    assert alone == [size for size, _ in full.passes]
