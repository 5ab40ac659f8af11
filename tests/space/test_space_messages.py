"""What is wrong with a space file, in which words: ten mistakes of a newcomer, and the others."""

from __future__ import annotations

import pytest
from toy_space import load, messages

from samtune.optimizers import VARIANTS
from samtune.space.search_space import SpaceError

pytestmark = pytest.mark.usefixtures("toy_trainable", "in_folder")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("knobs:\n  rhoo: 0.5\n", "lab.yaml:4:3: toy has no knob 'rhoo'; did you mean 'rho'?"),
        (
            "knobs:\n  lr: '1e-2'\n",
            "lab.yaml:4:7: lr: '1e-2' is text, not a number; write 0.01 without quotes",
        ),
        ("knobs:\n  lr: fast\n", "lab.yaml:4:7: lr: 'fast' is text, not a number"),
        (
            "knobs:\n  lr: {min: 0.5, max: 0.1}\n",
            "lab.yaml:4:23: lr: min 0.5 is above max 0.1; swap them",
        ),
        (
            "knobs:\n  m: {chioce: [1, 2]}\n",
            "lab.yaml:4:7: knobs.m: 'chioce' is not a known word here; did you mean 'choice'?",
        ),
        (
            "knobs:\n  lr: [0.1, 0.2]\n",
            "lab.yaml:4:7: knobs.lr: a list where one value belongs; "
            "to try each: {choice: [...]} or {grid: [...]}",
        ),
        (
            "knobs:\n  lr: 0.1\n    rho: 0.5\n",
            "lab.yaml:5:8: a ':' inside a value; is this line indented too far, or is a space "
            "missing after the ':' above? (text with ': ' in it needs quotes)",
        ),
        (
            "knobs:\n    lr: 0.1\n  rho: 0.5\n",
            "lab.yaml:5:3: wrong indentation: this begins in column 3, where no map above has "
            "its entries; line it up with those it belongs to",
        ),
        (
            "knobs:\n  lr: 0.1\n  lr: 0.2\n",
            "lab.yaml:5:3: 'lr' is given twice; the first is in line 4",
        ),
        (
            "budget: {kind: epoch}\n",
            "lab.yaml:3:16: budget.kind: 'epoch' is none of compute, epochs, seconds; "
            "did you mean 'epochs'?",
        ),
        (
            "knobs:\n  beta1: 0.9\n",
            "lab.yaml:4:3: 'beta1' is a knob of the base adamw, and this space's base is sgd; "
            "remove it, or write `base: adamw`",
        ),
        (
            "knobs:\n  gamma_kept: 0.9\n",
            "lab.yaml:4:3: 'gamma_kept' is a knob of other, not of toy; "
            "toy has: rho, m, schedule, end, late, lr, momentum",
        ),
        ("knobs:\n\tlr: 0.1\n", "lab.yaml:4:1: a tab; YAML is indented and spaced with spaces"),
        (
            "budget:\n",
            "lab.yaml:3:8: budget: nothing is written here; write a value, or remove the line",
        ),
        (
            "task: digits\n",
            "lab.yaml:3:7: task: a map (`word: value`, one a line, indented) belongs here, "
            "not 'digits'",
        ),
    ],
)
def test_golden_messages(body: str, message: str) -> None:
    assert messages(body) == [message]


@pytest.mark.parametrize(
    ("knob", "message"),
    [
        ("lr: {min: 0, max: 1, scale: log}", "a log scale needs a min above 0, not 0.0"),
        ("lr: {mean: 0.1}", "'sd' is missing; a normal distribution is {mean: ..., sd: ...}"),
        ("lr: {mean: 0.1, sd: 0.01, scale: log}", "mean and sd belong to a linear scale"),
        ("lr: {mean: 0.1, sd: 1}", "lr is -3.9; it must be at least 0"),
        ("lr: {min: 0.1, max: 0.1}", "min and max are both 0.1; for one value write `lr: 0.1`"),
        (
            "lr: {min: 0, max: 1, step: 0.3}",
            "max 1.0 is not min plus whole steps; the last one is",
        ),
        ("lr: {min: 0, max: 1, step: 3}", "step 3.0 is wider than the range, 0.0 to 1.0"),
        ("lr: {min: 0, max: 1, step: 0}", "knobs.lr.step: must be greater than 0, not 0"),
        ("lr: {min: 0, max: 1, default: 2}", "default 2.0 is not in 0.0 to 1.0"),
        ("lr: {min: 0, max: 1, default: a}", "'a' is text, not a number"),
        ("lr: {min: 0}", "'max' is missing; a range is {min: ..., max: ...}"),
        ("lr: {}", "write a value, {min: ..., max: ...}, {choice: [...]} or {grid: [...]}"),
        ("lr: {min: 1,max: 2, choice: [1]}", "'min' is not a known word here"),
        ("m: {min: 1.5, max: 3}", "min 1.5 is not a whole number, and the type is int"),
        ("m: {min: 1, max: 3, type: float}", "whole numbers only; write type: int"),
        ("m: {min: 1, max: 3, type: itn}", "'itn' is none of int, float; did you mean 'int'?"),
        ("m: 1.5", "m is 1.5; it must be a whole number"),
        ("m: true", "true is not a number"),
        ("lr: -1", "lr is -1; it must be at least 0"),
        ("rho: {choice: []}", "the list is empty"),
        ("rho: {choice: [0.1, 0.1]}", "0.1 is listed twice"),
        ("rho: {choice: [0.1], default: 0.2}", "default 0.2 is not in the list; it has: 0.1"),
        ("rho: {choice: 0.1}", "a list belongs here: [0.1]"),
        ("rho: {grid: [[1]]}", "a list where one value belongs"),
        ("rho: .inf", "'.inf' is not a finite number"),
        ("rho: 1e999", "'1e999' is not a finite number"),
        ("rho: .nan", "'.nan' is not a finite number"),
        ("schedule: {min: 1, max: 2}", "write {choice: [constant, linear]}"),
        ("rho: null", "null removes an inherited knob, and there is none"),
    ],
)
def test_knobs_that_cannot_be(knob: str, message: str) -> None:
    found = messages(f"knobs:\n  {knob}\n")
    assert message in found[0]
    assert found[0].startswith("lab.yaml:4:")
    assert "Extra inputs" not in found[0] and "type=" not in found[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lab.yaml:1:1: the file is empty; begin it with `samtune: 1`"),
        ("# nothing\n", "lab.yaml:1:1: the file is empty; begin it with `samtune: 1`"),
        ("asam\n", "lab.yaml:1:1: text where a map belongs; begin the file with `samtune: 1`"),
        ("- asam\n", "lab.yaml:1:1: a list where a map belongs; begin the file with `samtune: 1`"),
        (
            "trainable: asam\n",
            "lab.yaml:1:1: begin the file with `samtune: 1` (the version of the format)",
        ),
        ("samtune: 2\n", "lab.yaml:1:10: this is format 2, and this samtune reads format 1"),
        (
            "samtune: 1\n",
            "lab.yaml:1:1: 'trainable' is missing; "
            f"write one of {', '.join(sorted(VARIANTS))}: `trainable: asam`",
        ),
        (
            "samtune: 1\ntrainable: labtrainables.mod:tpy\n",
            "lab.yaml:2:12: module labtrainables.mod has no trainable 'tpy'; did you mean 'toy'?",
        ),
        (
            "samtune: 1\ntrainable: os.path;x\n",
            "lab.yaml:2:12: 'os.path;x' names no trainable; "
            "write asam, or my_package.my_module:my_trainable",
        ),
    ],
)
def test_files_that_are_no_space(text: str, message: str) -> None:
    assert messages(text, head="") == [message]


def test_every_error_is_told_at_once_in_the_order_of_lines() -> None:
    found = messages(
        "knobs:\n"
        "  rho: {min: 2, max: 1}\n"
        "  lrr: 0.1\n"
        "  m: {chioce: [1]}\n"
        "budget: {trials: 0, kid: compute}\n"
        "task: {dataset: mnist, batchsize: 3}\n"
        "surch: {}\n",
        "momentum=fast",
        "nosuch=1",
    )
    places = [message.split(": ")[0] for message in found]
    assert places == [
        "--set momentum=fast",
        "--set nosuch=1",
        "lab.yaml:4:22",
        "lab.yaml:5:3",
        "lab.yaml:6:7",
        "lab.yaml:7:18",
        "lab.yaml:7:21",
        "lab.yaml:8:17",
        "lab.yaml:8:24",
        "lab.yaml:9:1",
    ]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("asha: {factor: 1}\n", "asha.factor: must be greater than 1, not 1"),
        (
            "asha: {mode: halve}\n",
            "asha.mode: 'halve' is none of stop, promote, halving; did you mean 'halving'?",
        ),
        ("asha: {mode: hyperband}\n", "asha.mode: 'hyperband' is none of stop, promote, halving"),
        ("asha: {tolerance: -1}\n", "asha.tolerance: must be at least 0, not -1"),
        ("asha: {tolerance: se}\n", "asha.tolerance: 'se' is text, not a number"),
        ("asha: {audit: 10}\n", "asha.audit: must be at most 1, not 10"),
        ("asha: {audit: true}\n", "asha.audit: true is not a number"),
        ("asha: {until: 30}\n", "30 is more than budget.per_trial (20); write `until: 20`"),
        (
            "asha: {rescue: 2, mode: promote}\n",
            "asha.rescue: it needs `mode: stop` and `audit: 0`",
        ),
        ("asha: {rescue: 2, audit: 0.5}\n", "asha.rescue: it needs `mode: stop` and `audit: 0`"),
        ("select: {with_search: 1}\n", "select.with_search: true or false belongs here, not 1"),
        ("asha: {adit: 0.1}\n", "'adit' is not a known word here; did you mean 'audit'?"),
        ("resources: {gpus: 1.5}\n", "resources.gpus: 1.5; above 1 it must be a whole number"),
        ("resources: {gpu_sharing: mps}\n", "resources.gpu_sharing: mps is for trials that share"),
        ("resources: {parallel: 0}\n", "0 is neither a whole number of at least 1 nor `auto`"),
        ("search: {seed: -1}\n", "search.seed: must be at least 0, not -1"),
        ("search: {first: default}\n", "search.first: a list belongs here: [default]"),
        ("search: {first: [defualt]}\n", "'defualt' is neither `default` nor a map"),
        ("search: {first: [{lr: 9}]}\n", "search.first: lr is never 9.0 in this space"),
        ("search: {first: [{lrr: 9}]}\n", "no knob 'lrr'; did you mean 'lr'?"),
        ("task: {split_seed: a}\n", "split_seed: a whole number of at least 0; 'a' is text"),
        ("search: {method: grid}\nknobs: {lr: {min: 0.1, max: 1}}\n", "needs a `step` here"),
        (
            "search: {method: grid}\nknobs: {lr: {min: 0, max: 1, step: 1e-6}}\n",
            "search.method: a grid of 1e+06 points",
        ),
    ],
)
def test_sections_that_cannot_be(body: str, message: str) -> None:
    found = messages(body)
    assert len(found) == 1
    assert message in found[0]


def test_a_grace_beyond_the_budget_means_no_early_stopping_and_is_told() -> None:
    (warning,) = load("asha: {grace: 30}\n").warnings
    assert "30 is more than budget.per_trial (20), so no trial is stopped early" in warning
    (warning,) = load("asha: {grace: 6, until: 5}\n").warnings
    assert "asha.grace: 6 is more than asha.until (5), so no trial is stopped early" in warning
    (warning,) = load("asha: {grace: 5, until: 5, rescue: 2}\n").warnings
    assert "5 is equal to asha.until (5), so no trial is stopped early, and none is" in warning
    assert not load("asha: {grace: 20}\n").warnings


def test_a_base_may_be_the_path_of_a_class() -> None:
    head = "samtune: 1\ntrainable: sam\nbase: torch.optim.NAdam\n"
    space = load("knobs:\n  momentum_decay: 0.01\n", head=head)
    assert space.base == "torch.optim.NAdam"
    assert space.knobs["momentum_decay"].value == 0.01 and space.knobs["lr"].value == 0.002


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("nadam", "sam has no base 'nadam'; write `base: torch.optim.NAdam`"),
        ("torch.optim.NAdm", "torch.optim has no optimizer 'NAdm'; did you mean NAdam?"),
        ("torch.optm.NAdam", "no module 'torch.optm'; did you mean torch.optim?"),
        ("torch.optim.LBFGS", "torch.optim.LBFGS cannot be a base: LBFGS evaluates the loss"),
        ("torch.optim.Muon", "torch.optim.Muon does not work as a base: Muon only supports 2D"),
    ],
)
def test_an_impossible_base_is_one_message(base: str, message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        load(f"base: {base}\n", head="samtune: 1\ntrainable: sam\n")
    [found] = caught.value.messages
    assert found.startswith("lab.yaml:") and message in found


def test_a_trainable_that_computes_on_one_gpu_gets_no_two() -> None:
    """GPU defect 17. It would hold two GPUs and use one."""
    [message] = messages("resources: {gpus: 2}\n", head="samtune: 1\ntrainable: sam\n")
    assert "write `resources: {gpus: 1, workers: 2}` for a trial on 2 of them" in message


def test_a_word_about_what_is_off_is_not_ignored() -> None:
    head = "samtune: 1\ntrainable: sam\n"
    [message] = messages("resources: {gpu_memory_gb: 4}\n", head=head)
    assert "gpus is 0; write gpus: 1, or gpu_memory_gb: 0" in message
    [message] = messages("task: {combo_kernels: true}\n", head=head)
    assert "task.compile is false; set task.compile to true" in message
    load("task: {combo_kernels: true, compile: true}\n", head=head)
    load("resources: {gpu_memory_gb: 4, gpus: 1}\n", head=head)
