"""Trials on digits in this process: trained, cut, and compared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from samtune.trial import Budget, Seeds, TrialConfig, running
from trainables import vision

ALL = (vision.sgd, vision.adamw, vision.sam, vision.asam)
# Metrics that a clock or the operating system decides.
MEASURED = {"train_s", "eval_s", "data_s", "peak_rss_mb", "peak_gpu_mb"}
Report = dict[str, Any]


class CutError(Exception):
    """The worker dies here."""


def config_of(trainable: vision.Vision, base: str = "sgd", **changes: Any) -> TrialConfig:
    config = TrialConfig(
        trainable=f"trainables.vision:{trainable.variant}",
        variant=trainable.variant,
        base=base,
        knobs={"lr": 0.05 if base == "sgd" else 0.002},
        task={"dataset": "digits", "model": "small_cnn", "label_noise": 0.4, "batch_size": 64},
        budget=Budget("compute", 2),
        seeds=Seeds(1, 2, 3),
    )
    return replace(config, **changes)


def train(config: TrialConfig, cut_at: int | None = None) -> list[Report]:
    reports: list[Report] = []

    def send(report: Report) -> None:
        reports.append(report)
        if report["epoch"] == cut_at:
            raise CutError

    with running(config, send):
        getattr(vision, config.variant)(config)
    return reports


def curve(reports: list[Report], *, without: frozenset[str] = frozenset()) -> list[Report]:
    return [
        {
            "epoch": report["epoch"],
            **{k: v for k, v in report["metrics"].items() if k not in MEASURED | without},
        }
        for report in reports
    ]


def assert_bitwise_equal(ours: Any, theirs: Any) -> None:
    if isinstance(ours, torch.Tensor):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_bitwise_equal(ours[key], theirs[key])
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for our, their in zip(ours, theirs, strict=True):
            assert_bitwise_equal(our, their)
    else:
        assert ours == theirs
