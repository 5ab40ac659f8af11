"""Steps that a CUDA graph makes, on the CPU: each is made again with what the host knew before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import digits_trial
import pytest
import torch
from digits_trial import config_of, curve
from problems import DATA_DEPENDENT, batches, loss_fn, make, norm_net, seeded, weights
from torch import Tensor, nn
from toy_space import load, messages

from samtune.optimizers import SAM, VARIANTS, GradientOracle, StepResult, Variant
from samtune.optimizers.knobs import KnobError
from samtune.trial import Budget, Seeds, TrialConfig, running
from trainables import graphs, steps, vision
from trainables.graphs import GraphError, StepGraphs
from trainables.models import MODELS

CAPTURED = [name for name in VARIANTS if name not in DATA_DEPENDENT]
MORE: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in CAPTURED),
    ("sam", {"interval": 3}),
    ("sam", {"m": 5}),
    ("asam", {"clip": 0.1, "params": "norm"}),
    ("look_sam", {"k": 2, "m": 8}),
    ("sparse_sam", {"update_freq": 4}),
    ("sparse_sam", {"update_freq": 4, "interval": 2, "m": 8}),
    ("wsam", {"decouple": False}),
    ("esam", {"gamma": 1.0, "m": 8}),
]
# Rounded in another order than with numbers of the host, in float64: a few last bits.
OTHERWISE = {"wsam", "bayesian_sam"}
# Draws that are numbered by steps, where the host's are numbered by draws.
DRAWN = {"esam", "bayesian_sam"}


class Remade:
    """Records a step as a CUDA graph does: what the host knew stays in it for good."""

    def __init__(self, optimizer: Variant) -> None:
        self.optimizer = optimizer
        self.counts: Counter[str] = Counter()

    def __call__(
        self, step: Callable[[], StepResult], generator: torch.Generator
    ) -> tuple[StepResult, Callable[[], None]]:
        optimizer = self.optimizer
        frozen = {**vars(optimizer), "memory": dict(optimizer.memory)}
        # A graph makes no step while it is captured.
        result = step()
        self.counts["captured"] += 1
        made = True

        def replay() -> None:
            nonlocal made
            self.counts["replayed"] += not made
            if made:
                made = False
                return
            words = ("memory", "progress", "lr_share")
            now = {word: value for word, value in vars(optimizer).items() if word in words}
            vars(optimizer).update({**frozen, "memory": dict(frozen["memory"])})
            again = step()
            vars(optimizer).update(now)
            for old, new in zip(tensors(result), tensors(again), strict=True):
                old.copy_(new)

        return result, replay


def tensors(result: StepResult) -> list[Tensor]:
    found = (result.loss, result.outputs, result.sharp_loss, result.cosine)
    return [t for t in found if t is not None]


def train(
    name: str, knobs: dict[str, Any], how: str, *, base: str | None = None, thaw: bool = False
) -> tuple[Tensor, list[Tensor], Counter[str]]:
    """Make steps with changing rates and radii; every fourth batch is small."""
    if "rho_schedule" in VARIANTS[name].knobs() and name != "look_layer_sam":
        knobs = {"rho_schedule": "linear", **knobs}
    model = seeded(norm_net)
    variant = make(name, model, base, **knobs)
    remade, losses = Remade(variant), []
    steps = None if how == "plain" else StepGraphs(variant, model, remade)
    if how == "held":
        steps._graphs = dict.fromkeys(range(99))

    def oracle(x: Tensor, y: Tensor) -> GradientOracle:
        return GradientOracle(model, x, y, loss_fn, compare=True)

    first = variant.base.param_groups[0]["lr"]
    # Some have steps of many kinds.
    count = 40 if name.startswith(("look_", "sparse")) else 14
    for n, (x, y) in enumerate(batches(count)):
        model[0].requires_grad_(not thaw or n > 6)
        model[1].train(not thaw or n > 6)
        x, y = (x[:7], y[:7]) if n % 4 == 3 else (x, y)
        variant.set_progress(n / count)
        variant.base.param_groups[0]["lr"] = first * (1 - n / 50)
        result = variant.step(oracle(x, y)) if steps is None else steps.step(oracle, x, y)
        losses.append(torch.stack([t.mean() for t in tensors(result)]))
    assert not isinstance(variant.base.param_groups[0]["lr"], Tensor)
    return weights(model), losses, remade.counts


@pytest.mark.parametrize(("name", "knobs"), MORE, ids=str)
def test_a_captured_step_is_the_usual_one(name: str, knobs: dict[str, Any]) -> None:
    """Rates, radii, draws and memory go on, though the host's part of the step is not run."""
    held, losses, _ = train(name, knobs, "held")
    found, again, counts = train(name, knobs, "captured")
    assert torch.equal(found, held)
    assert all(torch.equal(a, b) for a, b in zip(again, losses, strict=True))
    assert counts["captured"] >= 1 and counts["replayed"] >= 4
    if name in DRAWN:
        return
    plain, _, _ = train(name, knobs, "plain")
    if name in OTHERWISE:
        torch.testing.assert_close(held, plain, rtol=1e-12, atol=1e-14)
    elif name != "sparse_sam":
        # A mask that is updated draws other numbers.
        assert torch.equal(held, plain)


def test_a_captured_step_on_adamw() -> None:
    held, plain = (train("sam", {}, how, base="adamw")[0] for how in ("held", "plain"))
    found, _, counts = train("sam", {}, "captured", base="adamw")
    assert counts["replayed"] >= 4
    assert torch.equal(found, held)
    assert torch.equal(found, plain)


def test_a_part_of_the_model_thaws_between_captured_steps() -> None:
    held, plain = (train("sam", {}, how, thaw=True)[0] for how in ("held", "plain"))
    found, _, counts = train("sam", {}, "captured", thaw=True)
    assert counts["captured"] >= 2
    assert torch.equal(found, held)
    assert torch.equal(found, plain)


def test_a_graph_is_refused_in_a_sentence() -> None:
    class Own(SAM):
        pass

    model = nn.Sequential(nn.Linear(6, 3)).double()
    momentum = torch.optim.SGD(model.parameters(), 0.1, fused=True)
    wrong: list[tuple[Variant, str]] = [
        (make("ae_sam", model), "ae_sam: it looks at each gradient"),
        (make("esam", model, swp_mode="tensor"), "swp_mode tensor chooses other tensors"),
        (make("look_layer_sam", model, rho_schedule="lr"), "its radius is a number"),
        (SAM(torch.optim.NAdam(model.parameters(), 0.1)), "its base, NAdam, is none of sgd"),
        (Own(momentum), "Own does not say by a method `uncaptured_of`"),
    ]
    for variant, sentence in wrong:
        with pytest.raises(GraphError, match=f"{sentence}.*; set task.graph to false"):
            StepGraphs(variant, model, Remade(variant))


def test_a_model_that_draws_and_a_step_that_waits_are_refused() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    variant = make("sam", model)
    [(x, y)] = batches(1)

    def oracle(x: Tensor, y: Tensor) -> GradientOracle:
        return GradientOracle(model, x, y, loss_fn, replay_rng=False)

    with pytest.raises(GraphError, match=r"task\.graph: the model draws random numbers"):
        StepGraphs(variant, model, Remade(variant)).step(oracle, x, y)

    def fails(*_: object) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors")

    model = nn.Sequential(nn.Linear(6, 3)).double()
    variant = make("sam", model)
    steps = StepGraphs(variant, model, fails)
    steps.step(oracle, x, y)
    steps.step(oracle, x, y)
    with pytest.raises(
        GraphError, match=r"sam could not be captured: operation not .* capturing; "
    ):
        steps.step(oracle, x, y)


class Counting(nn.Linear):
    passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return super().forward(x) * min(1.0, self.passes / 10)


class Sized(nn.Linear):
    size = 0

    def forward(self, x: Tensor) -> Tensor:
        self.size = len(x)
        return super().forward(x)


def test_a_model_that_counts_its_passes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph would hold the count of its capture in every step."""

    def steps_of(kind: type[nn.Linear]) -> Counter[str]:
        model = nn.Sequential(kind(6, 3)).double()
        variant = make("sam", model)
        remade = Remade(variant)
        steps = StepGraphs(variant, model, remade)
        for n, (x, y) in enumerate(batches(12)):
            size = 7 if n % 4 == 3 else len(x)
            steps.step(lambda x, y: GradientOracle(model, x, y, loss_fn), x[:size], y[:size])
        return remade.counts

    said = r"changes a number of its own in each pass \(Counting\.passes\).*; make it a buffer"
    with pytest.raises(GraphError, match=said):
        steps_of(Counting)
    assert steps_of(Sized)["captured"] == 2

    def own(in_shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), Counting(64, classes))

    task = {word: knob.default for word, knob in vision.sam.task.items()}
    monkeypatch.setitem(MODELS, "small_cnn", own)
    with pytest.raises(GraphError, match=said):
        vision.sam.make_ready({**task, "graph": True})


HEAD = "samtune: 1\ntask:\n  graph: true\nresources: {gpus: 1}\n"
GRAPH = "lab.yaml:3:10: task.graph: "
OF = f"{GRAPH}no graph can hold a step of"


@pytest.mark.parametrize("name", VARIANTS)
def test_a_space_with_graphs_is_taken_by_all_that_decide_nothing_by_data(
    name: str, in_folder: object
) -> None:
    head = f"{HEAD}trainable: {name}\n"
    if name in DATA_DEPENDENT:
        [message] = messages("", head=head)
        assert message.startswith(f"{OF} {name}: it looks at each gradient to decide")
        assert message.endswith("; set task.graph to false")
    else:
        assert load("", head=head).task["graph"] is True


@pytest.mark.parametrize(
    ("words", "beginnings"),
    [
        ("trainable: sam\nbase: torch.optim.NAdam\n", [f"{OF} sam: its base, torch.optim.NAdam"]),
        # The other values of a knob are looked at, too.
        (
            "trainable: esam\nknobs: {swp_mode: {choice: [element, tensor]}}\n",
            [f"{OF} esam: swp_mode tensor chooses other tensors"],
        ),
        ("trainable: esam\nknobs: {swp_mode: tensor, beta: 1.0}\n", []),
        (
            "trainable: esam\nknobs: {swp_mode: tensor, beta: {min: 0.4, max: 1, default: 1}}\n",
            [f"{OF} esam: swp_mode tensor chooses other tensors"],
        ),
        # Each alone would do.
        (
            "trainable: esam\nknobs:\n  swp_mode: {choice: [element, tensor]}\n"
            "  beta: {min: 0.4, max: 1, default: 1}\n",
            [f"{OF} esam: swp_mode tensor chooses other tensors"],
        ),
        (
            "trainable: esam\nknobs:\n  swp_mode: {choice: [element, tensor]}\n  beta: 1.0\n",
            [],
        ),
        (
            "trainable: look_layer_sam\npoints: [{rho_schedule: constant}, {rho_schedule: lr}]\n",
            [f"{OF} look_layer_sam: its radius is a number for each layer"],
        ),
    ],
)
def test_a_space_with_knobs_that_exclude_graphs(
    words: str, beginnings: list[str], in_folder: object
) -> None:
    if not beginnings:
        load(words, head=HEAD)
        return
    found = messages(words, head=HEAD)
    assert [m.startswith(b) for m, b in zip(found, beginnings, strict=True)] == [True], found


def test_a_space_with_words_that_exclude_graphs(in_folder: object) -> None:
    """All such words are named at once, for every kind of budget."""
    found = messages(
        "trainable: sam\nbudget: {kind: seconds, per_trial: 60}\n",
        "task.precision=fp16",
        "task.dropout=0.1",
        "task.model=resnet18",
        "resources.gpus=0",
        "resources.workers=2",
        head=HEAD,
    )
    ways = [
        "a CUDA graph needs a GPU; set resources.gpus to 1, or task.graph to false",
        "the loss scaler of fp16 looks at each gradient; set task.precision to bf16, or "
        "task.graph to false",
        "the model draws random numbers in its passes, as dropout does, and the second pass of a "
        "graph could not draw them again; set task.graph to false, or task.dropout to 0",
        "the steps of several workers exchange gradients; set resources.workers to 1, or "
        "task.graph to false",
    ]
    assert sorted(found) == [f"{GRAPH}{way}" for way in ways]


def test_a_trial_that_excludes_a_graph_does_not_begin() -> None:
    config = TrialConfig(
        trainable="trainables.vision:sam",
        variant="sam",
        base="sgd",
        knobs={},
        task={"graph": True, "precision": "fp16"},
        budget=Budget("epochs", 1),
        seeds=Seeds(1, 2, 3),
    )
    sentences = r"task\.graph: a CUDA graph needs a GPU.*; task\.graph: the loss scaler of fp16"
    with running(config, print), pytest.raises(KnobError, match=sentences):
        vision.sam(config)


def test_a_model_that_draws_is_refused_before_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass over two images on the CPU shows whether a model of one's own draws."""

    def own(in_shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, classes), nn.Dropout(0.5))

    task = {word: knob.default for word, knob in vision.sam.task.items()}
    vision.sam.make_ready({**task, "graph": True})
    monkeypatch.setitem(MODELS, "small_cnn", own)
    vision.sam.make_ready(task)
    with pytest.raises(GraphError, match=r"task\.graph: the model draws random numbers"):
        vision.sam.make_ready({**task, "graph": True})


@pytest.mark.parametrize("average", ["ema", "swa"])
def test_an_average_of_captured_steps_is_the_usual_one(
    average: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights stay at the addresses that a graph reads, although the model has the average."""
    task = {"average": average, "average_start": 0.0, "batch_size": 256, "label_noise": 0.0}
    config = config_of(vision.sam, budget=Budget("epochs", 4))
    config = replace(config, task={**config.task, **task})
    plain, made = curve(digits_trial.train(config)), []

    def step_graphs(task: object, optimizer: Variant, model: nn.Module) -> StepGraphs:
        made.append(Remade(optimizer))
        return StepGraphs(optimizer, model, made[-1])

    monkeypatch.setattr(steps, "step_graphs", step_graphs)
    found = curve(digits_trial.train(config))
    assert made[0].counts["replayed"] >= 10
    for one, other in zip(found, plain, strict=True):
        assert one == pytest.approx(other, rel=1e-6)
        assert one["val_loss_averaged"] != one["val_loss"]


def test_too_many_kinds_of_steps_are_made_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "_MOST", 1)
    found, _, counts = train("sam", {}, "captured")
    assert counts["captured"] == 1
    assert torch.equal(found, train("sam", {}, "plain")[0])
