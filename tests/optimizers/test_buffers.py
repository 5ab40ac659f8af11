"""Buffers of any kind: only the clean pass changes them, and a failed step restores them."""

from __future__ import annotations

import copy
import gc

import problems
import pytest
import torch
from problems import batches, loss_fn, make, poisoned, seeded, train
from torch import nn

from samtune.optimizers import VARIANTS, GradientOracle, buffers

every_variant = pytest.mark.parametrize("name", VARIANTS)


class Odd(nn.Module):
    """Buffers of every odd kind, some of which the forward pass changes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 3)
        self.register_buffer("expanded", torch.tensor(0.5, dtype=torch.float64).expand(6))
        with torch.inference_mode():
            self.register_buffer("inferred", torch.ones(6, dtype=torch.float64))
        self.register_buffer("observed", torch.empty(0, dtype=torch.float64))
        self.register_buffer("missing", None)
        self.register_buffer("assigned", torch.zeros(()))
        self.register_buffer("widened", torch.zeros(3))
        self.register_buffer("shared", self.assigned)
        self.register_buffer("counted", torch.zeros((), dtype=torch.int64))
        self.register_buffer("sparse", torch.eye(3).to_sparse())
        self.register_buffer("late_expanded", torch.zeros(3))

    def forward(self, x):
        with torch.no_grad():
            if not len(self.observed):
                self.observed.resize_(6).zero_()
            self.observed.copy_(self.observed + x.mean(0))
            self.missing = self.body.weight.detach().norm()
            self.assigned = self.assigned + 1
            self.widened.data = self.widened.double()
            self.late_expanded = torch.ones(()).expand(3)
            self.counted += 1
            if "registered" not in self._buffers:
                self.register_buffer("registered", torch.zeros(()))
            self.registered += 1
        return self.body(x * self.expanded * self.inferred)


def contents(model):
    return {
        name: None if b is None else (b.dtype, b.to_dense().tolist())
        for module in model.modules()
        for name, b in module._buffers.items()
    }


@every_variant
def test_odd_buffers_move_once_a_step(name):
    model, plain = seeded(Odd), seeded(Odd)
    variant = make(name, model)
    for x, y in batches(3):
        plain.body.load_state_dict(model.body.state_dict())
        plain(x)
        variant.step(GradientOracle(model, x, y, loss_fn))
        ours, theirs = contents(model), contents(plain)
        if name == "momentum_sam":
            # Its only pass is at other weights.
            del ours["missing"], theirs["missing"]
        assert ours == theirs
    assert model.counted == 3 and len(model.observed) == 6


@every_variant
def test_an_exception_of_the_users_comes_through_and_odd_buffers_go_back(name):
    class UsersError(Exception):
        pass

    for when in range(1, 1 + problems.passes_of_the_first_step(name)[0]):
        model = seeded(Odd)
        before, places = contents(model), dict(model._buffers)
        calls = []

        def loss(out, t, calls=calls, when=when):
            calls.append(1)
            if len(calls) == when:
                raise UsersError
            return loss_fn(out, t)

        [(x, y)] = batches(1)
        with pytest.raises(UsersError):
            make(name, model).step(GradientOracle(model, x, y, loss))
        assert len(calls) == when
        assert contents(model) == before
        assert all(model._buffers[name] is b for name, b in places.items())


@every_variant
def test_a_skipped_step_puts_odd_buffers_back(name):
    model = seeded(Odd)
    before = contents(model)
    [(x, y)] = batches(1)
    variant = make(name, model)
    assert variant.step(GradientOracle(model, x, y, poisoned(1), check_finite=True)).skipped
    assert contents(model) == before


def test_what_cannot_be_put_back_is_a_warning_and_not_the_error():
    class UsersError(Exception):
        pass

    class Stubborn(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(6, 3)
            self.register_buffer("scale", torch.ones(3))

        def forward(self, x):
            self.scale.data = self.scale.data.new_empty(4)
            self.scale.__class__ = Locked
            return self.body(x)

    class Locked(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            if "__set__" in repr(function):
                raise RuntimeError("locked")
            return super().__torch_function__(function, types, args, kwargs or {})

    def fails(out, t):
        raise UsersError

    model = seeded(Stubborn)
    [(x, y)] = batches(1)
    with pytest.warns(UserWarning, match="could not be put back"), pytest.raises(UsersError):
        make("sam", model).step(GradientOracle(model, x, y, fails))


@every_variant
def test_buffers_of_a_loss_module_are_the_models(name):
    class Loss(nn.Module):
        """Divides by a running mean, which batch and perturbed weights would move."""

        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.ones((), dtype=torch.float64))
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

        def forward(self, outputs, targets):
            each = loss_fn(outputs, targets)
            self.mean.lerp_(each.detach().mean(), 0.1)
            self.steps += 1
            return each / self.mean

    model, loss = seeded(problems.plain_net), Loss()
    variant = make(name, model)
    for count, (x, y) in enumerate(batches(3), start=1):
        other = copy.deepcopy(loss)
        oracle = GradientOracle(model, x, y, loss)
        if name != "momentum_sam":
            other(model(x), y)
        variant.step(oracle)
        assert loss.steps == count
        if name != "momentum_sam":
            torch.testing.assert_close(loss.mean, other.mean, rtol=1e-12, atol=0)
    before = copy.deepcopy(loss.state_dict())
    [(x, y)] = batches(1)
    infinite = GradientOracle(model, x * float("inf"), y, loss, check_finite=True)
    assert variant.step(infinite).skipped
    torch.testing.assert_close(loss.state_dict(), before, rtol=0, atol=0)


def test_a_scripted_model():
    model = torch.jit.script(seeded(problems.norm_net))
    eager = seeded(problems.norm_net)
    for net in (model, eager):
        train(make("sam", net), net, batches(3))
    torch.testing.assert_close(problems.weights(model), problems.weights(eager))


def test_a_snapshot_keeps_its_places_and_memory():
    """GPU defect 15. A new snapshot took 166 us, and each step takes two."""
    model = seeded(problems.norm_net)
    modules = [*model.modules()]
    first = buffers.snapshot(model, modules)
    buffers.release(model, first)
    for moved in (0.0, 1.0):
        for b in model.buffers():
            b.fill_(moved)
        again = buffers.snapshot(model, modules)
        assert again is first
        for b in model.buffers():
            b.fill_(7)
        again.restore()
        assert all((b == moved).all() for b in model.buffers())
        buffers.release(model, again)
    # While one is in use, the next has memory of its own.
    assert buffers.snapshot(model, modules) is first
    assert buffers.snapshot(model, modules) is not first

    def replaced() -> None:
        model[1].running_mean = torch.zeros(1)

    def renamed() -> None:
        model[1].register_buffer("other", model[1]._buffers.pop("running_var"))

    def widened() -> None:
        model[1].running_mean.data = torch.zeros(9)

    for changed in (lambda: model.register_buffer("late", torch.ones(2)), replaced, renamed,
                    widened):  # fmt: skip
        before = buffers.snapshot(model, modules)
        buffers.release(model, before)
        changed()
        assert buffers.snapshot(model, modules) is not before


def test_the_steps_of_a_trial_share_two_snapshots(monkeypatch):
    """GPU defect 15. The same in whole steps."""
    gc.collect()
    made, of_others = [], len(buffers._spare)
    real = buffers.Buffers.__init__
    monkeypatch.setattr(
        buffers.Buffers, "__init__", lambda self, modules: made.append(1) or real(self, modules)
    )
    for name, m, snapshots in (("sam", 0, 2), ("sam", 4, 2), ("bayesian_sam", None, 2)):
        model, made[:] = seeded(problems.norm_net), []
        variant = make(name, model, **({} if m is None else {"m": m}))
        for x, y in batches(3):
            variant.step(GradientOracle(model, x, y, loss_fn))
        assert len(made) == snapshots, name
    del model, variant
    gc.collect()
    assert len(buffers._spare) <= of_others, "the memory goes with its model"
