"""The words of the section `search:` of a space file."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from samtune.messages import nearest, quoted
from samtune.space.aims import Aims, Limit, Mode
from samtune.space.word_types import NAMES, Named, Number, Seed, Words, number, whole

Method = Literal["tpe", "gp", "cmaes", "nsga2", "auto", "random", "sobol", "grid"]
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


def _limit(value: Any) -> Any:
    """Return a limit: a number, or `{min: number}`."""
    if not isinstance(value, dict):
        return number(value)
    if list(value) != ["min"]:
        raise ValueError("a limit is a number, the most that is allowed, or {min: number}")
    return {"min": number(value["min"])}


_TWO_FORMS: list[JsonValue] = [{"required": ["metrics", word]} for word in ("metric", "mode")]


class SearchSettings(Words):
    """The choice of configurations."""

    model_config = ConfigDict(json_schema_extra={"not": {"anyOf": _TWO_FORMS}})

    method: Annotated[
        Method | Annotated[str, Field(pattern=f"^{_PATH}$")], BeforeValidator(_method)
    ] = Field(
        default="tpe",
        description="How configurations are proposed; auto: gp where only numbers are searched, "
        "else tpe. A path names a function or class of your own that takes a seed and gives an "
        "Optuna sampler.",
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
    mode: Mode = Field(
        default="max", description="max where a higher metric is better, min for a loss."
    )
    metrics: Annotated[dict[str, Mode], Field(min_length=1, json_schema_extra=NAMES)] | None = (
        Field(
            default=None,
            description="In place of metric and mode: several, each with max or min. Rungs, the "
            "choice of the winner and verdicts judge the first.",
        )
    )
    constraints: (
        Annotated[
            dict[
                str, Annotated[Limit, Field(union_mode="left_to_right"), BeforeValidator(_limit)]
            ],
            Field(min_length=1, json_schema_extra=NAMES),
        ]
        | None
    ) = Field(
        default=None,
        description="Limits that a winner keeps: the most that is allowed of a metric, or "
        "{min: x}.",
    )
    target: Number | None = Field(
        default=None, description="The search ends when a completed trial has this value."
    )
    enough: Literal["noise"] | None = Field(
        default=None,
        description="noise: the search ends when less improvement is possible than the standard "
        "error of validation.",
    )

    @model_validator(mode="before")
    @classmethod
    def _judge_the_first(cls, words: Any) -> Any:
        """Let `metric` and `mode` be the first of `metrics`."""
        named = words.get("metrics") if isinstance(words, dict) else None
        if not isinstance(named, dict) or not named or {"metric", "mode"} & words.keys():
            return words
        metric, mode = next(iter(named.items()))
        return {**words, "metric": metric, "mode": mode} if mode in {"max", "min"} else words

    @model_serializer(mode="wrap")
    def _write_one_form(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out `metric` and `mode` where `metrics` says them."""
        words: dict[str, Any] = write(self)
        said = ("metric", "mode") if self.metrics else ()
        return {word: value for word, value in words.items() if word not in said}

    @property
    def aims(self) -> Aims:
        """The metrics and the limits."""
        return Aims(self.metrics or {self.metric: self.mode}, self.constraints or {})
