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
    BayesianSAM,
    KnobError,
    LookSAM,
    base_of,
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


@pytest.mark.parametrize(("base", "knob_name"), [(b, k) for b in BASES for k in BASES[b].knobs])
def test_no_dead_base_knob(base, knob_name):
    about = BASES[base].knobs[knob_name]
    other = not about.default if about.kind is bool else about.default * 0.5 or 0.01
    ends = []
    for knobs in ({}, {knob_name: other}):
        model = seeded(norm_net)
        optimizer = SAM(BASES[base].build(model.parameters(), **knobs))
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


def test_the_path_of_a_class_is_a_base():
    """Its knobs are the arguments that a space can give, a tuple's one by one."""
    base = base_of(SAM, "torch.optim.NAdam")
    assert {name: k.default for name, k in base.knobs.items()} == {
        "lr": 0.002,
        "beta1": 0.9,
        "beta2": 0.999,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "momentum_decay": 0.004,
        "decoupled_weight_decay": False,
    }
    assert base.knobs["weight_decay"].kind is float and base.knobs["lr"].safe is None
    ends = []
    for build in (
        lambda p: base.build(p, lr=0.01, beta2=0.9, decoupled_weight_decay=True),
        lambda p: torch.optim.NAdam(
            p, lr=0.01, betas=(0.9, 0.9), decoupled_weight_decay=True, foreach=True
        ),
    ):
        model = seeded(norm_net)
        train(SAM(build(model.parameters())), model, batches(6))
        ends.append(problems.weights(model))
    assert torch.equal(*ends)


@pytest.mark.parametrize(
    ("path", "knobs", "theirs"),
    [
        ("torch.optim.ASGD", {"alpha": 0.6}, {"alpha": 0.6}),
        (
            "torch.optim.Rprop",
            {"eta1": 0.4, "step_size2": 0.1},
            {"etas": (0.4, 1.2), "step_sizes": (1e-6, 0.1)},
        ),
        ("torch.optim.Adadelta", {"base_rho": 0.5}, {"rho": 0.5}),
        ("torch.optim.Adafactor", {"beta2_decay": -0.5}, {"beta2_decay": -0.5}),
    ],
)
def test_knobs_of_a_class_are_its_arguments(path, knobs, theirs):
    ends = []
    kind = getattr(torch.optim, path.rpartition(".")[2])
    for build in (
        lambda p: base_of(SAM, path).build(p, **knobs),
        lambda p: kind(p, foreach=True, **theirs),
    ):
        model = seeded(norm_net)
        train(SAM(build(model.parameters())), model, batches(6))
        ends.append(problems.weights(model))
    assert torch.equal(*ends)


def test_a_base_of_another_library():
    pytest.importorskip("pytorch_optimizer", reason="an extra of the tests")
    base = base_of(ASAM, "pytorch_optimizer.Lion")
    assert base.knobs["beta2"].default == 0.99
    model = seeded(plain_net)
    before = problems.weights(model)
    train(ASAM(base.build(model.parameters(), lr=1e-3)), model, batches(2))
    assert not torch.equal(problems.weights(model), before)


def test_every_optimizer_of_torch_is_a_base_or_has_a_sentence():
    refused = {"LBFGS", "SparseAdam", "Muon"}
    kinds = {n for n in torch.optim.__all__ if isinstance(getattr(torch.optim, n), type)}
    for kind in kinds - {"Optimizer"}:
        if kind in refused:
            with pytest.raises(KnobError, match=rf"torch.optim.{kind} .* base: "):
                base_of(SAM, f"torch.optim.{kind}").check({})
        else:
            base_of(SAM, f"torch.optim.{kind}").check({})


class NeedsClosure(torch.optim.SGD):
    def step(self, closure):
        return super().step(closure)


class TwoPoints(torch.optim.SGD):
    def train(self): ...

    def eval(self): ...


class NeedsModel(torch.optim.SGD):
    def __init__(self, params, model, lr=0.1):
        super().__init__(params, lr)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("torch.optim.NAdm", "torch.optim has no optimizer 'NAdm'; did you mean NAdam?"),
        ("torch.optm.NAdam", "no module 'torch.optm'; did you mean torch.optim?"),
        ("torhc.optim.NAdam", "no module 'torhc'; did you mean torch?"),
        ("torch.nn.Linear", "torch.nn has no optimizer 'Linear' (it has: none)"),
        ("torch.optim.LBFGS", "LBFGS evaluates the loss several times"),
        ("torch.optim.SparseAdam", "SparseAdam takes sparse gradients only"),
        ("samtune.optimizers.SAM", "it is a variant itself, and has a base of its own"),
        ("test_knobs.NeedsClosure", "its step needs a closure"),
        ("test_knobs.TwoPoints", "it trains and evaluates at different weights"),
        ("test_knobs.NeedsModel", "it needs model, which a space cannot give"),
        ("nadam", "sam has no base 'nadam'; write `base: torch.optim.NAdam`"),
        ("sparse_adam", "SparseAdam takes sparse gradients only"),
        ("amda", "sam has no base 'amda'; did you mean adam?"),
        ("Adam", "sam has no base 'Adam'; did you mean adam?"),
        ("momentum", "or the path of a class, torch.optim.NAdam"),
        ("torch.optim.", "sam has no base 'torch.optim.'"),
    ],
)
def test_what_cannot_be_a_base_is_explained(path, message):
    with pytest.raises(KnobError) as caught:
        base_of(SAM, path)
    assert message in str(caught.value)


def test_a_baseline_has_its_own_base_only():
    for variant, word in ((SGD, "torch.optim.NAdam"), (SGD, "adamw"), (AdamW, "nadam")):
        with pytest.raises(KnobError, match=rf"{variant.name} has no base '{word}'"):
            base_of(variant, word)
    with pytest.raises(KnobError, match="is an optimizer of its own and has no base"):
        base_of(BayesianSAM, "sgd")


def test_a_value_that_the_class_refuses():
    with pytest.raises(KnobError, match="does not work as a base: Invalid learning rate: -1"):
        base_of(SAM, "torch.optim.NAdam").check({"lr": -1.0})


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
