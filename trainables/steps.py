"""The steps of a trial: gradients and an update from a batch, on one process or on several."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from samtune.optimizers import GradientOracle, StepResult, Variant
from samtune.optimizers.two_pass import Sharpened
from samtune.trial import Value
from trainables.batch_norm import SharedNorm
from trainables.graphs import step_graphs
from trainables.parallel import Ranks, RankShare
from trainables.precision import Precision
from trainables.targets import cross_entropy


class Steps:
    """Makes the steps of a trial.

    Args:
        task: what is trained, and how.
        model: on its device.
        optimizer: the variant.
        precision: of the passes.
        ranks: the processes of the trial.

    Raises:
        GraphError: the task asks for steps as CUDA graphs, and these cannot be.

    Attributes:
        scaler: the loss scaler of fp16, otherwise None.
    """

    def __init__(
        self,
        task: Mapping[str, Value],
        model: nn.Module,
        optimizer: Variant,
        precision: Precision,
        ranks: Ranks,
    ) -> None:
        self.scaler = precision.scaler()
        self._model = model
        self._optimizer = optimizer
        self._loss = cross_entropy(float(task["label_smoothing"]))
        self._dtype = precision.dtype
        self._ranks = ranks
        self._sync_perturbation = bool(task["sync_perturbation"])
        self._graphs = step_graphs(task, optimizer, model)
        self._shared_norm = self._shared(task["batch_norm"] == "local")

    def _shared(self, local: bool) -> SharedNorm | None:
        """Return BatchNorm over all processes, or None where each normalises its own part.

        That is the case if the task says so, and where each process or chunk has a perturbation
        of its own.
        """
        chunks = isinstance(self._optimizer, Sharpened) and self._optimizer.m
        parts = not self._sync_perturbation or chunks
        if self._ranks.group is None or local or parts:
            return None
        return SharedNorm(self._model, self._ranks.group)

    def __call__(
        self, share: RankShare, inputs: Tensor, targets: Tensor, *, compare: bool
    ) -> StepResult:
        """Make a step; the next one may overwrite its result.

        Args:
            share: this rank's part of the batch.
            inputs: of this part.
            targets: labels, or shares of the classes.
            compare: the gradients of the step's two passes.
        """
        self.normalise_over(share)
        # Where every process has all of a small batch, each chooses from it by itself.
        together = self._sync_perturbation and share.copies == 1

        def oracle(x: Tensor, y: Tensor) -> GradientOracle:
            return GradientOracle(
                self._model,
                x,
                y,
                self._loss,
                autocast=self._dtype,
                scaler=self.scaler,
                ddp=self._ranks.group,
                sync_perturbation=together,
                compare=compare,
                # A graph refuses what draws random numbers.
                replay_rng=self._graphs is None,
            )

        if self._graphs is not None:
            return self._graphs.step(oracle, inputs, targets, compare)
        made: StepResult = self._optimizer.step(oracle(inputs, targets))
        return made

    def differentiate(self, inputs: Tensor, labels: Tensor) -> None:
        """Make one pass of a step, and leave everything as it was."""
        oracle = GradientOracle(self._model, inputs, labels, self._loss, autocast=self._dtype)
        oracle.grad(self._optimizer.parameters)
        oracle.rollback()

    def normalise_over(self, share: RankShare) -> None:
        """Let BatchNorm use the samples of all ranks, unless each has all of the batch."""
        if self._shared_norm is not None:
            self._shared_norm.on = share.copies == 1

    def average_norms(self) -> None:
        """Let all ranks have the means of their BatchNorm's statistics. Collective."""
        if self._shared_norm is None:
            self._ranks.average_buffers(self._model)
