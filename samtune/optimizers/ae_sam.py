"""AE-SAM, an adaptive policy to employ SAM (Jiang et al., ICLR 2023, arXiv 2304.14647)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from samtune.optimizers.adaptive import Adaptive
from samtune.optimizers.knobs import knob
from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.result import Passes
from samtune.optimizers.tensors import Gradients, global_norm, over


@dataclass(eq=False, kw_only=True)
class AESAM(Adaptive):
    """SAM in steps with a gradient that is large for its history, the base optimizer in others.

        n       = ||g||^2                               g = grad L_B(w)
        mu      = delta mu + (1 - delta) n
        sigma^2 = delta sigma^2 + (1 - delta) (n - mu)^2
        c       = lambda_1 t / T + lambda_2 (1 - t / T)             t / T: the progress of training
        d       = grad L_B(w + rho g / ||g||)  if n >= mu + c sigma,  else g
        w      <- Base(w, d)

    mu and sigma start at 0. The host decides if there is a second pass, so each such step waits
    once for the device. The cost depends on the data; it is 1.5 passes if half of the steps have a
    second one. With `interval` only the last step of each interval decides.
    """

    name = "ae_sam"

    rho: float = knob(
        0.05,
        low=0.0,
        safe=(0.01, 0.5),
        scale="log",
        doc="radius of the neighbourhood, L2 norm in weight space; 0 gives the base optimizer",
        source="SAM paper: chosen 0.02 to 0.2 from a grid of 0.01 to 0.5",
    )
    delta: float = knob(
        0.9,
        low=0.0,
        high=1.0,
        safe=(0.5, 0.99),
        doc="decay of the running mean and variance of ||g||^2",
        source="a memory of about ten steps",
    )
    lambda_1: float = knob(
        -1.0,
        safe=(-2.0, 2.0),
        doc="threshold at the end of training, in standard deviations; very low gives SAM",
        source="more SAM towards the end: below lambda_2",
    )
    lambda_2: float = knob(
        1.0,
        safe=(-2.0, 2.0),
        doc="threshold at the start of training, in standard deviations; very high gives the base",
        source="less SAM at the start: above lambda_1",
    )

    @classmethod
    def sharp_passes(cls, knobs: Mapping[str, Any]) -> Passes:
        """Return the passes if half of the steps have a second one."""
        return 1.5, 1.5

    @classmethod
    def uncaptured_of(cls, knobs: Mapping[str, Any]) -> str | None:
        """Return why a CUDA graph cannot hold steps with these knobs."""
        return "it looks at each gradient to decide whether the step perturbs"

    def sharp(self, oracle: GradientOracle) -> Gradients:
        """Return h, or g if it is small."""
        g = self.gradient(oracle)
        length = global_norm(g)
        n = length.item() ** 2
        mu = self.delta * self.memory.get("mu", 0.0) + (1 - self.delta) * n
        variance = self.delta * self.memory.get("variance", 0.0) + (1 - self.delta) * (n - mu) ** 2
        self.memory |= {"mu": mu, "variance": variance}
        if self.lambda_1 != self.lambda_2:
            self.expect_progress("the threshold between lambda_2 and lambda_1")
        c = self.lambda_1 * self.progress + self.lambda_2 * (1 - self.progress)
        if n < mu + c * math.sqrt(variance):
            return g
        steep = self.masked(g, oracle)
        if steep is not g or self.adaptive:
            steep, length = self.steep(steep, oracle)
        with self.ascended(steep, over(self.radius, length)):
            return self.gradient(oracle)
