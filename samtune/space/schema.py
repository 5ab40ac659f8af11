"""The words of a space file: the models behind its checks, its defaults and its JSON Schema."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag

from samtune.space.search_words import SearchSettings
from samtune.space.word_types import (
    NAMES,
    Count,
    Named,
    Number,
    Positive,
    Task,
    Value,
    Values,
    When,
    Words,
    auto_or,
    number,
    whole,
)


class RangeShape(Words):
    """A range: {min, max} or {mean, sd}, and optionally scale, step, type, default, when."""

    min: Number | None = Field(default=None, description="Lower end, included.")
    max: Number | None = Field(default=None, description="Upper end, included.")
    mean: Number | None = Field(
        default=None, description="Center of a normal distribution, cut off at min and max."
    )
    sd: Positive | None = Field(
        default=None, description="Its standard deviation; min and max are 4 of them away."
    )
    scale: Literal["linear", "log"] | None = Field(
        default=None, description="linear unless it says log."
    )
    step: Positive | None = Field(default=None, description="Only min, min + step, ... are tried.")
    type: Literal["int", "float"] | None = Field(
        default=None, description="int for whole numbers."
    )
    prior: Number | None = Field(
        default=None,
        description="The value that you expect to be good; the first points lie near.",
    )
    confidence: Literal["low", "medium", "high"] | None = Field(
        default=None, description="How near to the prior; medium unless it says so."
    )
    default: Number | None = Field(default=None, description="The value tried first.")
    when: When | None = Field(
        default=None, description="Used only if these other knobs have these values."
    )


class ChoiceShape(Words):
    """A choice: the search picks one of the values for each trial."""

    choice: Values | None = Field(description="The values to pick from.")
    default: Value | None = Field(default=None, description="The value tried first.")
    when: When | None = Field(
        default=None, description="Used only if these other knobs have these values."
    )


class GridShape(Words):
    """A grid: each value is tried with each value of the other grids, for each sampled point."""

    grid: Values | None = Field(description="The values to try, each one.")
    default: Value | None = Field(default=None, description="The value tried first.")
    when: When | None = Field(
        default=None, description="Used only if these other knobs have these values."
    )


def shape_of(value: Any) -> str:
    """Return the shape of a knob, one of four. A misspelt word counts as the nearest one."""
    if not isinstance(value, dict):
        return "<fixed>"
    for word in ("choice", "grid"):
        if word in value:
            return f"<{word}>"
    if not {"min", "max"} & set(value):
        for word in map(str, value):
            near = difflib.get_close_matches(word, ["choice", "grid", *RangeShape.model_fields], 1)
            if near and near[0] in {"choice", "grid"}:
                return f"<{near[0]}>"
    return "<range>"


KnobShape = Annotated[
    Annotated[Value, Tag("<fixed>")]
    | Annotated[RangeShape, Tag("<range>")]
    | Annotated[ChoiceShape, Tag("<choice>")]
    | Annotated[GridShape, Tag("<grid>")],
    Discriminator(shape_of),
]


class BudgetSettings(Words):
    """The budget limit of one trial, and the number of trials."""

    kind: Literal["compute", "epochs", "seconds"] = Field(
        default="compute", description="compute counts SGD-epoch equivalents: a SAM epoch costs 2."
    )
    per_trial: Positive = Field(default=20, description="In units of kind.")
    trials: Count = Field(default=24, description="Number of configurations sampled.")
    total: Positive | None = Field(
        default=None,
        description="The most that all trials of a search use, in units of kind; none: no limit.",
    )


# A shorter search needs all of its trials: to select would take from it (see docs).
LEAST_TRIALS = 20


class AshaSettings(Words):
    """Early stopping by successive halving: rungs at grace, grace * factor, ..."""

    mode: Literal["stop", "promote", "halving"] = Field(
        default="stop",
        description="stop: a trial is judged once, when it reaches a rung. promote: it pauses "
        "there until it is among the best. halving: the best go on when all are there.",
    )
    grace: Annotated[
        Positive | Literal["auto"], BeforeValidator(auto_or(number, "a number above 0"))
    ] = Field(
        default="auto",
        description="No trial stops before this, in units of the budget; auto: 40 % of it.",
    )
    factor: Annotated[float, Field(gt=1), BeforeValidator(number)] = Field(
        default=2, description="One in `factor` trials goes on at each rung."
    )
    tolerance: Annotated[float, Field(ge=0), BeforeValidator(number)] = Field(
        default=1,
        description="Near ties go on as well: within this many standard errors of the cutoff, "
        "or equal to it; 0 for none.",
    )
    audit: Annotated[float, Field(ge=0, le=1), BeforeValidator(number)] = Field(
        default=0,
        description="Share of the stopped trials that run on, to measure the wrong stops.",
    )
    until: Positive | None = Field(
        default=None,
        description="Trials of the search end here, in units of the budget; none: at its end.",
    )
    rescue: Annotated[int, Field(ge=0), BeforeValidator(whole)] = Field(
        default=0,
        description="How many stopped trials go on after all, the most promising, when every "
        "trial has been judged. Needs `mode: stop` and no audit.",
    )

    @property
    def rescue_fault(self) -> str:
        """Why stopped trials cannot be rescued under these words; empty if they can."""
        if not self.rescue or (self.mode == "stop" and not self.audit):
            return ""
        return "asha.rescue: it needs `mode: stop` and `audit: 0`; or write `rescue: 0`"

    def end_of(self, per_trial: float) -> float:
        """Return the budget at which a trial of the search ends."""
        return per_trial if self.until is None else self.until

    def grace_of(self, per_trial: float) -> float:
        """Return the grace for a budget.

        With label noise, what learns fast early memorises the noise later. The shipped study has
        its first rung at 40 % of the budget, and misses its best trial in 0.5 % of the searches.
        With a first rung at 10 % and a factor of 3 it would miss it in 43 %.
        """
        return float(f"{0.4 * per_trial:.4g}") if isinstance(self.grace, str) else self.grace


class SelectSettings(Words):
    """The choice of a search's winner: its best trials again on fresh seeds, by validation.

    Skipped where the search has fewer than 20 trials, unless its values count too, and where fewer
    than 2 completed.
    """

    top: Count = Field(
        default=3, description="How many of the best trials; 1 takes the best as it is."
    )
    seeds: Count = Field(default=2, description="How many fresh seeds each.")
    with_search: bool = Field(
        default=False,
        description="Whether the value of the search counts in the mean, as that of a seed.",
    )

    def takes_place(self, trials: int, completed: int) -> bool:
        """Return whether a search has this stage.

        Args:
            trials: How many trials it has.
            completed: How many of them completed.
        """
        long = trials >= LEAST_TRIALS or self.with_search
        return self.top > 1 and long and completed > 1


class ResourceSettings(Words):
    """The resources of one trial while it runs."""

    cpus: Positive = Field(default=1, description="CPUs of each process of a trial.")
    gpus: Annotated[float, Field(ge=0), BeforeValidator(number)] = Field(
        default=0,
        description="May be a fraction: 0.5 puts two trials on a GPU.",
        json_schema_extra={"anyOf": [{"maximum": 1}, {"type": "integer"}]},
    )
    gpu_sharing: Literal["off", "mps"] = Field(
        default="off",
        description="mps: trials that share a GPU run there at once, by NVIDIA's MPS, which "
        "samtune starts and ends on each node; off: they take turns. Not measured on a GPU yet.",
    )
    gpu_memory_gb: Annotated[float, Field(ge=0), BeforeValidator(number)] = Field(
        default=0,
        description="Memory that must be free on its GPU when a trial starts; 0: not asked.",
    )
    workers: Count = Field(
        default=1,
        description="Processes a trial that share its batch, each with these cpus and gpus.",
    )
    parallel: Annotated[
        Annotated[int, Field(ge=1)] | Literal["auto"],
        BeforeValidator(auto_or(whole, "a whole number of at least 1")),
    ] = Field(default="auto", description="Most trials at a time; auto: as many as fit.")
    retries: Annotated[int, Field(ge=0), BeforeValidator(whole)] = Field(
        default=2,
        description="How often a trial is tried again after its worker died or stalled.",
    )
    stall_after: Annotated[
        Positive | Literal["auto"],
        BeforeValidator(auto_or(number, "a number of seconds above 0")),
    ] = Field(
        default="auto",
        description="Seconds without a report after which a trial is killed; auto: by its pace.",
    )


class ConfirmSettings(Words):
    """Fresh-seed repeats of the best configurations; the test split is opened only there."""

    top: Count = Field(default=1, description="How many configurations, best first.")
    seeds: Count = Field(default=5, description="How many fresh seeds each.")
    margin: Annotated[
        Positive | Literal["auto"], BeforeValidator(auto_or(number, "a number above 0"))
    ] = Field(
        default="auto",
        description="Largest difference of the metric that counts as a tie; auto: 2 % of the "
        "baseline's error, and for an accuracy at least its binomial standard error.",
    )
    sharpness: bool = Field(
        default=False,
        description="Whether each repeat of the best measures the sharpness of its model.",
    )


class MemberSettings(Words):
    """The place of a space in a study. Written by the study, not by hand."""

    study: str = Field(default="", description="The study; empty: none.")
    row: str = Field(default="", description="The row of the leaderboard; empty: the space.")
    task: str = Field(default="", description="The study's name of the task.")
    search: Annotated[int, Field(ge=0, lt=1000), BeforeValidator(whole)] = Field(
        default=0, description="Which of the row's independent searches this is, from 0."
    )
    baseline: str = Field(default="", description="The row that the study compares with.")
    keep: Annotated[int, Field(ge=0), BeforeValidator(whole)] = Field(
        default=0, description="Rows that a race keeps at least; 0: there is no race."
    )


class Document(Words):
    """A samtune space file: what to train, which knobs to search, and with what budget."""

    model_config = ConfigDict(title="samtune space")

    samtune: Literal[1] = Field(description="Version of this format.")
    extends: str | list[str] | None = Field(
        default=None, description="File or files this one adds to."
    )
    trainable: str | None = Field(
        default=None, description="asam, or my_package.my_module:my_trainable."
    )
    variant: str | None = Field(
        default=None, description="The trainable's name in the leaderboard."
    )
    base: str | None = Field(default=None, description="Base optimizer: sgd or adamw.")
    knobs: dict[str, KnobShape | None] = Field(
        default={},
        description="Each a value, a range, a choice or a grid; null removes an inherited one.",
        json_schema_extra=NAMES,
    )
    points: Annotated[list[Named], Field(min_length=1)] | None = Field(
        default=None,
        description="Tied values: each trial takes one of these maps as a whole.",
        json_schema_extra={"uniqueItems": True},
    )
    task: Task = Field(
        default={},
        description="Data set, model and what else a trial needs.",
        json_schema_extra={"properties": {"split_seed": {"type": "integer", "minimum": 0}}},
    )
    budget: BudgetSettings = BudgetSettings()
    search: SearchSettings = SearchSettings()
    asha: AshaSettings = AshaSettings()
    select: SelectSettings = SelectSettings()
    resources: ResourceSettings = ResourceSettings()
    confirm: ConfirmSettings = ConfirmSettings()
    member: MemberSettings = MemberSettings()


SECTIONS: dict[str, type[Words]] = {
    "budget": BudgetSettings,
    "search": SearchSettings,
    "asha": AshaSettings,
    "select": SelectSettings,
    "resources": ResourceSettings,
    "confirm": ConfirmSettings,
    "member": MemberSettings,
}


def space_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a space file, for editors."""
    schema = Document.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
