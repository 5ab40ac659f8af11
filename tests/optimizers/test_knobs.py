"""Knobs and base optimizers: every one is used, and a wrong one is explained."""

from __future__ import annotations

import itertools
import math

import problems
import pytest
import torch
from problems import (
    batches,
    make,
    norm_net,
    plain_net,
    seeded,
    train,
)
from torch import nn

from samtune.optimizers import (
    ASAM,
    BASES,
    SAM,
    SGD,
    VARIANTS,
    AdamW,
    KnobError,
    LookSAM,
    why_no_base,
)


@pytest.mark.parametrize(
    ("name", "knob_name"), [(n, k) for n, v in VARIANTS.items() for k in v.knobs()]
)
def test_no_dead_knob(name, knob_name):
    about = VARIANTS[name].knobs()[knob_name]
    others = problems.ACTS_WITH.get(
        f"{name}.{knob_name}", problems.ACTS_WITH.get(knob_name, {})
    ).copy()
    if knob_name in others:
        other = others.pop(knob_name)
    elif about.choices:
        other = next(c for c in about.choices if c != about.default)
    elif about.kind is bool:
        other = not about.default
    else:
        other = about.kind(about.default * 3 + (0.01 if about.kind is float else 1))
    net = plain_net if f"{name}.{knob_name}" in problems.SINGLE_SAMPLES else norm_net
    ends = []
    for knobs in ({}, {knob_name: other}):
        model = seeded(net)
        train(make(name, model, **others, **knobs), model, batches(3))
        ends.append(problems.weights(model))
    assert not torch.equal(*ends)


OTHERS = {
    "rprop.eta_plus": 1.5,
    "rprop.step_min": 0.02,
    "rprop.step_max": 5e-3,
    "adafactor.clip_rms": 2.0,
}
"""What half of the default would not do: it is impossible, or a bound that is not met so soon."""


@pytest.mark.parametrize(("base", "knob_name"), [(b, k) for b in BASES for k in BASES[b].knobs])
def test_no_dead_base_knob(base, knob_name):
    about = BASES[base].knobs[knob_name]
    other = not about.default if about.kind is bool else about.default * 0.5 or 0.01
    other = OTHERS.get(f"{base}.{knob_name}", other)
    ends = []
    for knobs in ({}, {knob_name: other}):
        model = seeded(norm_net)
        optimizer = SAM(BASES[base].build(model.parameters(), **knobs))
        # RAdam's second moment counts from the sixth step on.
        train(optimizer, model, batches(6))
        ends.append(problems.weights(model))
    assert not torch.equal(*ends)


# Errors.


def test_an_unknown_knob_names_the_nearest():
    base = torch.optim.SGD([torch.ones(1)], lr=0.1)
    with pytest.raises(KnobError, match=r"SAM has no knob roh; did you mean rho\?"):
        SAM(base, roh=0.1)
    with pytest.raises(KnobError, match=r"sgd has no knob momentun; did you mean momentum\?"):
        BASES["sgd"].build([torch.ones(1)], momentun=0.9)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"rho": -0.1}, "rho is -0.1; it must be at least 0.0"),
        ({"rho": "0.1"}, "rho is '0.1'; it must be a number"),
        ({"rho": True}, "rho is True; it must be a number"),
        ({"rho": "auto"}, "rho is 'auto'; it must be a number"),
        ({"rho": float("nan")}, "rho is nan; it must be finite"),
        ({"rho": float("inf")}, "rho is inf; it must be finite"),
        ({"eta": -1}, "eta is -1; it must be at least 0.0"),
        ({"normalize_bias": "offical"}, "must be official or all; did you mean official?"),
        ({"normalize_bias": True}, "normalize_bias is True; it must be official or all"),
    ],
)
def test_impossible_values(knobs, message):
    with pytest.raises(KnobError) as caught:
        ASAM(torch.optim.SGD([torch.ones(1)], lr=0.1), **knobs)
    assert message in str(caught.value)


def test_a_word_may_stand_for_a_number():
    base = torch.optim.SGD([torch.ones(1)], lr=0.1)
    assert LookSAM(base, alpha="auto").alpha == "auto" and LookSAM(base, alpha=1).alpha == 1.0
    for wrong in ("atuo", True):
        with pytest.raises(KnobError, match=rf"alpha is {wrong!r}; it must be a number or auto"):
            LookSAM(base, alpha=wrong)


def test_impossible_bases():
    with pytest.raises(KnobError, match="nesterov is true and momentum is 0"):
        BASES["sgd"].build([torch.ones(1)], momentum=0, nesterov=True)
    with pytest.raises(KnobError, match=r"beta1 is 1; it must be from 0.0 to 0\.99"):
        BASES["adamw"].build([torch.ones(1)], beta1=1)
    with pytest.raises(TypeError, match=r"must be a torch\.optim\.SGD, not AdamW: SGD\(torch"):
        SGD(torch.optim.AdamW([torch.ones(1)]))
    with pytest.raises(TypeError, match=r"must be a torch\.optim\.AdamW, not SGD"):
        AdamW(torch.optim.SGD([torch.ones(1)], lr=0.1))
    with pytest.raises(TypeError, match=r"must be a torch\.optim\.Optimizer, not Linear"):
        SAM(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="base optimizer of SAM has no parameters"):
        SAM(torch.optim.SGD([{"params": []}], lr=0.1))
    with pytest.raises(
        TypeError, match=r"^LBFGS evaluates the loss .*: SAM\(torch\.optim\.Adam\("
    ):
        SAM(torch.optim.LBFGS([torch.ones(1)]))
    with pytest.raises(TypeError, match=r"^SparseAdam takes sparse gradients only, .* is Adam"):
        ASAM(torch.optim.SparseAdam([torch.ones(1)]))


def test_why_a_base_of_torch_cannot_be_named():
    """Every optimizer of torch is a base, or has a sentence."""
    kinds = {n for n in torch.optim.__all__ if isinstance(getattr(torch.optim, n), type)}
    for kind in kinds - {"Optimizer"}:
        word = kind.lower()
        why = why_no_base(word, list(BASES))
        assert (word in BASES) == (not why), kind
    assert why_no_base("LBFGS", list(BASES)).endswith("; write `base: adam`")
    assert why_no_base("muon", ["sgd"]).endswith("convolutions as well; write `base: sgd`")
    assert why_no_base("momentum", list(BASES)) == ""


def test_muon_over_matrices_is_a_base():
    model = seeded(lambda: nn.Sequential(nn.Linear(6, 8, bias=False), nn.Linear(8, 3, bias=False)))
    before = problems.weights(model)
    variant = SAM(torch.optim.Muon(model.parameters(), lr=1e-2), rho=0.1)
    train(variant, model, batches(2))
    resumed = SAM(torch.optim.Muon(model.parameters(), lr=1e-2), rho=0.1)
    resumed.load_state_dict(variant.state_dict())
    train(resumed, model, batches(1))
    assert problems.weights(model).isfinite().all()
    assert not torch.equal(problems.weights(model), before)


@pytest.mark.parametrize(
    ("name", "knobs", "theirs"),
    [
        (
            "asgd",
            {"lr": 0.1, "lambd": 0.01, "power": 0.6, "weight_decay": 0.01},
            lambda p: torch.optim.ASGD(p, 0.1, 0.01, 0.6, weight_decay=0.01, foreach=True),
        ),
        (
            "rprop",
            {"lr": 0.01, "eta_minus": 0.4, "eta_plus": 1.5, "step_min": 0.005, "step_max": 0.015},
            lambda p: torch.optim.Rprop(p, 0.01, (0.4, 1.5), (0.005, 0.015), foreach=True),
        ),
        (
            "adafactor",
            {"lr": 0.1, "power": 0.6, "eps": 0.01, "clip_rms": 1.5, "weight_decay": 0.01},
            lambda p: torch.optim.Adafactor(p, 0.1, -0.6, (None, 0.01), 1.5, 0.01, foreach=True),
        ),
    ],
)
def test_knobs_by_other_names_are_torchs(name, knobs, theirs):
    ends = []
    for build in (lambda p, n=name, k=knobs: BASES[n].build(p, **k), theirs):
        model = seeded(norm_net)
        train(SAM(build(model.parameters())), model, batches(6))
        ends.append(problems.weights(model))
    assert torch.equal(*ends)


def test_knobs_describe_themselves():
    for variant in VARIANTS.values():
        assert variant.name in VARIANTS and set(variant.bases) <= set(BASES)
        knobs = itertools.chain(
            variant.knobs().items(), *(BASES[b].knobs.items() for b in variant.bases)
        )
        assert not any(variant.knobs().keys() & BASES[b].knobs.keys() for b in variant.bases)
        for name, about in knobs:
            assert about.name == name and about.doc and about.source
            assert about.check(about.default) == about.default
            if about.kind is float:
                whole = math.ceil(about.low or 0)
                if about.high is None or whole <= about.high:
                    assert isinstance(about.check(whole), float)
                assert about.safe[0] <= about.default <= about.safe[1]
    own, shared = ["rho", "eta", "normalize_bias"], ["params", "rho_schedule", "rho_min", "clip"]
    assert list(ASAM.knobs()) == [*own, "interval", "m", *shared]


def test_any_torch_optimizer_may_be_the_base():
    model = seeded(plain_net)
    before = problems.weights(model)
    train(SAM(torch.optim.RMSprop(model.parameters(), lr=1e-3)), model, batches(2))
    assert not torch.equal(problems.weights(model), before)


def test_fused_sgd_takes_a_late_first_gradient():
    ends = []
    for build in (BASES["sgd"].build, torch.optim.SGD):
        p, q = (nn.Parameter(torch.ones(2)) for _ in range(2))
        base = build([p, q], lr=0.1, momentum=0.9, weight_decay=0.01)
        for late in (False, True, True):
            p.grad = torch.ones(2)
            q.grad = torch.full((2,), 0.3) if late else None
            base.step()
        ends.append(torch.cat([p, q]).detach())
    torch.testing.assert_close(*ends, rtol=1e-6, atol=0)
