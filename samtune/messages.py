"""Values and names as messages show them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

SEE = "see = SGD-epoch equivalents: an SGD epoch costs 1, a SAM epoch 2"
"""The unit of compute, for the first place of an output that has it."""


_ELSEWHERE = {
    "arch_type": "model",
    "delta": "prior_precision",
    "gamma": "rho",
    "gsam_alpha": "alpha",
    "lmbda": "lambda_",
    "msharpness": "m",
    "optimizer": "base",
    "pyramidnet": "pyramidnet_110_270_bottleneck",
    "sam_type": "trainable",
    "warmup_epochs": "warmup",
    "wideresnet28": "wrn_28_10",
    "wideresnet34": "wrn_34_10",
}
"""Words of torch-unified-SAM-optimization that are not like the ones that are meant here."""


def elsewhere(word: object) -> str:
    """Return our word for one of torch-unified-SAM-optimization; the word itself for others."""
    return _ELSEWHERE.get(str(word).lower(), str(word))


def nearest(word: object, known: Iterable[object], label: str = "known") -> str:
    """Return `did you mean 'x'?`, or all known words if none is similar."""
    known = list(known)
    names = [str(name) for name in known]
    if (meant := elsewhere(word)) in names:
        return f"did you mean {meant!r}?"
    # A number with similar digits is not what the user meant, so numbers are not suggested.
    words = names if all(isinstance(name, str) for name in known) else []
    near = difflib.get_close_matches(str(word), words, 1, 0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"{label}: {', '.join(names) or 'none'}"


def quoted(value: object) -> str:
    """Return a value in quotes, with special characters escaped, cut at 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def printable(text: str) -> str:
    """Return `text` with the characters escaped that would control a terminal."""
    kept = (
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )
    return "".join(kept)


def unit(kind: str) -> str:
    """Return the unit of a kind of budget."""
    return {"compute": "see", "epochs": "epochs", "seconds": "s"}[kind]


def knob_list(knobs: Mapping[str, object], most: int | None = 160) -> str:
    """Return `lr=0.05 rho=0.5`, cut after about `most` characters: `lr=0.05 ... (299 more)`."""
    words = [
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in knobs.items()
    ]
    if most is None:
        return " ".join(words)
    words = [word if len(word) <= most else f"{word[: most - 3]}..." for word in words]
    shown, length = 0, 0
    while shown < len(words) and length + len(words[shown]) <= most:
        length += len(words[shown]) + 1
        shown += 1
    rest = len(words) - shown
    return " ".join([*words[:shown], *([f"... ({rest} more)"] if rest else [])])


def clock(seconds: float) -> str:
    """Return a time as `2:05`, or as `1:02:05` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


_OPTIONS_ELSEWHERE = {
    "arch_type": "task.model",
    "batch_size": "task.batch_size",
    "dataset": "task.dataset",
    "delta": "prior_precision",
    "epochs": "budget.per_trial",
    "label_smoothing": "task.label_smoothing",
    "lmbda": "lambda_",
    "msharpness": "m",
    "optimizer": "base",
    "seed": "search.seed",
    "warmup_epochs": "task.warmup",
}
_KNOBS_ELSEWHERE = (
    *("adaptive", "alpha", "beta", "eta", "gamma", "k", "lr", "momentum", "rho", "rho_max"),
    *("rho_min", "sigma", "weight_decay"),
)


def as_setting(option: str) -> str:
    """Return what to type for an option that is a word of a space here; empty if it is none."""
    word = option.lstrip("-")
    if word == "sam_type":
        return "the variant is the space: `samtune run asam`"
    setting = _OPTIONS_ELSEWHERE.get(word, word if word in _KNOBS_ELSEWHERE else "")
    return f"a word of the space is set so: `--set {setting}=VALUE`" if setting else ""
