"""A run's winning configuration in two forms that can be used again: a space file, and Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from samtune.record.folder import RunError
from samtune.record.record import Record
from samtune.record.rows import StudyRow, TrialRow
from samtune.space.frozen import dump
from samtune.space.strict_yaml import load
from samtune.space.trainable import SHIPPED_MODULE
from samtune.trial import Value
from samtune.views.trials import study_called


@dataclass(frozen=True)
class Winner:
    """The best trial of a space's search by its last value, and the mean value of its repeats."""

    study: StudyRow
    trial: TrialRow
    value: float
    repeats: int
    confirmed: float | None


def winner_of(record: Record, space: str | None = None) -> Winner:
    """The winner of a space; without one, of all: the best by the mean over repeats if every
    winner has been confirmed, and else by what the search saw. Test has no say in either.

    Raises RunError: exit code 2 for a space that the run has not, 1 where nothing was completed.
    """
    studies = [study_called(record, space)] if space else record.studies()
    winners = [winner for study in studies if (winner := _winner(record, study)) is not None]
    if not winners:
        raise RunError(
            f"no trial was completed yet; `samtune status {record.name}` shows how far it is"
        )
    sign = 1 if winners[0].study.settings["mode"] == "max" else -1
    means = [winner.confirmed for winner in winners]
    shown = [
        winner.value if None in means or mean is None else mean
        for winner, mean in zip(winners, means, strict=True)
    ]
    return max(zip(winners, shown, strict=True), key=lambda pair: sign * pair[1])[0]


def _winner(record: Record, study: StudyRow) -> Winner | None:
    best = record.best(study)
    return best and Winner(study, *best, *record.confirmed(best[0]))


def space_file(run: str, winner: Winner) -> str:
    """A space whose one trial is the winner; `samtune run` trains and confirms it."""
    study, trial = winner.study, winner.trial
    space = load(study.space.encode(), f"{run}/{study.name}").plain()
    space["knobs"] = dict(trial.config.knobs)
    space.pop("points", None)
    space["budget"]["trials"] = 1
    space["search"]["first"] = ["default"]
    metric = trial.config.metric
    told = f"trial {trial.number} of {study.name} in run {run}, {metric} {winner.value:.4f}"
    if winner.confirmed is not None:
        told += f"; {winner.confirmed:.4f} over {winner.repeats} repeats on fresh seeds"
    return f"# {told}\n{dump(space)}"


def python(winner: Winner) -> str | None:
    """Ten lines that train with the winner's optimizer and no more of samtune than that; None
    where the trainable is not samtune's own, and so its knobs are nobody else's to read."""
    from samtune.optimizers import VARIANTS, base_of

    config = winner.trial.config
    if config.trainable.split(":")[0] != SHIPPED_MODULE or config.variant not in VARIANTS:
        return None
    variant = VARIANTS[config.variant]
    turned = {
        k: v
        for k, v in config.knobs.items()
        if v != getattr(variant.knobs().get(k), "default", None)
    }
    own = _arguments(turned, variant.knobs())
    if variant.bases:
        names = f"{variant.__name__}, base_of"
        given = _arguments(config.knobs, base_of(variant, config.base).knobs)
        made = f'base_of({variant.__name__}, "{config.base}")'
        base = [f"base = {made}.build(model.parameters(), {given})"]
        optimizer = f"{variant.__name__}({', '.join(['base', *filter(None, [own])])})"
    else:
        names, base = variant.__name__, []
        optimizer = f"{variant.__name__}(model.parameters(), n_data=n_data, {own})"
    needs = "" if variant.bases else "; n_data: the number of training samples"
    if warmup := config.task.get("warmup"):
        needs += f"\n# not in here: the first {warmup:g} epochs that warmed lr up, `task.warmup`"
    return "\n".join(
        [
            "# model: your network; batches: a list of (inputs, targets), those of every epoch"
            f"{needs}",
            "import torch",
            f"from samtune.optimizers import {names}, GradientOracle",
            "",
            'loss = torch.nn.CrossEntropyLoss(reduction="none")',
            *base,
            f"optimizer = {optimizer}",
            "cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer.base, len(batches))",
            "for step, (inputs, targets) in enumerate(batches):",
            "    optimizer.set_progress(step / len(batches))",
            "    optimizer.step(GradientOracle(model, inputs, targets, loss))",
            "    cosine.step()",
            "",
        ]
    )


def _arguments(values: Mapping[str, Value], taken: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items() if name in taken)
