"""The sharpness of a trained model by fixed settings: the `sharp_` columns of its repeat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from samtune.trial import TrialConfig, Value
from trainables import checkpoint
from trainables.augment import Normaliser
from trainables.checkpoint import CheckpointError
from trainables.data import load
from trainables.models import build_for
from trainables.models.freezing import frozen_for_good
from trainables.sharpness import (
    BatchNormMode,
    Surface,
    fixed_subset,
    lambda_max,
    trace,
    worst_case,
)
from trainables.split import Split
from trainables.targets import cross_entropy


@dataclass(frozen=True)
class Measurement:
    """The settings of a sharpness measurement. Only figures of equal settings can be compared.

    Attributes:
        samples: Images of the training split, chosen by hash; all of a smaller split.
        m: Images that share a perturbation, and that are one batch of BatchNorm in mode `train`.
        rho: Radius of the perturbations: the L2 norm of d, and that of d / |w| where adaptive.
        batch_norm: `eval` takes the running statistics, `train` those of each batch.

    """

    samples: int = 1024
    m: int = 128
    rho: float = 0.1
    batch_norm: BatchNormMode = "eval"

    def of(
        self, model: nn.Module, split: Split, normalise: Normaliser, task: Mapping[str, Value]
    ) -> dict[str, Value]:
        """Return the columns of a model.

        The loss is the task's, on training images without augmentation and with the labels that
        the model was trained on. It is computed in float32, whatever the task's precision.

        Args:
            model: The trained model, not compiled.
            split: Its training split.
            normalise: What its images go through.
            task: The settings of its task.

        """
        device = next(model.parameters()).device
        chosen = torch.tensor(fixed_subset(len(split), self.samples, task["dataset"]))
        chosen = chosen.to(split.rows.device)
        ((images, labels),) = split.batches(chosen, len(chosen), device)
        pixels = images.shape[2] * images.shape[3]
        # A second derivative keeps several copies of all activations.
        batch = max(1, min(self.m, self.m * 64 * 64 // pixels))
        surface = Surface(
            model,
            cross_entropy(float(task["label_smoothing"])),
            normalise(images),
            labels,
            batch_norm=self.batch_norm,
            batch=self.m if self.batch_norm == "train" else batch,
        )
        return {
            "sharp_lambda_max": lambda_max(surface),
            "sharp_trace": trace(surface)[0],
            "sharp_worst_rho": worst_case(surface, self.rho, self.m),
            "sharp_worst_adaptive": worst_case(surface, self.rho, self.m, adaptive=True),
            "sharp_samples": len(chosen),
            "sharp_m": self.m,
            "sharp_rho": self.rho,
            "sharp_bn_mode": self.batch_norm,
        }


def of_checkpoint(config: TrialConfig, how: Measurement) -> dict[str, Value]:
    """Return the columns of a trial that has ended, from its last checkpoint.

    Raises:
        CheckpointError: There is no whole checkpoint.

    """
    folder = Path(config.checkpoint_dir or "")
    path = checkpoint.latest(folder)
    if path is None:
        raise CheckpointError(f"{folder} has no checkpoint, and only a trained model is measured")
    on_gpu = config.gpus > 0 and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    data = load(config.task, config.seeds.split)
    model = rebuilt(config.task, data.train, data.classes, checkpoint.load(path)["model"])
    normalise = Normaliser(data.mean.to(device), data.std.to(device))
    return how.of(model.to(device), data.train, normalise, config.task)


def rebuilt(
    task: Mapping[str, Value], split: Split, classes: int, weights: dict[str, Any]
) -> nn.Module:
    """Return the model of a task with the given weights and buffers, not compiled."""
    channels, height, width = split.images.shape[1:]
    plain = {**task, "weights": ""}
    if not frozen_for_good(task):
        plain["freeze"] = ""
    model = build_for(plain, (channels, height, width), classes, seed=0)
    model.load_state_dict(weights)
    return model
