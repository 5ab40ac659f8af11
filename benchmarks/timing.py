"""Timing of steps: process CPU time on the CPU, events on CUDA; all contenders in turn per round.

Other load on the machine slows down all contenders of a round alike. So the ratios within a round
are more reliable than the milliseconds.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import median, quantiles

import torch
from torch import Tensor, nn

from benchmarks.contenders import Contender, Meter, Problem, build, cycle
from samtune.optimizers import BASES, GradientOracle

FLOOR = "floor: 9 words"
PLAIN = "plain torch loop, fused SGD"

Seconds = dict[str, list[float]]
"""Seconds by contender, one entry per round."""

loss_fn = nn.CrossEntropyLoss(reduction="none")


class Clock:
    """A clock for steps, which pauses while gradients are supplied."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._cpu: list[float] = []
        self._cuda: list[torch.cuda.Event] = []

    def measure(self, step: Callable[[Meter], object], times: int = 1) -> float:
        """Return the mean seconds per step over `times` steps."""
        self._cpu.clear()
        self._cuda.clear()
        self._mark()
        for _ in range(times):
            step(self)
        self._mark()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            milliseconds: float = sum(
                a.elapsed_time(b) for a, b in zip(self._cuda[::2], self._cuda[1::2], strict=True)
            )
            return milliseconds / 1000 / times
        return (sum(self._cpu[1::2]) - sum(self._cpu[::2])) / times

    @contextmanager
    def handing_out(self) -> Iterator[None]:
        self._mark()
        yield
        self._mark()

    def _mark(self) -> None:
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._cuda.append(event)
        else:
            self._cpu.append(time.process_time())


def interleaved(runs: Mapping[str, Callable[[], float]], rounds: int) -> Seconds:
    """Call each run once per round, in rotating order, after one round of warm-up."""
    names = list(runs)
    seconds: Seconds = {name: [] for name in names}
    for r in range(-1, rounds):
        for i in range(len(names)):
            name = names[(i + r) % len(names)]
            took = runs[name]()
            if r >= 0:
                seconds[name].append(took)
    return seconds


Run = Callable[[], float]


def paired(
    runs: Mapping[str, Run], to: str, rounds: int, alone: Mapping[str, Run] | None = None
) -> tuple[Seconds, Seconds, Seconds]:
    """Return seconds, the ratios to `to`, and the ratios to each run's partner in `alone`.

    Every run is measured between two runs of `to` and compared with their mean. So a change in the
    machine's speed affects both.
    """
    alone = alone or {}
    seconds: Seconds = {name: [] for name in runs}
    ratios: Seconds = {name: [] for name in runs if name != to}
    own: Seconds = {name: [] for name in alone}
    for run in (*runs.values(), *alone.values()):
        run()
    for r in range(rounds):
        names = [*ratios]
        names = names[r % len(names) :] + names[: r % len(names)]
        before = runs[to]()
        for name in names:
            took = runs[name]()
            partner = alone[name]() if name in alone else None
            after = runs[to]()
            if partner is not None:
                own[name].append(took / partner)
            seconds[name].append(took)
            seconds[to].append(after)
            ratios[name].append(2 * took / (before + after))
            before = after
    return seconds, ratios, own


def spread(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Return the first quartile, the median and the third quartile."""
    if len(ratios) < 2:
        return ratios[0], ratios[0], ratios[0]
    low, _, high = quantiles(ratios, n=4, method="inclusive")
    return low, median(ratios), high


def ratio(seconds: Seconds, name: str, to: str) -> tuple[float, float, float]:
    """Return first quartile, median and third quartile of the ratios within a round."""
    return spread([a / b for a, b in zip(seconds[name], seconds[to], strict=True)])


def optimizer_only(
    problem: Problem, contenders: Sequence[Contender], rounds: int, device: torch.device
) -> Seconds:
    """Time the steps outside the passes, and the floor: 9 words at the speed of `torch.add`."""
    clock = Clock(device)
    a, b, c = (torch.ones(problem.size, device=device) for _ in range(3))

    def add(_: Meter) -> None:
        torch.add(a, b, out=c)

    runs: dict[str, Callable[[], float]] = {
        it.name: partial(clock.measure, it.step, it.cycle) for it in contenders
    }
    runs[FLOOR] = lambda: 3 * clock.measure(add)
    return interleaved(runs, rounds)


def peak_copies(problem: Problem, contender: Callable[[Problem], Contender]) -> float:
    """Return the peak CUDA memory of a contender, in copies of the model.

    It does not include the weights, one set of gradients and the state of the base.
    """
    before = torch.cuda.memory_allocated()
    it = contender(problem)
    clock = Clock(torch.device("cuda"))
    clock.measure(it.step, max(2, it.cycle))
    torch.cuda.reset_peak_memory_stats()
    clock.measure(it.step, it.cycle)
    state = sum(
        t.nbytes
        for of_one in it.base.state.values()
        for t in of_one.values()
        if torch.is_tensor(t)
    )
    return (torch.cuda.max_memory_allocated() - before - state) / (4 * problem.size) - 1


class FullStep:
    """Whole steps on a real network and one batch, with forward and backward passes.

    `passes` has the passes since the last `begin()`: the samples of each, and whether a backward
    pass follows.
    """

    def __init__(self, name: str, make: Callable[[], nn.Module], device: torch.device) -> None:
        torch.manual_seed(0)
        self.autocast = torch.bfloat16 if device.type == "cuda" else None
        self.model = make().to(device)
        batch = 128 if device.type == "cuda" else 64
        self.inputs = torch.randn(batch, 3, 32, 32, device=device)
        self.targets = torch.randint(10, (batch,), device=device)
        self.passes: list[tuple[int, bool]] = []
        self._noting = True
        self.model.register_forward_pre_hook(self._note)
        if name == PLAIN:
            parameters = list(self.model.parameters())
            self.base = BASES["sgd"].build(parameters, lr=1e-3)
            self.cycle = 1
            self.step: Callable[[], object] = self._plain_step
        else:
            variant = build(name, self.model)
            self.base = variant.base
            self.cycle = cycle(variant)
            self.step = lambda: variant.step(self._oracle())
        for group in self.base.param_groups:
            if "capturable" in group and device.type == "cuda":
                group["capturable"] = True

    def begin(self) -> None:
        """Forget the passes so far."""
        self.passes.clear()

    @property
    def see(self) -> float:
        """The cost of the passes, (forward + 2 backward) / 3, as multiples of a batch."""
        return sum(size * (3 if backward else 1) for size, backward in self.passes) / (
            3 * len(self.inputs)
        )

    def passes_alone(self) -> None:
        """Make the same passes, of the same sizes, without the rest of the steps."""
        self._noting = False
        for size, backward in self.passes:
            with torch.set_grad_enabled(backward):
                with self._autocast():
                    outputs = self.model(self.inputs[:size])
                loss = loss_fn(outputs, self.targets[:size]).mean()
            if backward:
                loss.backward()
                self.model.zero_grad()
        self._noting = True

    def _note(self, _: nn.Module, inputs: tuple[Tensor]) -> None:
        if self._noting:
            self.passes.append((len(inputs[0]), torch.is_grad_enabled()))

    def _oracle(self) -> GradientOracle:
        # These networks use no random numbers, and a graph cannot read the generator's state.
        return GradientOracle(
            self.model,
            self.inputs,
            self.targets,
            loss_fn,
            autocast=self.autocast,
            replay_rng=self.autocast is None,
        )

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.inputs.device.type, self.autocast, self.autocast is not None)

    def _plain_step(self) -> None:
        self.base.zero_grad()
        with self._autocast():
            loss = loss_fn(self.model(self.inputs), self.targets).mean()
        loss.backward()
        self.base.step()

    def captured(self) -> Callable[[], object]:
        """Capture the steps of a cycle in CUDA graphs; return a call that replays them in turn.

        Raises:
            RuntimeError: A step cannot be captured, for example because the host waits in it.
        """
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(max(3, self.cycle)):
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        pool = torch.cuda.graph_pool_handle()
        graphs = []
        for _ in range(self.cycle):
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                self.step()
            graphs.append(graph)
        turns = itertools.cycle(graphs)
        return lambda: next(turns).replay()


def small_cnn() -> nn.Module:
    """Return four convolutions with BatchNorm for 32x32 images: 61 thousand parameters."""
    widths = (3, 16, 32, 64, 64)
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        layers += [
            nn.Conv2d(before, after, 3, stride=1 + (i > 0), padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
