"""Measure the cost of a step of each variant, of its peers and of the floor.

`python -m benchmarks.step` prints tables. With `--json` it also writes every number to a file.
README.md explains the columns.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from benchmarks.contenders import SHAPES, TEXTBOOK, Contender, Problem, ours, peers, resnet18
from benchmarks.counting import PROMISED, Cost, counted, without_contents
from benchmarks.environment import environment
from benchmarks.timing import (
    FLOOR,
    PLAIN,
    Clock,
    FullStep,
    Seconds,
    optimizer_only,
    paired,
    peak_copies,
    ratio,
    small_cnn,
    spread,
)
from samtune.optimizers import VARIANTS
from trainables.allocator import keep_freed_memory


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark with the options of the command line."""
    chosen = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    device = torch.device(chosen.device)
    if device.type == "cpu":
        # As in a trial, and for all contenders.
        keep_freed_memory()
    shapes = chosen.shapes or ([*SHAPES][:1] if chosen.quick else [*SHAPES])
    rounds = chosen.rounds or (3 if chosen.quick else 7)
    variants = chosen.variants or [*VARIANTS]
    about = environment(
        *("torch", "torchvision", "pytorch-optimizer"),
        device=torch.cuda.get_device_name() if device.type == "cuda" else None,
    )
    results: dict[str, Any] = {"environment": about, "threads": torch.get_num_threads()}
    results["rounds"] = rounds
    print(f"{about['device']}, torch {torch.__version__}, {rounds} rounds")
    if importlib.util.find_spec("pytorch_optimizer") is None:
        print("pytorch-optimizer is not installed; its SAM is left out (pip install it)")
    contenders = {name: partial(ours, name) for name in variants} | peers()
    results["optimizer_only"] = {
        shape: _optimizer_only(shape, contenders, rounds, device) for shape in shapes
    }
    full = [PLAIN, *variants]
    results["full_step"] = _full_steps(full, 5 * rounds, device)
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1) + "\n")
        print(f"wrote {chosen.json}")


def _optimizer_only(
    shape: str,
    contenders: dict[str, Callable[[Problem], Contender]],
    rounds: int,
    device: torch.device,
) -> dict[str, dict[str, Any]]:
    fake = without_contents(SHAPES[shape])
    costs: dict[str, Cost] = {}
    for name, make in contenders.items():
        try:
            costs[name] = counted(fake, make)
        except Exception as error:
            print(f"{name} cannot be counted: {_first_line(error)}")
    problem = Problem(SHAPES[shape]().to(device), device)
    made = [make(problem) for make in contenders.values()]
    seconds = optimizer_only(problem, made, rounds, device)
    rows = {}
    for name in [*contenders, FLOOR]:
        cost = costs.get(name)
        rows[name] = {
            "ms": 1000 * median(seconds[name]),
            "x_textbook": ratio(seconds, name, TEXTBOOK),
            "x_floor": ratio(seconds, name, FLOOR),
            "promised_copies": PROMISED.get(name),
            **(asdict(cost) if cost else {"words": 9.0} if name == FLOOR else {}),
        }
        if device.type == "cuda" and name != FLOOR:
            rows[name]["copies_on_cuda"] = peak_copies(problem, contenders[name])
    title = f"{shape}: {problem.size / 1e6:.2f} M parameters in {len(problem.parameters)} tensors"
    print(f"\n{title}; the optimizer's work alone")
    copies = "copies_on_cuda" if device.type == "cuda" else "copies"
    _print_table(
        ("", "ms", "x textbook", "[quartiles]", "x floor", *_COUNTS, "promised"),
        [
            (
                name,
                f"{row['ms']:.1f}",
                f"{row['x_textbook'][1]:.2f}",
                "[{:.2f} {:.2f}]".format(*row["x_textbook"][::2]),
                f"{row['x_floor'][1]:.2f}",
                _number(row.get("launches")),
                _number(row.get("most_launches")),
                _number(row.get("words")),
                _number(row.get("syncs")),
                _number(row.get(copies)),
                _number(row["promised_copies"]),
            )
            for name, row in rows.items()
        ],
    )
    return rows


_COUNTS = ("launches", "(most)", "words", "syncs", "copies")


def _full_steps(names: Sequence[str], rounds: int, device: torch.device) -> dict[str, Any]:
    on_cuda = device.type == "cuda"
    net = resnet18 if on_cuda else small_cnn
    full = {name: FullStep(name, net, device) for name in names}
    clock = Clock(device)
    times = 10 if on_cuda else 1

    def timed(f: FullStep, sees: list[float]) -> float:
        f.begin()
        seconds = clock.measure(lambda _: f.step(), f.cycle * times)
        sees.append(f.see / (f.cycle * times))
        return seconds

    def timed_alone(f: FullStep) -> float:
        return clock.measure(lambda _: f.passes_alone()) / (f.cycle * times)

    batch = len(full[names[0]].inputs)
    rows: dict[str, Any] = {}
    sees: dict[str, list[float]] = {n: [] for n in full}
    runs = {n: partial(timed, f, sees[n]) for n, f in full.items()}
    alone = {n: partial(timed_alone, f) for n, f in full.items() if n != PLAIN}
    eager = paired(runs, PLAIN, rounds, alone)
    # The first one warms up.
    sees = {n: of_one[1:] for n, of_one in sees.items()}
    _add_shares(rows, "eager", sees, *eager, batch)
    if on_cuda:
        graphs = {}
        for name, f in full.items():
            rows[name]["synchronisations"] = _synchronisations(f.step)
            try:
                replay = f.captured()
            except RuntimeError as error:
                print(f"{name} cannot be captured in a CUDA graph: {_first_line(error)}")
            else:
                graphs[name] = partial(clock.measure, lambda _, r=replay: r(), f.cycle * times)
        if PLAIN in graphs:
            _add_shares(rows, "captured", sees, *paired(graphs, PLAIN, rounds), batch)
    print(
        f"\nwhole steps of {net.__name__}, batch {batch}, {rounds} rounds; "
        "x theory: 1 is passes x plain SGD; x passes: 1 is the step's own passes alone"
    )
    modes = ("eager", "captured") if on_cuda else ("eager",)
    _print_table(
        ("", "passes", *(f"{m} {c}" for m in modes for c in _SHARES)),
        [
            (
                name,
                f"{row['passes']:.2f}",
                *(
                    _cell(row.get(mode, {}).get(key), how)
                    for mode in modes
                    for key, how in _SHARES.values()
                ),
            )
            for name, row in rows.items()
        ],
    )
    return {"network": net.__name__, "batch": batch, "rounds": rounds, "rows": rows}


_SHARES = {
    "ms": ("ms", ".2f"),
    "images/s": ("images_per_s", ".0f"),
    "share of SGD": ("share_of_sgd", ".2f"),
    "x theory": ("x_theory", ".3f"),
    "[quartiles]": ("x_theory_quartiles", ""),
    "x passes": ("x_passes", ".3f"),
    "[of these]": ("x_passes_quartiles", ""),
}


def _add_shares(
    rows: dict[str, Any],
    mode: str,
    sees: Seconds,
    seconds: Seconds,
    ratios: Seconds,
    own: Seconds,
    batch: int,
) -> None:
    for name in seconds:
        taken = ratios.get(name, [1.0])
        # Passes of these very steps, because some variants decide on their passes in each step.
        low, middle, high = spread([r / see for r, see in zip(taken, sees[name], strict=False)])
        rows.setdefault(name, {"passes": fmean(sees[name])})[mode] = {
            "ms": 1000 * median(seconds[name]),
            "images_per_s": batch / median(seconds[name]),
            "share_of_sgd": 1 / median(taken),
            "x_theory": middle,
            "x_theory_quartiles": _rounded(low, high),
        }
        if name in own:
            low, middle, high = spread(own[name])
            rows[name][mode] |= {
                "x_passes": middle,
                "x_passes_quartiles": _rounded(low, high),
            }


def _cell(value: float | list[float] | None, how: str) -> str:
    if value is None:
        return "-"
    return f"{value:{how}}" if how else str(value)


def _rounded(*numbers: float) -> list[float]:
    return [round(n, 3) for n in numbers]


def _synchronisations(step: Callable[[], object]) -> int:
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(w.message) for w in seen)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}".rstrip("0").rstrip(".")


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    rule = ["-" * w for w in widths]
    for line in [header, rule, *lines[1:]]:
        cells = [line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]
        print("| " + " | ".join(cells) + " |")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__)
    parser.add_argument("--shapes", type=_one_of("shape", SHAPES), help=",".join(SHAPES))
    parser.add_argument("--variants", type=_one_of("variant", VARIANTS), help="default: all")
    parser.add_argument(
        "--rounds", type=int, help="default: 7, with --quick 3; five times as many of whole steps"
    )
    parser.add_argument("--quick", action="store_true", help="the first of the shapes, 3 rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there")
    available = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=available)
    return parser


def _one_of(what: str, known: Iterable[str]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        given = text.split(",")
        for name in given:
            if name not in known:
                raise argparse.ArgumentTypeError(
                    f"there is no {what} {name!r}; there are {', '.join(known)}"
                )
        return given

    return names


if __name__ == "__main__":
    main()
