"""State of a variant between steps: saved, loaded, resumed, and unchanged by a skipped step."""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass

import problems
import pytest
import torch
from problems import Zoo, batches, make, norm_net, plain_net, seeded, train

from samtune.optimizers import BASES, VARIANTS, GradientOracle, Variant, knob

every_variant = pytest.mark.parametrize("name", VARIANTS)
every_pair = pytest.mark.parametrize(("name", "base"), problems.PAIRS)


@every_pair
@pytest.mark.parametrize("cut", [1, 2, 5])
def test_resume_is_bitwise(name, base, cut):
    data = batches(6)
    whole = seeded(Zoo)
    torch.manual_seed(7)
    train(make(name, whole, base), whole, data)

    first = seeded(Zoo)
    optimizer = make(name, first, base)
    torch.manual_seed(7)
    train(optimizer, first, data[:cut], of=6)
    file = io.BytesIO()
    torch.save(
        {"model": first.state_dict(), "optimizer": optimizer.state_dict()}
        | {"random": torch.get_rng_state()},
        file,
    )
    torch.manual_seed(99)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = seeded(Zoo, seed=5)
    second.load_state_dict(saved["model"])
    optimizer = make(name, second, base)
    optimizer.load_state_dict(saved["optimizer"])
    torch.set_rng_state(saved["random"])
    train(optimizer, second, data[cut:], cut, of=6)
    assert torch.equal(problems.weights(second), problems.weights(whole))


@every_variant
def test_loading_changes_the_groups_in_place(name):
    model = seeded(plain_net)
    optimizer = make(name, model)
    groups, group = optimizer.base.param_groups, optimizer.base.param_groups[0]
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer.base, 0.5)
    train(optimizer, model, batches(1))
    saved = optimizer.state_dict()
    kept = copy.deepcopy(saved)
    scheduler.step()
    optimizer.load_state_dict(saved)
    assert optimizer.base.param_groups is groups and groups[0] is group
    assert group["lr"] == saved["param_groups"][0]["lr"]
    assert group["params"][0] is model[0].weight
    train(optimizer, model, batches(2))
    for key in ("state", "param_groups", "memory"):
        torch.testing.assert_close(saved[key], kept[key], rtol=0, atol=0)


def test_loading_another_variants_state():
    model = seeded(plain_net)
    saved = make("sam", model).state_dict()
    with pytest.raises(ValueError, match=r"saved by 'sam', and this is 'asam'"):
        make("asam", model).load_state_dict(saved)
    with pytest.raises(ValueError, match="saved by 'something else'"):
        make("asam", model).load_state_dict(torch.optim.SGD(model.parameters()).state_dict())


@dataclass(eq=False, kw_only=True)
class Seam(Variant):
    """A running mean changed in place, reuse steps, and descent on half of the samples."""

    name = "seam"
    passes = (2.5, 1.5)
    period: int = knob(2, low=1, doc="steps per refresh", source="-")

    def direction(self, oracle):
        t = self.memory.get("t", 0)
        self.memory["t"] = t + 1
        g = oracle.grad(self.parameters)
        if t % self.period == 0:
            clean = oracle.sample_losses
            with self.perturbed(g, 0.1):
                sharp = oracle.losses() - clean
                g = oracle.grad(self.parameters, sharp.topk(len(oracle) // 2).indices)
        if "mean" not in self.memory:
            self.memory["mean"] = [None if d is None else torch.zeros_like(d) for d in g]
        pairs = [(m, d) for m, d in zip(self.memory["mean"], g, strict=True) if d is not None]
        torch._foreach_lerp_([m for m, _ in pairs], [d for _, d in pairs], 0.1)
        return [None if m is None else m.clone() for m in self.memory["mean"]]


def test_a_variant_with_state_and_changing_cost():
    model = seeded(norm_net)
    optimizer = Seam(BASES["sgd"].build(model.parameters()))
    results = train(optimizer, model, batches(3))
    assert [(r.forward_samples, r.backward_samples) for r in results] == [
        (40, 24),
        (16, 16),
        (40, 24),
    ]
    assert all(r.outputs.shape == (16, 3) for r in results)
    assert model[1].num_batches_tracked == 3


def test_a_skipped_step_leaves_a_variants_state():
    ends = []
    for when in (None, 1, 2, 3):
        model = seeded(norm_net)
        optimizer = Seam(BASES["sgd"].build(model.parameters()))
        train(optimizer, model, batches(2))
        if when:
            poison = problems.poisoned(when)
            [(x, y)] = batches(1, seed=9)
            oracle = GradientOracle(model, x, y, poison, check_finite=True)
            assert optimizer.step(oracle).skipped
        train(optimizer, model, batches(2, seed=3))
        ends.append(problems.weights(model))
    assert all(torch.equal(end, ends[0]) for end in ends)


def test_a_variants_state_resumes():
    ends = []
    for cut in (0, 1, 2, 3):
        model = seeded(norm_net)
        optimizer = Seam(BASES["sgd"].build(model.parameters()))
        train(optimizer, model, batches(4)[:cut])
        saved = copy.deepcopy(optimizer.state_dict())
        optimizer = Seam(BASES["sgd"].build(model.parameters()))
        optimizer.load_state_dict(saved)
        train(optimizer, model, batches(4)[cut:])
        ends.append(problems.weights(model))
    assert all(torch.equal(end, ends[0]) for end in ends)
