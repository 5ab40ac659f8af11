"""An optimizer variant of one's own, swept like the shipped ones.

cd examples/own_variant
samtune run sign_sam.yaml
"""

from dataclasses import dataclass

from samtune.optimizers import GradientOracle, TwoPass, knob
from trainables.vision import vision


@dataclass(eq=False, kw_only=True)
class SignSAM(TwoPass):
    """SAM in the infinity norm: eps = rho sign(g) (Foret et al. 2021, eq. 2 with q = 1)."""

    name = "sign_sam"

    rho: float = knob(
        1e-3,
        low=0.0,
        safe=(1e-4, 1e-1),
        scale="log",
        doc="largest change of any weight",
        source="none: an example",
    )

    def ascent(self, g, oracle: GradientOracle):
        """Return the direction sign(g) and its length rho."""
        return [None if d is None else d.sign() for d in g], self.radius


sign_sam = vision(SignSAM)
