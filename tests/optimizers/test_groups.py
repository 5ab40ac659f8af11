"""Parameter groups: knobs of their own, unknown words, groups that come later, tied weights."""

from __future__ import annotations

import copy
import pickle

import problems
import pytest
import torch
from problems import batches, make, perturbations, plain_net, seeded, train
from torch import nn

from samtune.optimizers import (
    ASAM,
    BASES,
    GAM,
    GSAM,
    SAM,
    VARIANTS,
    BayesianSAM,
    FisherSAM,
    FriendlySAM,
    KnobError,
    base_of,
)
from samtune.optimizers.two_pass import Sharpened

every_variant = pytest.mark.parametrize("name", VARIANTS)
scheduled = pytest.mark.parametrize("name", problems.SCHEDULED)

RADII = {"gam": {"grad_norm_rho": 0.1}}
"""Radii besides the one of `radius_knob`."""


def halves(model: nn.Module, **words: object) -> list[dict[str, object]]:
    """Return the parameters as two groups; the first has these words."""
    first, *rest = model.parameters()
    return [{"params": [first], **words}, {"params": rest}]


@scheduled
def test_a_radius_in_every_group_is_the_knob(name):
    ends = []
    radius = VARIANTS[name].radius_knob
    more = RADII.get(name, {})
    for own in (False, True):
        model = seeded(plain_net)
        words = {radius: 0.3, **more}
        groups = halves(model, **words) if own else list(model.parameters())
        if own:
            groups[1] |= words
        optimizer = problems.over(groups, name, **({} if own else words))
        train(optimizer, model, batches(5))
        ends.append(problems.parameters(model))
    assert torch.equal(*ends)


# The first perturbation of bayesian_sam is noise.
@pytest.mark.parametrize("name", [n for n in problems.SCHEDULED if n != "bayesian_sam"])
def test_the_radius_of_a_group_acts_on_the_group_only(name):
    """eps of each group is its share of the largest radius; a group of radius 0 stays at w."""
    radius, seen = VARIANTS[name].radius_knob, {}
    knobs = {radius: 0.4, "rho_schedule": "constant", **problems.UNSELECTIVE.get(name, {})}
    for own in (None, 0.0, 0.1):
        model = seeded(plain_net)
        words = {} if own is None else {radius: own}
        optimizer = problems.over(halves(model, **words), name, **knobs)
        seen[own] = perturbations(optimizer)
        train(optimizer, model, batches(2 if name == "momentum_sam" else 1))
    whole, none, quarter = (eps[0] for eps in seen.values())
    assert none[0] is None
    if name != "momentum_sam":
        # Its direction is from the step before, which was at another point.
        torch.testing.assert_close(none[1:], whole[1:], rtol=1e-12, atol=0)
        torch.testing.assert_close(quarter[1:], whole[1:], rtol=1e-12, atol=0)
        torch.testing.assert_close(quarter[0], whole[0] / 4, rtol=1e-12, atol=0)


def test_a_group_may_have_a_radius_where_the_others_have_none():
    model = seeded(plain_net)
    optimizer = problems.over(halves(model, rho=0.2), "sam", rho=0.0)
    seen = perturbations(optimizer)
    train(optimizer, model, batches(1))
    assert seen[0][0].norm() > 0.05 and all(eps is None for eps in seen[0][1:])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("asam", {"eta": 0.5}),
        ("fisher_sam", {"eta": 1e4}),
        ("gam", {"grad_norm_rho": 0.9}),
        ("gsam", {"rho_min": 0.03}),
        ("sam", {"rho_schedule": "linear"}),
        *(
            ("bayesian_sam", {word: value})
            for word, value in (
                ("damping", 0.5),
                ("beta1", 0.1),
                ("beta2", 0.5),
                ("prior_precision", 400),
                ("s_init", 3.0),
                ("lr", 0.5),
            )
        ),
    ],
)
def test_knobs_of_a_group_act(name, words):
    """A word in one group changes the step; in all groups it equals the variant's own knob."""
    ends = {}
    for where in ("knob", "all", "one", "none"):
        model = seeded(plain_net)
        groups = halves(model, **(words if where in {"all", "one"} else {}))
        if where == "all":
            groups[1] |= words
        optimizer = problems.over(groups, name, **(words if where == "knob" else {}))
        train(optimizer, model, batches(4))
        ends[where] = problems.parameters(model)
    assert torch.equal(ends["all"], ends["knob"])
    assert not torch.equal(ends["one"], ends["none"]) and not torch.equal(ends["one"], ends["all"])


@pytest.mark.parametrize(
    ("variant", "words", "message"),
    [
        (SAM, {"roh": 0.1}, "group 0 has the unknown word 'roh'; did you mean rho?"),
        (SAM, {"weigth_decay": 0.1}, "the unknown word 'weigth_decay'; did you mean weight_decay"),
        (SAM, {"sigma": 0.1}, "the unknown word 'sigma'"),
        (SAM, {"clip": 1.0}, "group 0 has clip, which SAM has for all groups alike"),
        (FriendlySAM, {"sigma": 0.1}, "which FriendlySAM has for all groups alike"),
        (SAM, {"rho": -1.0}, "group 0: rho is -1.0; it must be at least 0.0"),
        (SAM, {"rho": "big"}, "group 0: rho is 'big'; it must be a number"),
        (GSAM, {"rho": 0.1}, "the unknown word 'rho'; did you mean rho_m"),
    ],
)
def test_words_that_a_group_cannot_have(variant, words, message):
    for late in (False, True):
        model = seeded(plain_net)
        one, two = halves(model, **words)
        with pytest.raises(KnobError) as caught:
            optimizer = variant(torch.optim.SGD([two] if late else [one, two], lr=0.1))
            optimizer.add_param_group(one)
        assert message.replace("group 0", f"group {int(late)}") in str(caught.value)


def test_a_wrong_word_in_a_group_of_the_base_is_seen_in_the_next_step():
    model = seeded(plain_net)
    one, two = halves(model, roh=0.1)
    optimizer = SAM(torch.optim.SGD([two], lr=0.1))
    train(optimizer, model, batches(1))
    optimizer.base.add_param_group(one)
    with pytest.raises(KnobError, match="group 1 has the unknown word 'roh'"):
        train(optimizer, model, batches(1))


def test_words_of_schedulers_and_of_the_base_are_known():
    model = seeded(plain_net)
    base = torch.optim.Adadelta([{"params": model.parameters(), "rho": 0.5, "name": "all"}])
    torch.optim.lr_scheduler.OneCycleLR(base, 0.1, total_steps=10, cycle_momentum=False)
    optimizer = SAM(base, rho=0.2)
    assert optimizer.radius == 0.2, "rho is Adadelta's here"
    torch.optim.swa_utils.SWALR(optimizer, 0.01)
    train(optimizer, model, batches(1))


@every_variant
def test_a_group_that_is_added_later_is_trained(name):
    for late in (lambda o: o.base, lambda o: o):
        model = seeded(plain_net)
        one, two = halves(model)
        optimizer = problems.over([two], name)
        train(optimizer, model, batches(3))
        before = model[0].weight.detach().clone()
        late(optimizer).add_param_group(one)
        train(optimizer, model, batches(5))
        assert not torch.equal(model[0].weight, before)
        saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        train(optimizer, model, batches(2))
        other = seeded(plain_net)
        one, two = halves(other)
        resumed = problems.over([two, one], name)
        other.load_state_dict(saved[0])
        resumed.load_state_dict(saved[1])
        train(resumed, other, batches(2))
        assert torch.equal(problems.parameters(other), problems.parameters(model))


@pytest.mark.parametrize("name", [n for n, v in VARIANTS.items() if issubclass(v, Sharpened)])
def test_a_group_that_is_added_later_is_trained_in_chunks(name):
    model = seeded(plain_net)
    one, two = halves(model)
    optimizer = problems.over([two], name, m=8)
    train(optimizer, model, batches(3))
    before = model[0].weight.detach().clone()
    optimizer.add_param_group({**one, "rho": 0.0} if name == "sam" else one)
    train(optimizer, model, batches(5))
    assert not torch.equal(model[0].weight, before)


def test_a_late_weight_gets_a_sparse_mask():
    model = seeded(plain_net)
    one, two = halves(model)
    optimizer = problems.over([two], "sparse_sam", sparsity=0.5, drop_rate=0.0)
    train(optimizer, model, batches(2))
    optimizer.add_param_group(one)
    train(optimizer, model, batches(1))
    assert optimizer.memory["mask"][-1].mean() == 0.5


def test_a_radius_of_a_group_is_saved_and_kept():
    models = [seeded(plain_net) for _ in range(3)]
    saved = SAM(torch.optim.SGD(halves(models[0], rho=0.3), lr=0.1)).state_dict()
    second = SAM(torch.optim.SGD(halves(models[1]), lr=0.1))
    second.load_state_dict(saved)
    assert second.radii == [0.3, 0.05]
    third = SAM(torch.optim.SGD(halves(models[2], rho=0.2), lr=0.1))
    third.load_state_dict(SAM(torch.optim.SGD(halves(models[1]), lr=0.1)).state_dict())
    assert third.radii == [0.2, 0.05], "the saved groups had no radius"
    saved["param_groups"][0]["rho"] = -1.0
    with pytest.raises(KnobError, match=r"group 0: rho is -1\.0"):
        third.load_state_dict(saved)


# Tied weights.


def tied() -> list[nn.Parameter]:
    encoder, decoder = nn.Linear(4, 4), nn.Linear(4, 4)
    decoder.weight = encoder.weight
    return [*encoder.parameters(), *decoder.parameters()]


@every_variant
@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
def test_a_weight_listed_twice_is_named(name):
    message = (
        r"parameter 2 of group 0, shape \(4, 4\), is the same tensor as parameter 0 of group 0"
    )
    with pytest.raises(ValueError, match=message):
        problems.over(tied(), name)


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
def test_a_weight_listed_twice_by_name():
    encoder, decoder = nn.Linear(4, 4), nn.Linear(4, 4)
    decoder.weight = encoder.weight
    named = [
        (f"{n}.{k}", p)
        for n, m in (("e", encoder), ("d", decoder))
        for k, p in m.named_parameters()
    ]
    with pytest.raises(ValueError, match=r"d\.weight, .* is the same tensor as e\.weight"):
        SAM(torch.optim.SGD(named, lr=0.1))


def test_two_parameters_of_one_memory_are_named():
    a = nn.Parameter(torch.ones(3, 2))
    b = nn.Parameter(a.data)
    with pytest.raises(ValueError, match=r"parameter 0 of group 1, .* is the same tensor"):
        SAM(torch.optim.SGD([{"params": [a]}, {"params": [b]}], lr=0.1))
    whole = torch.ones(4)
    SAM(torch.optim.SGD([nn.Parameter(whole[:2]), nn.Parameter(whole[2:])], lr=0.1))
    SAM(torch.optim.SGD([nn.Parameter(torch.ones(0)), nn.Parameter(torch.ones(0))], lr=0.1))


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
def test_a_weight_that_comes_twice_later():
    weight, *rest = tied()[:2]
    optimizer = SAM(torch.optim.SGD([weight], lr=0.1))
    with pytest.raises(ValueError, match="is the same tensor as"):
        optimizer.add_param_group({"params": [*rest, *rest]})


# Options of the base.


@pytest.mark.parametrize("name", [n for n, v in VARIANTS.items() if v.bases])
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("maximize", r"has maximize=True in group 0: a variant descends only; give it the loss"),
        ("differentiable", r"has differentiable=True in group 0: a variant's step keeps no graph"),
        ("capturable", r"has capturable=True in group 0, whose parameters are on the CPU"),
    ],
)
def test_options_of_the_base_that_cannot_be(name, option, message):
    kind = BASES[VARIANTS[name].bases[0]].kind
    model = seeded(plain_net)
    if option == "capturable":
        if VARIANTS[name].base_type is torch.optim.SGD:
            return
        kind = torch.optim.AdamW
    with pytest.raises(ValueError, match=message):
        VARIANTS[name](kind(model.parameters(), lr=0.1, **{option: True}))


# The learning rate, where nobody calls `set_progress`.


@scheduled
def test_without_progress_the_radius_follows_the_learning_rate(name):
    model = seeded(plain_net)
    knobs = {VARIANTS[name].radius_knob: 0.4, "rho_schedule": "lr", "rho_min": 0.1}
    optimizer = problems.over(list(model.parameters()), name, **knobs)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    radii = []
    for x, y in batches(3):
        optimizer.step(problems.GradientOracle(model, x, y, problems.loss_fn))
        radii.append(optimizer.radius)
        scheduler.step()
    assert radii == pytest.approx([0.4, 0.25, 0.175])


def test_each_group_follows_its_own_learning_rate_and_a_warm_up_its_aim():
    model = seeded(plain_net)
    optimizer = GSAM(torch.optim.SGD(halves(model, lr=0.5), lr=0.1), rho_max=0.4)
    optimizer.param_groups[0]["lr"] = 0.25
    assert optimizer.radii == pytest.approx([0.2, 0.4]) and optimizer.radius == 0.4
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.optim.lr_scheduler.LinearLR(base, start_factor=0.25, total_iters=4)
    assert GSAM(base, rho_max=0.4).radius == pytest.approx(0.1)
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.optim.lr_scheduler.OneCycleLR(base, 0.1, total_steps=10, div_factor=4)
    assert GSAM(base, rho_max=0.4).radius == pytest.approx(0.1)


class ChoosesItsRate(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {"lr": None})

    def step(self, closure=None):
        for group in self.param_groups:
            group["steps_so_far"] = group.get("steps_so_far", 0) + 1
            for p in group["params"]:
                p.sub_(p.grad, alpha=0.1)


def test_a_base_may_have_no_learning_rate():
    model = seeded(plain_net)
    one, two = halves(model)
    optimizer = GSAM(ChoosesItsRate([one]), rho_max=0.4)
    for x, y in batches(2):
        optimizer.step(problems.GradientOracle(model, x, y, problems.loss_fn))
        if len(optimizer.param_groups) == 1:
            optimizer.add_param_group(two)
    assert optimizer.radius == 0.4
    assert optimizer.param_groups[0]["steps_so_far"] == 2, "a word of the base's own"


@pytest.mark.parametrize(
    ("name", "knobs"),
    [
        ("sam", {"rho_schedule": "linear"}),
        ("sam", {"rho_schedule": "cosine"}),
        ("ae_sam", {}),
        ("sparse_sam", {"update_freq": 1}),
    ],
)
def test_a_schedule_by_progress_warns_once_without_it(name, knobs):
    model = seeded(plain_net)
    optimizer = make(name, model, **knobs)
    with pytest.warns(UserWarning, match="nobody has called optimizer.set_progress") as seen:
        for x, y in batches(4):
            optimizer.step(problems.GradientOracle(model, x, y, problems.loss_fn))
    assert len(seen) == 1


# Copies.


@every_variant
def test_copies_and_pickles_step_by_themselves(name):
    for copied in (copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))):
        model = seeded(plain_net)
        optimizer = make(name, model)
        torch.optim.lr_scheduler.StepLR(optimizer, 1)
        train(optimizer, model, batches(3))
        twin, other = copied((model, optimizer))
        train(other, twin, batches(2))
        assert not torch.equal(problems.parameters(twin), problems.parameters(model))
        train(optimizer, model, batches(2))
        assert torch.equal(problems.parameters(twin), problems.parameters(model))


def test_a_clash_of_knobs_goes_to_the_base_by_path():
    assert base_of(ASAM, "torch.optim.Adadelta").knobs["base_rho"].default == 0.9
    assert FisherSAM.knobs_of_groups() == ("rho", "rho_schedule", "rho_min", "eta")
    assert "grad_norm_rho" in GAM.knobs_of_groups() and "m" not in BayesianSAM.knobs_of_groups()
