"""K-SAM (Ni et al., 2022, arXiv 2210.12864)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from samtune.optimizers.knobs import knob
from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.result import Passes
from samtune.optimizers.sam import SAM
from samtune.optimizers.tensors import Gradients


@dataclass(eq=False, kw_only=True)
class KSAM(SAM):
    """SAM on the K samples of the batch that have the largest losses, in both of its passes.

        K  = the ceil(kept b) samples with the largest loss at w        one forward pass
        g  = grad L_K(w),   h = grad L_K(w + rho g / ||g||)             means over K, not over B
        w <- Base(w, h)

    BatchNorm counts the forward pass over the whole batch. `kept` 1 is SAM, and needs no such
    pass. This follows the abstract of the paper; its choice of K is not implemented.
    """

    name = "k_sam"

    kept: float = knob(
        0.5,
        low=0.0,
        high=1.0,
        safe=(0.1, 1.0),
        doc="share K / b of the batch that both gradients use, at least one sample and with "
        "BatchNorm two; 1 gives SAM",
        source="half of the batch costs 5/3 of SGD, as ESAM's samples",
    )

    @classmethod
    def sharp_passes(cls, knobs: Mapping[str, Any]) -> Passes:
        """Return the passes: one forward to choose the samples, and two of those kept."""
        kept = knobs["kept"]
        return (2.0, 2.0) if kept == 1 else (1 + 2 * kept, 2 * kept)

    def sharp(self, oracle: GradientOracle) -> Gradients:
        """Return grad L_K(w + rho g / ||g||)."""
        if self.kept == 1:
            return super().sharp(oracle)
        largest = oracle.largest(oracle.losses(), self.kept)
        g = self.gradient(oracle, largest)
        with self.ascended(*self.ascent(self.masked(g, oracle), oracle)):
            return self.gradient(oracle, largest)
