"""Sharpness-aware optimizers for PyTorch, which need only torch.

    optimizer = ASAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.5)
    for inputs, targets in batches:
        result = optimizer.step(GradientOracle(model, inputs, targets, loss_fn))

`loss_fn(outputs, targets)` returns one loss per sample: `CrossEntropyLoss(reduction="none")`.
`optimizer.step(closure)` takes torch's usual closure instead.
"""

from samtune.optimizers.adamw import AdamW
from samtune.optimizers.ae_sam import AESAM
from samtune.optimizers.asam import ASAM
from samtune.optimizers.base import BASES, BaseOptimizer, base_of
from samtune.optimizers.bayesian_sam import BayesianSAM
from samtune.optimizers.closure import ClosureError
from samtune.optimizers.cr_sam import CRSAM
from samtune.optimizers.esam import ESAM
from samtune.optimizers.fisher_sam import FisherSAM
from samtune.optimizers.friendly_sam import FriendlySAM
from samtune.optimizers.gam import GAM
from samtune.optimizers.gsam import GSAM
from samtune.optimizers.k_sam import KSAM
from samtune.optimizers.knobs import Knob, KnobError, knob
from samtune.optimizers.look_sam import LookLayerSAM, LookSAM
from samtune.optimizers.lookbehind_sam import LookbehindSAM
from samtune.optimizers.momentum_sam import MomentumSAM
from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.result import StepResult
from samtune.optimizers.sam import SAM
from samtune.optimizers.sgd import SGD
from samtune.optimizers.sparse_sam import SparseSAM
from samtune.optimizers.stable_sam import StableSAM
from samtune.optimizers.two_pass import Perturbing, Scheduled, TwoPass
from samtune.optimizers.unified_sam import UnifiedSAM
from samtune.optimizers.variant import Variant
from samtune.optimizers.vasso import VaSSO
from samtune.optimizers.wsam import WSAM

VARIANTS: dict[str, type[Variant]] = {
    v.name: v
    for v in (
        SGD,
        AdamW,
        SAM,
        ASAM,
        ESAM,
        BayesianSAM,
        LookSAM,
        LookLayerSAM,
        GSAM,
        FisherSAM,
        FriendlySAM,
        WSAM,
        MomentumSAM,
        VaSSO,
        StableSAM,
        UnifiedSAM,
        AESAM,
        SparseSAM,
        CRSAM,
        GAM,
        KSAM,
        LookbehindSAM,
    )
}
"""Every variant by its name in a space. The tests cover each variant in this table."""

__all__ = [
    "AESAM",
    "ASAM",
    "BASES",
    "CRSAM",
    "ESAM",
    "GAM",
    "GSAM",
    "KSAM",
    "SAM",
    "SGD",
    "VARIANTS",
    "WSAM",
    "AdamW",
    "BaseOptimizer",
    "BayesianSAM",
    "ClosureError",
    "FisherSAM",
    "FriendlySAM",
    "GradientOracle",
    "Knob",
    "KnobError",
    "LookLayerSAM",
    "LookSAM",
    "LookbehindSAM",
    "MomentumSAM",
    "Perturbing",
    "Scheduled",
    "SparseSAM",
    "StableSAM",
    "StepResult",
    "TwoPass",
    "UnifiedSAM",
    "VaSSO",
    "Variant",
    "base_of",
    "knob",
]
