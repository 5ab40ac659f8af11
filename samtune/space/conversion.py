"""Conversion of other tuners' files into space files, with a sentence for each word left out."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from samtune.messages import quoted
from samtune.space.errors import SpaceError
from samtune.space.frozen import dump
from samtune.space.word_types import NAME

# Epochs per trial where the other tuner's file has no budget.
_EPOCHS = 10
_METHODS = {"grid": "grid", "random": "random", "bayes": "tpe"}
# Words of a sweep that say where its results go, not what is searched.
_PLACES = frozenset({"name", "description", "project", "entity", "imageuri", "job"})


@dataclass
class Converted:
    """A space made from another tuner's file.

    Attributes:
        space: The space's words, as a space file has them.
        left_out: A sentence for each word that could not be converted, or was assumed.

    """

    space: dict[str, Any]
    left_out: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The space file, with what was left out as comments at its top."""
        comments = [f"# Not converted: {sentence}" for sentence in self.left_out]
        return "\n".join([*comments, dump({"samtune": 1, **self.space})])


def from_wandb(text: str) -> Converted:
    """Convert the YAML of a Weights & Biases sweep.

    Raises:
        SpaceError: The text is not YAML, or has no `parameters`.

    """
    try:
        sweep = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpaceError([f"the sweep is not YAML: {' '.join(str(error).split())}"]) from None
    if not isinstance(sweep, dict) or not isinstance(sweep.get("parameters"), dict):
        raise SpaceError(["the sweep has no `parameters`, so there is nothing to convert"])
    found = Converted({"trainable": "my_module:my_trainable"})
    program = sweep.pop("program", None)
    if isinstance(program, str):
        found.space["trainable"] = f"program:{program}"
    else:
        found.left_out.append("`program` is missing; write your own trainable in its place")
    knobs = found.space["knobs"] = {}
    for name, words in sweep.pop("parameters").items():
        try:
            knobs[_knob_name(name)] = _wandb_knob(words)
        except ValueError as error:
            found.left_out.append(f"parameters.{name}: {error}")
    _wandb_search(sweep, found)
    for word in sweep:
        if word not in _PLACES:
            found.left_out.append(f"{word}: samtune has no such word")
    return found


def _wandb_search(sweep: dict[str, Any], found: Converted) -> None:
    search: dict[str, Any] = {}
    method = sweep.pop("method", "bayes")
    search["method"] = _METHODS.get(method, "tpe")
    if method not in _METHODS:
        found.left_out.append(f"method {quoted(method)}: tpe is taken")
    metric = sweep.pop("metric", None)
    if isinstance(metric, dict) and isinstance(metric.get("name"), str):
        name = metric["name"]
        search["metric"] = re.sub(r"\W", "_", name)
        if search["metric"] != name:
            found.left_out.append(f"metric {name!r} is no name; report it as {search['metric']}")
        search["mode"] = "max" if metric.get("goal") == "maximize" else "min"
        if "target" in metric:
            found.left_out.append("metric.target: a search is not ended by a target")
    budget: dict[str, Any] = {"kind": "epochs", "per_trial": _EPOCHS}
    if (trials := sweep.pop("run_cap", None)) is not None:
        budget["trials"] = trials
    early = sweep.pop("early_terminate", None)
    if isinstance(early, dict) and early.get("type") == "hyperband":
        rungs = {
            word: early[theirs]
            for word, theirs in (("grace", "min_iter"), ("factor", "eta"))
            if theirs in early
        }
        if rungs:
            found.space["asha"] = rungs
        budget["per_trial"] = early.get("max_iter", max(_EPOCHS, rungs.get("grace", 0)))
        if "s" in early:
            found.left_out.append("early_terminate.s: samtune has one bracket")
    if not (isinstance(early, dict) and "max_iter" in early):
        found.left_out.append(
            f"budget: the sweep has none; {budget['per_trial']} epochs per trial are assumed"
        )
    found.space |= {"budget": budget, "search": search}


def _knob_name(name: object) -> str:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"{quoted(name)} is no name for a knob; use letters, digits and _")
    return name


def _wandb_knob(words: Any) -> Any:
    """Return the knob of a parameter. Raise ValueError for one that has no counterpart."""
    if not isinstance(words, dict):
        raise ValueError("it is no map of `value`, `values`, or `min` and `max`")
    if "parameters" in words:
        raise ValueError("nested parameters have no counterpart; write them as single knobs")
    if "value" in words:
        return scalar(words["value"])
    kind = words.get("distribution")
    if "values" in words and kind in {None, "categorical", "constant"}:
        if "probabilities" in words:
            raise ValueError("probabilities of choices have no counterpart")
        return {"choice": [scalar(value) for value in words["values"]]}
    if kind is None:
        whole = all(type(words.get(end)) is int for end in ("min", "max"))
        kind = "int_uniform" if whole else "uniform"
    if kind == "normal":
        return _normal(words)
    convert = _DISTRIBUTIONS.get(kind)
    if convert is None:
        raise ValueError(f"the distribution {quoted(kind)} has no counterpart")
    missing = [word for word in ("min", "max") if not isinstance(words.get(word), int | float)]
    if missing:
        raise ValueError(f"{' and '.join(missing)} must be numbers")
    return convert(words)


def scalar(value: Any) -> Any:
    """Return a value that a space file can hold. Raise ValueError for any other."""
    if not isinstance(value, bool | int | float | str) or value != value:
        raise ValueError(f"{quoted(value)} is not a number, a text, true or false")
    return value


def _uniform(words: Mapping[str, Any]) -> dict[str, Any]:
    return {"min": float(words["min"]), "max": float(words["max"])}


def _whole(words: Mapping[str, Any]) -> dict[str, Any]:
    return {"min": int(words["min"]), "max": int(words["max"]), "type": "int"}


def _log(words: Mapping[str, Any]) -> dict[str, Any]:
    return {**_uniform(words), "scale": "log"}


def _normal(words: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {"mean": words.get("mu", 0.0), "sd": words.get("sigma", 1.0)}
    if not all(isinstance(number, int | float) for number in numbers.values()):
        raise ValueError("mu and sigma must be numbers")
    return {word: float(number) for word, number in numbers.items()}


def _exponents(words: Mapping[str, Any]) -> dict[str, Any]:
    ends = {end: math.exp(words[end]) for end in ("min", "max")}
    return {**ends, "scale": "log"}


def _stepped(words: Mapping[str, Any]) -> dict[str, Any]:
    step = words.get("q", 1)
    whole = all(float(value).is_integer() for value in (words["min"], words["max"], step))
    ends = _whole(words) if whole else _uniform(words)
    return {**ends, "step": int(step) if whole else float(step)}


def _stepped_log(words: Mapping[str, Any]) -> dict[str, Any]:
    return {**_stepped(words), "scale": "log"}


_DISTRIBUTIONS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "uniform": _uniform,
    "int_uniform": _whole,
    "q_uniform": _stepped,
    "log_uniform": _exponents,
    "log_uniform_values": _log,
    "q_log_uniform_values": _stepped_log,
}
