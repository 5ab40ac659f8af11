"""A run's winning configuration in two forms that can be used again: a space file, and Python."""

from __future__ import annotations

from dataclasses import dataclass

from samtune.record.folder import RunError
from samtune.record.ranking import confirmed, winners
from samtune.record.reader import Reader
from samtune.record.rows import StudyRow, TrialRow
from samtune.space.frozen import dump
from samtune.space.strict_yaml import load
from samtune.views.script import script
from samtune.views.trials import study_called


@dataclass(frozen=True)
class Winner:
    """The best trial of a space's search.

    Attributes:
        run: the run's name.
        study: the space's search.
        trial: the trial.
        value: its last value of the search's metric; its select mean where it has one.
        epochs: its number of epochs.
        repeats: how many repeats of it were completed.
        confirmed: their mean value; None without repeats.
    """

    run: str
    study: StudyRow
    trial: TrialRow
    value: float
    epochs: float
    repeats: int = 0
    confirmed: float | None = None

    def sentence(self) -> str:
        """Return which trial it is and how well it did."""
        metric = self.trial.config.metric
        text = f"trial {self.trial.number} of {self.study.name} in run {self.run}, "
        text += f"{metric} {self.value:.4f}"
        if self.confirmed is None:
            return text
        return f"{text}; {self.confirmed:.4f} over {self.repeats} repeats on fresh seeds"


def winner_of(record: Reader, space: str | None = None) -> Winner:
    """Return the winner of a space, or without one the winner of all spaces.

    Winners of several spaces are compared by the means of their repeats if all were confirmed, and
    otherwise by their values in the search. The test split has no influence.

    Raises:
        RunError: the run has no such space (exit code 2), or no trial was completed (1).
    """
    studies = [study_called(record, space)] if space else record.studies()
    winners = [winner for study in studies if (winner := _winner(record, study)) is not None]
    if not winners:
        raise RunError(
            f"{studies[0].no_winner} yet; `samtune status {record.name}` shows the progress"
        )
    sign = 1 if winners[0].study.settings["mode"] == "max" else -1
    means = [winner.confirmed for winner in winners]
    shown = [
        winner.value if None in means or mean is None else mean
        for winner, mean in zip(winners, means, strict=True)
    ]
    return max(zip(winners, shown, strict=True), key=lambda pair: sign * pair[1])[0]


def _winner(record: Reader, study: StudyRow) -> Winner | None:
    best = next(iter(winners(record, study, most=1)), None)
    if best is None:
        return None
    trial, value = best
    *_, last = record.reports(trial=trial.trial)
    return Winner(record.name, study, trial, value, last.epoch, *confirmed(record, trial))


def space_file(winner: Winner) -> str:
    """Return a space with the winner as its only trial; `samtune run` trains and confirms it."""
    study = winner.study
    space = load(study.space.encode(), f"{winner.run}/{study.name}").plain()
    space["knobs"] = dict(winner.trial.config.knobs)
    space.pop("points", None)
    space["budget"]["trials"] = 1
    space["search"]["first"] = ["default"]
    front = (
        f"# its Pareto front: `samtune leaderboard {winner.run}`\n" if study.aims.several else ""
    )
    return f"# {winner.sentence()}\n{front}{dump(space)}"


def python(winner: Winner) -> str:
    """Return a complete script that trains the winner."""
    trial = winner.trial
    threads = int(trial.facts.get("threads") or max(1, int(trial.config.cpus)))
    title = f"Train {winner.sentence()}."
    return script(trial.config, title, winner.epochs, threads)
