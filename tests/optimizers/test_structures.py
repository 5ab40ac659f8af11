"""Batches that are dicts, tuples or dataclasses, and models that return such."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, UserDict, namedtuple
from types import MappingProxyType
from typing import Any

import problems
import pytest
import torch
from problems import batches, loss_fn, make, plain_net, seeded
from torch import nn

from samtune.optimizers import VARIANTS, GradientOracle

every_variant = pytest.mark.parametrize("name", VARIANTS)

Pair = namedtuple("Pair", "features, scale")


@dataclasses.dataclass(frozen=True)
class Record:
    features: Any
    scale: Any
    note: str = "kept"


class Encoding(UserDict):
    """A dict that is none, as Hugging Face's BatchEncoding, with an attribute of its own."""

    def __init__(self, data, kind="words"):
        super().__init__(data)
        self.kind = kind


class Output(OrderedDict):
    """A dict with its keys as attributes, as Hugging Face's ModelOutput."""

    def __getattr__(self, name):
        return self[name]


class OneArgument(nn.Module):
    """Takes any of the structures as its one argument, and returns another."""

    def __init__(self, result) -> None:
        super().__init__()
        self.net = plain_net()
        self.result = result

    def forward(self, inputs):
        features, scale = taken(inputs)
        return self.result(self.net(features) * scale)


class ByName(OneArgument):
    def forward(self, features, scale=None, unused=None):
        return self.result(self.net(features) * scale)


class ByPosition(OneArgument):
    def forward(self, features, scale):
        return self.result(self.net(features) * scale)


def taken(structure):
    """Return the two tensors of any structure below."""
    if isinstance(structure, OrderedDict | dict | MappingProxyType | UserDict):
        assert isinstance(structure.get("list", []), list)
        return structure["features"], structure["scale"]
    if isinstance(structure, Record):
        assert structure.note == "kept"
        return structure.features, structure.scale
    assert len(structure) == 2
    return structure[0], structure[1]


INPUTS = {
    "dict": lambda x, s: {"features": x, "scale": s},
    "ordered": lambda x, s: OrderedDict(features=x, scale=s),
    "with other values": lambda x, s: {"features": x, "scale": s, "name": "a", "list": [1, None]},
    "read-only": lambda x, s: MappingProxyType({"features": x, "scale": s}),
    "encoding": lambda x, s: Encoding({"features": x, "scale": s}),
    "tuple": lambda x, s: (x, s),
    "list": lambda x, s: [x, s],
    "namedtuple": lambda x, s: Pair(x, s),
    "dataclass": lambda x, s: Record(x, s),
    "scalar": lambda x, s: (x, torch.tensor(1.5)),
    "one row": lambda x, s: (x, torch.full((1, 1), 1.5)),
}
OUTPUTS = {
    "dict": (lambda logits: {"logits": logits, "aux": None}, lambda out: out["logits"]),
    "output": (lambda logits: Output(logits=logits), lambda out: out.logits),
    "tuple": (lambda logits: (logits, [logits * 2]), lambda out: out[0]),
    "dataclass": (lambda logits: Record(logits, torch.ones(())), lambda out: out.features),
    "topk": (lambda logits: logits.sort(dim=1, descending=False), lambda out: out.values),
    "tensor": (lambda logits: logits, lambda out: out),
}
TARGETS = {
    "dict": (lambda y: {"labels": y}, lambda t: t["labels"]),
    "tuple": (lambda y: (y, None, 3), lambda t: t[0]),
    "tensor": (lambda y: y, lambda t: t),
}


def scales(x):
    return x[:, :1].abs() + 0.5


def end(name, build, structure, out, target, micro_batch=None, **knobs):
    model = seeded(build)
    variant = make(name, model, **knobs)
    for x, y in [*batches(3), *batches(1, size=5)]:

        def loss(outputs, targets):
            return loss_fn(OUTPUTS[out][1](outputs), TARGETS[target][1](targets))

        batch, labels = structure(x, scales(x)), TARGETS[target][0](y)
        oracle = GradientOracle(model, batch, labels, loss, micro_batch=micro_batch)
        result = variant.step(oracle)
        logits = OUTPUTS[out][1](result.outputs)
        assert len(oracle) == len(x) and logits.shape == (len(x), 3)
        assert not logits.requires_grad
    return problems.weights(model)


@pytest.mark.parametrize("name", ["sam", "esam", "k_sam", "bayesian_sam"])
@pytest.mark.parametrize("structure", INPUTS)
@pytest.mark.parametrize("micro_batch", [None, 3])
def test_any_structure_is_the_batch(name, structure, micro_batch):
    """Through whole batches, micro-batches, chosen samples and neighbouring parts."""
    build = INPUTS[structure]
    expected = end(
        name, lambda: OneArgument(lambda x: x), lambda x, s: build(x, s), "tensor", "tensor"
    )

    def plain(x, s):
        return {
            "features": x,
            "scale": s if structure not in ("scalar", "one row") else 1.5 * x[:, :1] ** 0,
        }

    again = end(name, lambda: OneArgument(lambda x: x), plain, "tensor", "tensor")
    torch.testing.assert_close(expected, again, rtol=1e-12, atol=1e-14)
    parts = end(name, lambda: OneArgument(lambda x: x), build, "tensor", "tensor", micro_batch)
    torch.testing.assert_close(parts, expected, rtol=1e-12, atol=1e-14)


@every_variant
@pytest.mark.parametrize("out", OUTPUTS)
def test_the_loss_gets_the_models_output_as_it_is(name, out):
    def build():
        return OneArgument(OUTPUTS[out][0])

    if out == "topk":
        expected = end(
            name, lambda: OneArgument(lambda x: x.sort(dim=1)), INPUTS["dict"], out, "dict"
        )
    else:
        expected = end(name, lambda: OneArgument(lambda x: x), INPUTS["dict"], "tensor", "tensor")
    for target in ("dict", "tuple"):
        for micro_batch in (None, 3):
            found = end(name, build, INPUTS["dict"], out, target, micro_batch)
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@every_variant
def test_chunks_of_structures(name):
    if "m" not in VARIANTS[name].knobs():
        return
    for structure in ("dict", "namedtuple", "scalar"):
        found = end(
            name,
            lambda: OneArgument(lambda x: {"logits": x}),
            INPUTS[structure],
            "dict",
            "dict",
            m=4,
        )
        plain = INPUTS["tuple"] if structure != "scalar" else INPUTS["one row"]
        expected = end(name, lambda: OneArgument(lambda x: x), plain, "tensor", "tensor", m=4)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("model", "structure"),
    [(ByName, "dict"), (ByName, "encoding"), (ByName, "tuple"), (ByPosition, "list")],
)
def test_dicts_go_by_keyword_and_tuples_by_position(model, structure):
    found = end("sam", lambda: model(lambda x: x), INPUTS[structure], "tensor", "tensor", 3)
    expected = end(
        "sam", lambda: OneArgument(lambda x: x), INPUTS[structure], "tensor", "tensor", 3
    )
    assert torch.equal(found, expected)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: torch.compile(model, backend="eager"),
        nn.DataParallel,
        torch.jit.script,
        lambda model: torch.jit.trace(model, tuple(torch.zeros(2, 16, 6).double())),
    ],
)
def test_wrapped_models_take_tuples(wrap):
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = plain_net()

        def forward(self, a, b):
            return self.net(a + b)

    ends = []
    for way in (lambda model: model, wrap):
        model = seeded(Sum)
        variant, wrapped = make("sam", model), way(model)
        for x, y in batches(2):
            variant.step(GradientOracle(wrapped, (x, x), y, loss_fn))
        ends.append(problems.weights(model))
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-14)


def test_targets_may_be_none():
    model = seeded(plain_net)
    [(x, _)] = batches(1)
    seen = []

    def loss(outputs, targets):
        seen.append(targets)
        return outputs.square().sum(1)

    make("esam", model).step(GradientOracle(model, x, None, loss, micro_batch=5))
    assert seen and set(seen) == {None}


def test_a_part_keeps_what_is_no_tensor_and_the_classes():
    model = seeded(lambda: Watching())
    [(x, y)] = batches(1)
    make("sam", model).step(
        GradientOracle(model, Encoding({"x": x}, kind="tokens"), y, loss_fn, micro_batch=4)
    )
    assert model.seen == [("tokens", 4)] * 8


class Watching(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.seen = plain_net(), []

    def forward(self, batch):
        self.seen.append((batch.kind, len(batch["x"])))
        return self.net(batch["x"])


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (
            {"a": torch.zeros(4, 2), "b": torch.zeros(3)},
            torch.zeros(4),
            "inputs have 3 and 4 rows",
        ),
        (torch.zeros(4, 2), (torch.zeros(4), torch.zeros(2)), "targets have 2 and 4 rows"),
        ({"a": torch.zeros(4, 2)}, {"y": torch.zeros(5)}, "got 4 inputs and 5 targets"),
        ({"a": "text", "b": torch.tensor(1.0)}, torch.zeros(4), "no tensor with a first dim"),
        (None, torch.zeros(4), "no tensor with a first dim"),
        ([], torch.zeros(4), "no tensor with a first dim"),
        ({"a": torch.zeros(0, 2)}, None, "got 0 inputs and 0 targets"),
    ],
)
def test_structures_that_are_no_batch(inputs, targets, message):
    with pytest.raises(ValueError, match=message):
        GradientOracle(nn.Linear(2, 2), inputs, targets, loss_fn)
