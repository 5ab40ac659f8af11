"""The words of the section `search:` of a space file."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field

from samtune.messages import nearest, quoted
from samtune.space.word_types import Named, Number, Seed, Words, whole

Method = Literal["tpe", "gp", "cmaes", "auto", "random", "sobol", "grid"]
METHODS = get_args(Method)
PLACED = ("random", "sobol", "grid")
"""The methods that place all of their points before the search."""
_PATH = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"


def _method(value: Any) -> Any:
    """Return a method of search: a word, or the path of a sampler."""
    if isinstance(value, str) and (value in METHODS or re.fullmatch(_PATH, value, re.ASCII)):
        return value
    near = nearest(value, METHODS) if isinstance(value, str) else ""
    near = f"; {near}" if near.startswith("did") else ""
    raise ValueError(
        f"{quoted(value)} is none of {', '.join(METHODS)}, nor a path such as "
        f"my_module:my_sampler{near}"
    )


def _first(value: Any) -> Any:
    if value == "default" or isinstance(value, dict):
        return value
    raise ValueError(
        f"{quoted(value)} is neither `default` nor a map such as {{lr: 0.1, rho: 0.5}}"
    )


class SearchSettings(Words):
    """The choice of configurations."""

    method: Annotated[
        Method | Annotated[str, Field(pattern=f"^{_PATH}$")], BeforeValidator(_method)
    ] = Field(
        default="tpe",
        description="How configurations are proposed; auto: gp where only numbers are searched, "
        "else tpe. A path names a function "
        "or class of your own that takes a seed and gives an Optuna sampler.",
    )
    seed: Seed = Field(default=1, description="Seed of the proposals and of the trials.")
    first: list[Annotated[Literal["default"] | Named, BeforeValidator(_first)]] = Field(
        default=["default"],
        description="Tried before all others: default, or maps of knob values.",
    )
    sobol: Annotated[int, Field(ge=0), BeforeValidator(whole)] = Field(
        default=8,
        description="A method that learns begins with this many points, `first` among them, "
        "spread evenly.",
    )
    metric: str = Field(
        default="val_acc",
        description="What a trial reports and the search improves.",
        json_schema_extra={"not": {"pattern": "^test_"}},
    )
    mode: Literal["max", "min"] = Field(
        default="max", description="max where a higher metric is better, min for a loss."
    )
    target: Number | None = Field(
        default=None, description="The search ends when a completed trial has this value."
    )
    enough: Literal["noise"] | None = Field(
        default=None,
        description="noise: the search ends when less improvement is possible than the standard "
        "error of validation.",
    )
