"""What a trainable may report, from where, and what becomes of its budget."""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import samtune
from samtune.trial import Budget, BudgetKind, ReportError, Seeds, TrialConfig, running, warn
from trainables.budget import Meter


def config(kind: BudgetKind = "epochs", per_trial: float = 9, **more: Any) -> TrialConfig:
    return TrialConfig(
        **{"trainable": "lab:toy", "variant": "toy", "base": "none", "knobs": {}, "task": {}},
        **{"budget": Budget(kind, per_trial), "seeds": Seeds(1, 2, 3), **more},
    )


def sent(*reports: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    """The reports as they are sent, each with a `val_acc` unless it has one."""
    found: list[dict[str, Any]] = []
    with running(config(**more), found.append):
        for report in reports:
            samtune.report(**{"val_acc": 0.5, **report})
    return found


@pytest.mark.parametrize(
    "epoch",
    [
        *(1.9, -1, 2**31, 10**30, 10**5000, True, float("nan"), float("inf"), None, "1", [1], 1j),
        *(np.array([1, 2]), np.float32(0.5), torch.tensor(True), torch.zeros(2)),
    ],
    ids=lambda value: str(type(value).__name__),
)
def test_an_epoch_is_a_whole_number(epoch: Any) -> None:
    with pytest.raises(ReportError, match="epoch"):
        sent({"epoch": epoch})


@pytest.mark.parametrize("epoch", [3, np.int64(3), np.float32(3), torch.tensor(3), 3.0])
def test_a_whole_number_of_any_library_is_an_epoch(epoch: Any) -> None:
    (report,) = sent({"epoch": epoch})
    assert type(report["epoch"]) is int and report["epoch"] == 3


@pytest.mark.parametrize(
    "value",
    [
        *(2**70, -(2**63) - 1, 10**400, 10**5000, None, "0.5", True, np.bool_(True), 1j, [0.5]),
        *(np.zeros(2), torch.zeros(2), torch.tensor(1j), torch.zeros((), device="meta")),
        *({}, torch.Tensor),
    ],
    ids=lambda value: str(type(value).__name__),
)
@pytest.mark.parametrize("name", ["val_acc", "val/f1"])
def test_a_metric_is_one_real_number(name: str, value: Any) -> None:
    with pytest.raises(ReportError, match=name):
        sent({"epoch": 1, name: value})


@pytest.mark.parametrize(
    "value", [np.float32(0.25), torch.tensor(0.25), np.array([0.25]), torch.tensor([[0.25]]), 0.25]
)
def test_a_metric_of_any_library_becomes_a_float(value: Any) -> None:
    (report,) = sent({"epoch": 1, "val_acc": value})
    assert type(report["metrics"]["val_acc"]) is float and report["metrics"]["val_acc"] == 0.25
    json.dumps(report)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, 1.5, 2.0**63])
def test_counts_are_counts(value: float) -> None:
    with pytest.raises(ReportError, match=r"step is .*; it must be a whole number from 0 to"):
        sent({"epoch": 1, "step": value})


@pytest.mark.parametrize("name", ["", "a\nb", "a\x1b[2J", "\ud800", "x" * 101])
def test_a_name_can_be_printed(name: str) -> None:
    with pytest.raises(ReportError, match="is the name of a metric"):
        sent({"epoch": 1, name: 0.5})
    with pytest.raises(ReportError, match="is the name of a fact"):
        sent({"epoch": 1, "facts": {name: 1}})


@pytest.mark.parametrize(
    ("name", "value", "plain"),
    [
        ("n_params", np.int64(5), 5),
        ("n_params", torch.tensor(5), 5),
        ("n_params", 5.0, 5),
        ("width", np.float32(0.5), 0.5),
        ("deterministic", np.bool_(True), True),
        ("place", Path("/data"), "/data"),
        ("device", np.str_("cpu"), "cpu"),
    ],
)
def test_a_fact_of_any_library_is_recorded(name: str, value: Any, plain: Any) -> None:
    (report,) = sent({"epoch": 1, "facts": {name: value}})
    assert report["facts"] == {name: plain} and type(report["facts"][name]) is type(plain)
    json.dumps(report)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("width", value)
            for value in (None, {}, [1], (1,), 1j, 2**70, b"x", object(), "\ud800")
        ),
        *(("width", value) for value in (float("nan"), float("-inf"), np.zeros(2), torch.ones(2))),
        *(("n_val", value) for value in ("many", -1, 2.5, True, 2**31)),
        *(("deterministic", value) for value in (1, "yes")),
        *(("device", value) for value in (0, True)),
        *(("test_bits", value) for value in (5, "1101 0011", "\u00e9")),
    ],
)
def test_a_fact_that_cannot_be_recorded_is_named(name: str, value: Any) -> None:
    with pytest.raises(ReportError, match=rf"facts\['{name}'\] is "):
        sent({"epoch": 1, "facts": {name: value}}, test_permit="p-1")


@pytest.mark.parametrize("report", [{"test_acc": 0.5}, {"facts": {"test_bits": "oIA="}}])
def test_a_trial_of_the_search_reports_nothing_of_test(report: dict[str, Any]) -> None:
    with pytest.raises(ReportError, match="reported by a trial without a permit to open test"):
        sent({"epoch": 1, **report})
    assert sent({"epoch": 1, **report}, test_permit="p-1")


def test_facts_are_a_dict_with_names() -> None:
    with pytest.raises(ReportError, match="facts is a list"):
        sent({"epoch": 1, "facts": ["n_params"]})
    with pytest.raises(ReportError, match="1 is the name of a fact"):
        sent({"epoch": 1, "facts": {1: 1}})


def test_a_checkpoint_is_a_path() -> None:
    (report,) = sent({"epoch": 1, "checkpoint": Path("a/b"), "checkpoint_sha256": "ab"})
    assert (report["checkpoint"], report["checkpoint_sha256"]) == ("a/b", "ab")
    for field in ("checkpoint", "checkpoint_sha256"):
        with pytest.raises(ReportError, match=f"{field} is "):
            sent({"epoch": 1, field: 5})


def test_a_second_report_of_an_epoch_is_refused_at_once() -> None:
    with pytest.raises(ReportError, match="epoch 1 was reported twice; report once per epoch"):
        sent({"epoch": 1}, {"epoch": 1, "val_acc": 0.6})
    with pytest.raises(ReportError, match="epoch 1 was reported after epoch 2"):
        sent({"epoch": 2}, {"epoch": 1})


@pytest.mark.parametrize("start", [lambda f: threading.Thread(target=f), None])
def test_threads_of_the_trainable_report(start: Callable[..., threading.Thread] | None) -> None:
    found: list[dict[str, Any]] = []
    with running(config(), found.append):
        if start is None:
            with ThreadPoolExecutor(1) as pool:
                for epoch in (1, 2):
                    pool.submit(samtune.report, epoch=epoch, val_acc=0.5).result()
        else:
            for epoch in (1, 2):
                thread = start(lambda epoch=epoch: samtune.report(epoch=epoch, val_acc=0.5))
                thread.start()
                thread.join()
    assert [report["epoch"] for report in found] == [1, 2]


def test_a_thread_of_an_earlier_trial_cannot_report_for_this_one() -> None:
    found: list[dict[str, Any]] = []
    with ThreadPoolExecutor(1) as pool:
        with running(config(), found.append):
            pool.submit(samtune.report, epoch=1, val_acc=0.5).result()
        late = pool.submit(samtune.report, epoch=2, val_acc=0.5)
        with pytest.raises(ReportError, match="outside a trial"):
            late.result()
        with running(config(), found.append):
            late = pool.submit(samtune.report, epoch=2, val_acc=0.5)
            with pytest.raises(ReportError, match="older than the trial"):
                late.result()
    assert [report["epoch"] for report in found] == [1]


def _report_from_a_process(answers: Any) -> None:
    try:
        samtune.report(epoch=1, val_acc=0.5)
    except ReportError as error:
        answers.put(str(error))


@pytest.mark.parametrize(
    ("method", "words"), [("fork", "in a subprocess"), ("spawn", "in another process")]
)
def test_another_process_is_told_where_to_report(method: str, words: str) -> None:
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    found: list[dict[str, Any]] = []
    with running(config(), found.append):
        process = context.Process(target=_report_from_a_process, args=(answers,))
        process.start()
        assert words in answers.get(timeout=60)
        process.join()
    assert not found


def test_a_warning_from_a_thread_comes_with_the_next_report() -> None:
    found: list[dict[str, Any]] = []
    with running(config(), found.append):
        thread = threading.Thread(target=warn, args=("low on disk",))
        thread.start()
        thread.join()
        samtune.report(epoch=1, val_acc=0.5)
    assert found[0]["warnings"] == ["low on disk"]


def test_seconds_go_on_from_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    true = time.monotonic
    found: list[dict[str, Any]] = []
    with running(config("seconds", 600, used=400.0), found.append):
        monkeypatch.setattr(time, "monotonic", lambda: true() + 100)
        samtune.report(epoch=1, val_acc=0.5)
    assert found[0]["used"] == pytest.approx(500, abs=10)


def test_training_seconds_count_all_attempts() -> None:
    seconds = {"kind": "seconds", "per_trial": 6, "used": 4.0}
    # A trainable that kept its count goes on from it, one that did not began at 0.
    kept = sent({"epoch": 5, "train_s": 4.0}, {"epoch": 6, "train_s": 5.0}, **seconds)
    anew = sent({"epoch": 1, "train_s": 1.0}, {"epoch": 2, "train_s": 4.5}, **seconds)
    assert [report["used"] for report in kept] == [4.0, 5.0]
    assert [report["used"] for report in anew] == [5.0, 8.5]


@pytest.mark.parametrize(("kind", "spent"), [("seconds", 4.0), ("epochs", 0.0)])
def test_the_shipped_loop_counts_the_seconds_that_were_used(
    kind: BudgetKind, spent: float
) -> None:
    meter = Meter(Budget(kind, 6), n_train=100, batch_size=10)
    meter.charge(4.0)
    assert meter.spent == spent
    meter.charge(3.0)
    assert meter.spent == spent, "what a checkpoint knows already is not counted twice"


def test_a_report_has_every_aim_of_the_search() -> None:
    aims = ("latency",)
    assert sent({"epoch": 1, "latency": 2.0}, aims=aims)[0]["metrics"]["latency"] == 2.0
    with pytest.raises(ReportError, match=r"lacks 'latency', which search.metrics or search.con"):
        sent({"epoch": 1}, aims=aims)
    plain = json.loads(json.dumps(config(aims=aims).to_dict()))
    assert TrialConfig.from_dict(plain) == config(aims=aims)
    # A run of an older samtune has none.
    del plain["aims"]
    assert TrialConfig.from_dict(plain).aims == ()
