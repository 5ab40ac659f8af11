"""Whole steps as CUDA graphs: the host launches one graph in place of some hundred kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from samtune.errors import SamtuneError
from samtune.optimizers import GradientOracle, StepResult, Variant
from samtune.optimizers.held import Form, Held, form, moved_on
from samtune.optimizers.randomness import generators
from samtune.trial import Value

MakeOracle = Callable[[Tensor, Tensor], GradientOracle]
"""Returns the oracle of a batch: inputs and targets."""
Replay = Callable[[], None]
Record = Callable[[Callable[[], StepResult], torch.Generator], tuple[StepResult, Replay]]
"""Records a step without running it; returns its result and a function that runs it."""
Numbers = dict[str, int | float]
"""The numbers that a module has as attributes."""

# Steps of a kind before it is captured: they make the optimizer's state and choose convolutions.
_FIRST = 2
# The most graphs of a trial, because each keeps the memory of its results.
_MOST = 16
_DRAWS = (
    "task.graph: the model draws random numbers in its passes, as dropout does, and the second "
    "pass of a graph could not draw them again; set task.graph to false"
)
_COUNTS = (
    "task.graph: the model changes a number of its own in each pass ({}), which a graph would "
    "not; make it a buffer, which is a tensor, or set task.graph to false"
)


class GraphError(SamtuneError):
    """The task asks for steps as CUDA graphs, and these steps cannot be."""

    exit_code = 5


@dataclass
class _Captured:
    """A captured step of one kind: its input tensors, its result, and the memory around it."""

    inputs: Tensor
    targets: Tensor
    result: StepResult
    replay: Replay
    before: dict[str, Any]
    after: dict[str, Any]
    form: Form


class StepGraphs:
    """Runs the steps of a trial, and captures each kind of them once.

    Steps are of one kind if their batches have one shape and the variant makes the same
    operations in them. The first steps of a kind, and those that no graph can hold, run without a
    graph and give the same numbers: no result depends on which steps were captured.

    Args:
        optimizer: the variant.
        model: what its oracles differentiate.
        record: captures a step.

    Raises:
        GraphError: the variant's steps cannot be captured.
    """

    def __init__(self, optimizer: Variant, model: nn.Module, record: Record) -> None:
        if (why := optimizer.uncaptured) is not None:
            raise GraphError(_of_variant(optimizer.name, why))
        self._optimizer = optimizer
        self._modules = [*model.modules()]
        self._record = record
        self._held = Held(optimizer)
        self._form: Form | None = None
        self._seen: Counter[Hashable] = Counter()
        self._numbers: dict[Hashable, list[Numbers]] = {}
        self._graphs: dict[Hashable, _Captured] = {}

    def step(
        self, make_oracle: MakeOracle, inputs: Tensor, targets: Tensor, *words: Hashable
    ) -> StepResult:
        """Make a step; the next one overwrites its result.

        Args:
            make_oracle: returns the oracle of a batch, which depends on nothing else.
            inputs: the inputs of the model.
            targets: the targets of the loss.
            words: further properties that distinguish this kind of step.

        Raises:
            GraphError: the step cannot be captured.
        """
        turn = self._optimizer.kind()
        self._held.fill()
        if self._form is None:
            self._form = form(self._optimizer.memory)
        # Parameters may thaw during a trial, and their BatchNorm then trains again.
        trained = tuple(p.requires_grad for p in self._optimizer.parameters)
        modes = tuple(module.training for module in self._modules)
        kind = inputs.shape, targets.shape, targets.dtype, words, turn, trained, modes, self._form
        found = self._graphs.get(kind)
        self._seen[kind] += 1
        if found is None and (turn is None or len(self._graphs) >= _MOST):
            result = self._made(make_oracle, inputs, targets)
        elif found is None and self._seen[kind] <= _FIRST:
            result = self._watched(kind, make_oracle, inputs, targets)
        else:
            if found is None:
                found = self._graphs[kind] = self._captured(make_oracle, inputs, targets)
            else:
                found.inputs.copy_(inputs)
                found.targets.copy_(targets)
                now = self._optimizer.memory
                self._optimizer.memory = moved_on(found.before, found.after, now)
            found.replay()
            result, self._form = found.result, found.form
        return result

    def _made(self, make_oracle: MakeOracle, inputs: Tensor, targets: Tensor) -> StepResult:
        with self._held.numbers():
            result: StepResult = self._optimizer.step(make_oracle(inputs, targets))
        self._held.settle()
        self._form = form(self._optimizer.memory)
        return result

    def _watched(
        self, kind: Hashable, make_oracle: MakeOracle, inputs: Tensor, targets: Tensor
    ) -> StepResult:
        """Make a step, and refuse a model that is not the same in each."""
        before = _random_states(self._modules, {inputs.device})
        result = self._made(make_oracle, inputs, targets)
        if before != _random_states(self._modules, {inputs.device}):
            raise GraphError(_DRAWS)
        numbers = _numbers(self._modules)
        _refuse_counts(self._modules, self._numbers.setdefault(kind, numbers), numbers)
        return result

    def _captured(self, make_oracle: MakeOracle, inputs: Tensor, targets: Tensor) -> _Captured:
        inputs, targets = inputs.clone(), targets.clone()
        before = dict(self._optimizer.memory)
        try:
            result, replay = self._record(
                lambda: self._made(make_oracle, inputs, targets), self._held.generator
            )
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise GraphError(
                f"task.graph: a step of {self._optimizer.name} could not be captured: "
                f"{str(error).splitlines()[0]}; set task.graph to false"
            ) from error
        after = dict(self._optimizer.memory)
        return _Captured(inputs, targets, result, replay, before, after, form(after))


class OnCuda:
    """Captures steps as CUDA graphs that share memory: they run one after another."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(
        self, step: Callable[[], StepResult], generator: torch.Generator
    ) -> tuple[StepResult, Replay]:
        """Capture a step."""
        graph = torch.cuda.CUDAGraph()
        if TorchVersion(torch.__version__) < "2.14":
            # Later versions find by themselves which generators a graph draws from.
            graph.register_generator_state(generator)
        # Threads that read images or write a checkpoint go on meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = step()
        return result, graph.replay


def step_graphs(
    task: Mapping[str, Value], optimizer: Variant, model: nn.Module
) -> StepGraphs | None:
    """Return what makes the steps of a trial, None where the task does not ask for graphs.

    Raises:
        GraphError: its steps cannot be captured.
    """
    return StepGraphs(optimizer, model, OnCuda()) if task["graph"] else None


def faults(
    variant: type[Variant],
    knobs: Mapping[str, Value],
    base: str,
    task: Mapping[str, Value],
    *,
    gpus: float,
    workers: int,
) -> list[str]:
    """Return why the steps of such trials cannot be captured, as far as it is known beforehand.

    Args:
        variant: the class of their optimizer.
        knobs: all of its own.
        base: the word for its base.
        task: all words of the task.
        gpus: of each process of a trial.
        workers: the processes of a trial.
    """
    if not task["graph"]:
        return []
    found = []
    why = variant.uncaptured_of(knobs)
    if why is None and variant.bases and base not in Variant.bases:
        why = f"its base, {base}, is none of {', '.join(Variant.bases)}"
    if why is not None:
        found.append(_of_variant(variant.name, why))
    if not gpus:
        found.append(
            "task.graph: a CUDA graph needs a GPU; set resources.gpus to 1, or task.graph to false"
        )
    if workers > 1:
        found.append(
            "task.graph: the steps of several workers exchange gradients; set resources.workers "
            "to 1, or task.graph to false"
        )
    if task["precision"] == "fp16":
        found.append(
            "task.graph: the loss scaler of fp16 looks at each gradient; set task.precision to "
            "bf16, or task.graph to false"
        )
    if task["dropout"]:
        found.append(f"{_DRAWS}, or task.dropout to 0")
    return found


def check(model: nn.Module, in_shape: tuple[int, int, int]) -> None:
    """Train a model on two black images, to see whether it is the same in each pass.

    Raises:
        GraphError: It is not, so no graph can hold its passes.
    """
    modules = [*model.train().modules()]
    before, numbers = _random_states(modules, ()), []
    for _ in range(2):
        with torch.no_grad():
            model(torch.zeros(2, *in_shape))
        numbers.append(_numbers(modules))
    if before != _random_states(modules, ()):
        raise GraphError(_DRAWS)
    _refuse_counts(modules, *numbers)


def _of_variant(name: str, why: str) -> str:
    return f"task.graph: no graph can hold a step of {name}: {why}; set task.graph to false"


def _refuse_counts(
    modules: Iterable[nn.Module], before: Sequence[Numbers], after: Sequence[Numbers]
) -> None:
    """Raise GraphError if a number of a module's own has changed from one pass to the next.

    Numbers elsewhere, as in a list of the module, are not seen.
    """
    for module, old, new in zip(modules, before, after, strict=True):
        # By their text, in which nan equals itself.
        if changed := [name for name in new if name in old and repr(old[name]) != repr(new[name])]:
            raise GraphError(_COUNTS.format(f"{type(module).__name__}.{changed[0]}"))


def _numbers(modules: Iterable[nn.Module]) -> list[Numbers]:
    return [
        {name: value for name, value in vars(module).items() if isinstance(value, int | float)}
        for module in modules
    ]


def _random_states(modules: Iterable[nn.Module], devices: Iterable[torch.device]) -> list[object]:
    return [_comparable(generator.read()) for generator in generators(modules, devices)]


def _comparable(state: object) -> object:
    return state.numpy().tobytes() if isinstance(state, Tensor) else repr(state)
