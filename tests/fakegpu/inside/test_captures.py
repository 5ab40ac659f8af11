"""Whole steps as CUDA graphs: what a graph captures, and that a replayed step is one launch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from digits_trial import CutError, train
from gpu import counted, launches, run, trial
from problems import DATA_DEPENDENT

from samtune.optimizers import VARIANTS
from samtune.optimizers.knobs import KnobError
from trainables import loop
from trainables.graphs import GraphError, StepGraphs

TASK = {"graph": True, "precision": "fp32"}
CAPTURED = [name for name in VARIANTS if name not in DATA_DEPENDENT]
FEW = 7
"""Launches of a replayed step: the graph, the batch, its rate, its radius, the seed of draws."""


@contextmanager
def logged() -> Iterator[list[Counter[str]]]:
    """The counts of each step."""
    found: list[Counter[str]] = []
    step = StepGraphs.step

    def watched(*words: Any) -> Any:
        with counted() as of_step:
            result = step(*words)
        found.append(of_step)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepGraphs, "step", watched)
        yield found


@pytest.mark.parametrize("name", CAPTURED)
def test_a_graph_holds_the_whole_step(name: str) -> None:
    """GPU defect 9. ESAM and bSAM too draw from a generator that the graph holds."""
    knobs = {"update_freq": 6} if name == "sparse_sam" else {}
    knobs |= {"k": 2} if name.startswith("look_") else {}
    with logged() as steps:
        (*_, last) = run(name, 6, task=TASK, knobs=knobs)
    assert last["metrics"]["step"] == len(steps) == 18
    assert not any(step["REFUSED"] for step in steps), "a wait in a graph"
    captured = [step for step in steps if step["CAPTURED"]]
    # Of each kind of step, and once: the batches of 128 and of 44 images.
    assert 2 <= len(captured) <= (6 if name.startswith("look_") else 2)
    replayed = [step for step in steps if launches(step) <= FEW and not step["CAPTURED"]]
    assert len(replayed) >= (4 if name.startswith(("look_", "sparse")) else 10)
    assert not any(step["WAIT"] + step["H2D"] + step["MALLOC"] for step in replayed)
    # As many launches as the steps that it stands for have. The first one makes the state.
    usual = max(launches(step) for step in steps[1:])
    assert 0.8 * usual < max(step["CAPTURED"] for step in captured) <= 1.2 * usual


@pytest.mark.parametrize("task", [{"augment": "cutout", "mixup": 0.2}, {"precision": "bf16"}])
def test_a_graph_takes_any_batch(task: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "enabled", "bf16" not in task.values())
    with logged() as steps:
        run("sam", 5, task={**TASK, "batch_size": 8, "train_size": 20, "label_noise": 0.0, **task})
    assert sum(launches(step) <= FEW for step in steps) >= 8
    assert not any(step["REFUSED"] for step in steps)


@pytest.mark.parametrize("average", ["ema", "swa"])
def test_an_average_leaves_the_weights_where_a_graph_reads_them(
    average: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, read = set(), set()
    evaluate, step = loop.evaluate, StepGraphs.step

    def watched_evaluate(predict: Any, split: Any) -> dict[str, float]:
        shown.add(tuple(p.data_ptr() for p in predict.model.parameters()))
        return evaluate(predict, split)

    def watched_step(self: StepGraphs, *words: Any) -> Any:
        read.add(tuple(w.data_ptr() for w in self._optimizer.weights))
        return step(self, *words)

    monkeypatch.setattr(loop, "evaluate", watched_evaluate)
    monkeypatch.setattr(StepGraphs, "step", watched_step)
    with logged() as steps:
        reports = run("sam", 6, task={**TASK, "average": average, "average_start": 0.0})
    assert all("val_acc_averaged" in report["metrics"] for report in reports)
    assert len(read) == 1 and len(shown) == 2 and read < shown
    assert sum(step["CAPTURED"] > 0 for step in steps) == 2
    assert sum(launches(step) <= FEW for step in steps) >= 10
    assert not any(step["REFUSED"] for step in steps)


def test_a_step_that_looks_at_its_data_is_refused() -> None:
    with pytest.raises(KnobError, match="ae_sam: it looks at each gradient"):
        run("ae_sam", 1, task=TASK)
    # A space with dropout is refused, and so is a model of one's own that draws on the CPU.
    with pytest.raises(GraphError, match="the model draws random numbers"):
        run("sam", 1, task={**TASK, "model": "narrow:dropping"})


def test_a_trial_of_graphs_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    config = trial("vasso", 6, checkpoint_dir=str(tmp_path), task=TASK)
    with pytest.raises(CutError):
        train(config, cut_at=4)
    with logged() as steps:
        reports = train(config)
    assert [report["epoch"] for report in reports] == [4, 5, 6]
    assert len(steps) == 6 and steps[3]["CAPTURED"] and launches(steps[4]) <= FEW
