"""The page of variants, from the code: `python docs/make_reference.py` writes it."""

from __future__ import annotations

import inspect
import re
import runpy
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from samtune.optimizers import BASES, VARIANTS, Knob, Variant


class About(NamedTuple):
    """The words of the page about a variant that its code does not have in a line."""

    rule: str
    copies: str
    reductions: str


_SHARED = ("params", "rho_schedule", "rho_min", "m", "interval", "clip")
_ADAPTIVE = ("adaptive", "eta", "normalize_bias")

ABOUT: dict[str, About] = {
    "sgd": About("`d = g`", "0", "-"),
    "adamw": About("`d = g`", "0", "-"),
    "sam": About("`d = h`, the gradient at `w + rho g / ‖g‖`", "1", "rho = 0: base"),
    "asam": About(
        "`eps = rho T² g / ‖T g‖`, `T = abs(w) + eta` for weights, 1 for the others",
        "1",
        "rho = 0: base; T = 1: SAM",
    ),
    "esam": About(
        "`eps` on a random part of the weights; `h` on the samples whose loss rises most",
        "1",
        "beta = gamma = 1: SAM",
    ),
    "gsam": About(
        "`d = h - alpha g⟂`, `g⟂` the part of `g` orthogonal to `h`; rho falls with lr",
        "2",
        "alpha = 0 at a constant radius: SAM; radius 0: base",
    ),
    "fisher_sam": About(
        "`eps = rho F⁻¹ g / sqrt(gᵀ F⁻¹ g)`, `F = 1 + eta g²`", "1", "eta = 0: SAM; rho = 0: base"
    ),
    "bayesian_sam": About(
        "`h` at `w + rho g / s`, `g` at weights drawn from the posterior; its own descent by `s`",
        "2 kept + 4",
        "no noise, s = 1: unnormalised SAM",
    ),
    "friendly_sam": About(
        "`eps` along `g - sigma m`, `m` the mean gradient",
        "1 kept + 2",
        "sigma = 0, first step: SAM; rho = 0: base",
    ),
    "look_sam": About(
        "SAM each `k` steps; between, `d = g + alpha ‖g‖ v / ‖v‖`, `v` what SAM added to `g`",
        "1 kept + 2",
        "k = 1: SAM; rho = 0: base",
    ),
    "look_layer_sam": About(
        "LookSAM with `‖eps‖ = rho ‖w‖` in each tensor", "1 kept + 2", "rho = 0: base"
    ),
    "wsam": About(
        "Base along `g`, then `w -= lr gamma / (1 - gamma) (h - g)`; or coupled",
        "2",
        "gamma = 0: base; gamma = 0.5 coupled: SAM",
    ),
    "momentum_sam": About(
        "`d` is the gradient at `w - rho v / ‖v‖`, `v` the base's momentum",
        "1",
        "rho = 0, no momentum: base",
    ),
    "vasso": About(
        "`eps` along the mean gradient, `theta` the weight of the newest",
        "1 kept + 2",
        "theta = 1, first step: SAM; rho = 0: base",
    ),
    "stable_sam": About("`d = ‖g‖ / ‖h‖ h`", "1", "rho = 0: base"),
    "unified_sam": About(
        "`eps = rho (1 - lambda + lambda / ‖g‖) g`", "1", "lambda_ = 1: SAM; rho = 0: base"
    ),
    "ae_sam": About(
        "SAM where `‖g‖²` is at least `mu + c sigma` of its history, else the base",
        "1",
        "lambda_1 = lambda_2 very low: SAM; very high: base",
    ),
    "sparse_sam": About(
        "SAM's `eps` times a mask of zeros and ones that is updated now and then",
        "1 kept + 1",
        "sparsity = 0: SAM; sparsity = 1: base",
    ),
    "cr_sam": About(
        "`d = h₊ + gamma (h₊ + h₋ - 2 g) + beta (h₊ - h₋)`, at `w ± eps`",
        "3",
        "gamma = beta = 0: SAM; rho = 0: base",
    ),
    "gam": About(
        "mixes SAM's gradient with that of the gradient norm, from four gradients",
        "5",
        "alpha = 1, gamma = 0: SAM of radius grad_rho; radii 0: base",
    ),
    "k_sam": About(
        "SAM on the `kept` share of the batch with the largest losses", "1", "kept = 1: SAM"
    ),
    "lookbehind_sam": About(
        "`k` ascent steps, a base step from `w` by each one's gradient, `alpha` of the way taken",
        "k + 1",
        "k = alpha = 1: SAM",
    ),
}

_HEAD = """# Variants

`python docs/make_reference.py` makes this page from the code. `g` is the gradient of the batch's
mean loss at the weights `w`, `h` is the gradient at `w + eps`, `d` is what the base optimizer
descends along, and `‖·‖` is one L2 norm over all perturbed tensors. Passes are forward and
backward passes over a batch, at the default knobs. Copies are extra models, besides the weights,
one gradient and the state of the base.
"""

_GROUPS = """
## Parameter groups

A parameter group may have its own radius and its schedule (`rho`, or `rho_max` for GSAM and
`grad_rho` for GAM; `rho_schedule`, `rho_min`), `eta` and `normalize_bias` of T, Fisher
SAM's `eta`, GAM's `grad_norm_rho`, and each knob of Bayesian SAM but `dafactor`, `m` and `clip`:
`[{"params": a, "rho": 0.0}, {"params": b}]`. Norms still run over all groups. Any other
knob of a variant, an unknown word, and a weight that is listed twice are errors.

## Steps by a closure

`optimizer.step(closure)` ([your own loop](../how-to/optimizers.md)) works with every variant but
ESAM at a `gamma` below 1, K-SAM at `kept` below 1, and Bayesian SAM. Neither does it work with
`m`, nor with `fisher: sample` or `mask: fisher`. These need losses or gradients of parts of the
batch, which a closure cannot give, and say so.

## Not here

SAF and MESA (Du et al., NeurIPS 2022, arXiv 2205.14083) add a term to the loss: the divergence
from the model's own outputs some epochs ago, or from those of an averaged model. A variant sees
gradients only. SAF would need the identities of the samples and a table of outputs over the
training set, MESA a second model inside the loss. Both belong into a trainable.

## Special cases

- The interval of LookSAM is `k`, and it perturbs in the first step of each. Momentum-SAM and
  Bayesian SAM have one kind of step, and so no `interval`.
- Bayesian SAM has no `params`: its noise and its ascent belong to a posterior over all weights. It
  keeps two copies, `s` and its momentum; elsewhere the momentum is in the state of the base.
- AE-SAM decides on the host if it makes a second pass, and so waits for the device once in each
  step that decides. No other variant waits in a single process.
- Friendly SAM and VaSSO keep the old mean gradient next to the new one until the last pass is
  over, a copy more than their equations need: a pass that fails or is not finite changes nothing.
- Over several processes every variant makes the step that one process makes of the whole batch,
  unless `m` cuts it into other parts. ESAM and K-SAM choose samples from all of it, and wait for
  the device once per step to know which of the chosen ones are in their own part.
- `fisher: sample` and `mask: fisher` need gradients of single samples, and make one pass per
  sample. BatchNorm sees that sample alone, which BatchNorm1d refuses.
- Random masks and noise follow the order of the elements in memory. The same seed draws other ones
  for weights in channels_last than for contiguous weights.
- A step of Sparse SAM that updates the mask needs 4 copies for a moment, and the places of the
  weights that it replaces.

## Base optimizers

A space names one with `base:`. These three have a short name, and knobs with safe ranges:
"""

_OTHER_BASES = """
Any other optimizer is named by the path of its class: `base: torch.optim.NAdam`, or
`base: pytorch_optimizer.Lion`. Its knobs are the arguments of its constructor that have a number,
a text, or true or false as the default. A tuple of numbers gives a knob for each: `betas` gives
`beta1` and `beta2`. If the variant has a knob of the same name, the base's gets `base_` before it:
`base_rho` for Adadelta's `rho`. samtune knows no safe range for such a knob. The optimizer makes a
step on two small tensors before a sweep begins; one that cannot is refused with its own error.

Refused are LBFGS and others whose step needs a closure, SparseAdam, and optimizers that train and
evaluate at different weights. Muon takes matrices only: code may give it to a variant, a space may
not. Rprop uses `lr` in its first step only, so no schedule acts on it. ASGD keeps a mean of the
weights, which samtune does not evaluate. Adafactor waits for the device in each step.
"""

_DIFFERENCES = """
## Where others differ

Numbers from other code may not be reached with the same settings here, and the other way round.
`python docs/differences.py` makes this table: both sides train a small network with BatchNorm on
the same 30 batches. The last columns are the distance between their weights, as a share of the way
that samtune's weights have gone.

{table}

Known from their code, and not measured here:

- davda54/sam, pytorch_optimizer and torch-unified-SAM-optimization leave the base optimizer's
  momentum out of `state_dict()`, so a resumed run is another one.
- dydjw9/Efficient_SAM, SamsungLabs/ASAM and bSAM's code let BatchNorm's statistics move in every
  pass, here they move once per step.
- davda54/sam with `no_sync()` around `backward()` alone still averages the gradients of all
  processes; `sync_perturbation=False` here does what its README describes.
- rollovd/LookSAM and pytorch_optimizer project and rescale g_v tensor by tensor, the paper and
  samtune over all weights (`tests/optimizers/test_peers.py`).
- torch-unified-SAM-optimization takes FisherSAM's radius from `--gamma` and ignores `--rho`.
- GSAM's `adaptive` is rho |w| g / ||g|| in the authors' JAX code, and ASAM's T^2 in PyTorch ports
  and here.
- MarlonBecker/MSAM leaves the weights perturbed between steps; evaluate them after its move back.
- google-research/sam clips the direction at a norm of 5 (`clip: 5` here).
- pytorch_optimizer's BSAM never takes its perturbations back.
"""


def document() -> str:
    """Return the page, as Markdown."""
    differences = runpy.run_path(str(Path(__file__).with_name("differences.py")))
    rows = [_row(name, variant) for name, variant in VARIANTS.items()]
    heads = ("Name", "Class", "Paper", "Rule", "Passes", "Copies", "Knobs", "Reductions")
    shared = [_knob(k) + f" - {k.doc}" for k in _shared().values()]
    return "\n".join(
        [
            _HEAD,
            _line(heads),
            _line("---" for _ in heads),
            *rows,
            "\nKnobs are given as `name` default (safe range). Perturbing variants also have:\n",
            *(f"- {line}" for line in shared),
            "\n" + _adaptive(),
            _GROUPS,
            *(_base(name) for name in BASES),
            _OTHER_BASES.rstrip(),
            _DIFFERENCES.format(table=differences["table"]()),
        ]
    )


def _row(name: str, variant: type[Variant]) -> str:
    about = ABOUT[name]
    own = variant.knobs()
    known = _shared() | ({name: own[name] for name in _ADAPTIVE} if "adaptive" in own else {})
    knobs = [_knob(k) for k in own.values() if k != known.get(k.name)]
    forward, backward = _passes(variant)
    return _line(
        (
            f"`{name}`",
            f"`{variant.__name__}`",
            _paper(variant),
            about.rule,
            f"{forward:g}/{backward:g}",
            about.copies,
            "<br>".join(knobs) or "-",
            about.reductions,
        )
    )


def _base(name: str) -> str:
    return f"- `{name}`: " + ", ".join(map(_knob, BASES[name].knobs.values()))


def _shared() -> dict[str, Knob]:
    return {n: k for n, k in VARIANTS["sam"].knobs().items() if n in _SHARED}


def _adaptive() -> str:
    """Return which variants can perturb as ASAM does, and their knobs for it."""
    names = [name for name, variant in VARIANTS.items() if "adaptive" in variant.knobs()]
    text = (
        "Those that perturb along a gradient or a mean of gradients may do it as ASAM does, with "
        f"at most one copy more: {', '.join(f'`{name}`' for name in names)}. They also have:"
    )
    lines = [
        *textwrap.wrap(text, 100),
        "",
        *(f"- {_knob(k)} - {k.doc}" for n, k in VARIANTS["sam"].knobs().items() if n in _ADAPTIVE),
    ]
    return "\n".join(lines)


def _paper(variant: type[Variant]) -> str:
    text = inspect.getdoc(sys.modules[variant.__module__]) or ""
    found = re.search(r"\((.*?, arXiv [\d.]+)\)", text.splitlines()[0])
    if found is None:
        return "-"
    return re.sub(r"arXiv ([\d.]+)", r"[arXiv \1](https://arxiv.org/abs/\1)", found[1])


def _knob(knob: Knob) -> str:
    if knob.kind is str and knob.choices:
        return f"`{knob.name}` {knob.default} ({', '.join(knob.choices)})"
    if knob.safe is None:
        return f"`{knob.name}` {str(knob.default).lower()}"
    low, high = knob.safe
    words = "".join(f", or {word}" for word in knob.choices or ())
    return f"`{knob.name}` {knob.default:g} ({low:g} to {high:g}{words})"


def _passes(variant: type[Variant]) -> tuple[float, float]:
    return variant.passes_of({name: knob.default for name, knob in variant.knobs().items()})


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
