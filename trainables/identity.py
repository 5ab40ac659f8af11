"""The identity of a trial: only an attempt at the same trial may continue from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

from samtune.trial import TrialConfig, Value
from trainables.task import TASK


def identities(
    theirs: Mapping[str, Value], config: TrialConfig
) -> tuple[dict[str, Value], dict[str, Value]]:
    """Return the identities of a checkpoint and of a trial.

    An older samtune did not know all words of a task, and trained as their defaults do.
    """
    ours = identity(config)
    words = {f"task.{name}": knob.default for name, knob in TASK.items()}
    return {**{word: words[word] for word in words.keys() & ours.keys()}, **theirs}, ours


def identity(config: TrialConfig) -> dict[str, Value]:
    """Return what identifies a trial, as dotted words and their values."""
    plain = config.to_dict()
    words: dict[str, Value] = {name: plain[name] for name in ("variant", "base", "workers")}
    for group in ("knobs", "task", "seeds", "budget"):
        words |= {f"{group}.{name}": value for name, value in plain[group].items()}
    # It changes nothing in the training.
    return {name: value for name, value in words.items() if name != "task.checkpoint_every"}
