"""The plan of the fresh seeds on which a run confirms its winners, and the seeds added after it.

A verdict holds at its level only if the number of seeds was not chosen by looking at test. So the
plan is on record before test can be opened, and it cannot change from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.statistics import LOOKS
from samtune.record.folder import RunError
from samtune.record.reader import Reader
from samtune.record.record import Record
from samtune.space.schema import ConfirmSettings
from samtune.space.search_space import SearchSpace
from samtune.sweep.confirm_stage import seed_of

# Five seeds decide little between more variants than these.
_MOST_WITH_FIXED_SEEDS = 3


@dataclass(frozen=True)
class Asked:
    """Options of a run beside its spaces, recorded so that `resume` can use them again.

    Attributes:
        confirm: Whether the winners are repeated on fresh seeds.
        top: How many configurations per space; None leaves it to the space.
        seeds: How many fresh seeds each; None leaves it to the space.
        until_decided: Whether seeds are added until the verdicts are decided; None leaves it to
            the number of spaces.
        max_seeds: The most seeds of a plan until decided.
    """

    confirm: bool = True
    top: int | None = None
    seeds: int | None = None
    until_decided: bool | None = None
    max_seeds: int | None = None

    @classmethod
    def of(cls, record: Reader) -> Asked:
        """Return the options of the run in `record`."""
        found: dict[str, Any] = record.meta("asked") or {}
        return cls(**found)


@dataclass(frozen=True)
class SeedPlan:
    """The seeds of a run's repeats.

    Attributes:
        looks: Increasing numbers of seeds after which the results are looked at; one number for
            a fixed plan.
        added: The number of seeds to reach outside the plan; 0 for none.
    """

    looks: tuple[int, ...]
    added: int = 0

    @classmethod
    def of(cls, text: str) -> SeedPlan:
        """Return the plan that `text` made this text from."""
        return cls(tuple(map(int, text.split()[1:])))

    @property
    def text(self) -> str:
        """The plan as the record and the tables have it: `fixed 5`, `looks 5 10 15 20`."""
        kind = "fixed" if len(self.looks) == 1 else "looks"
        return f"{kind} {' '.join(map(str, self.looks))}"

    @property
    def words(self) -> str:
        """The plan as people read it."""
        *before, last = map(str, self.looks)
        if not before:
            return f"{last} seeds each"
        return f"{', '.join(before)} or {last} seeds each, until decided"


def asked_plan(asked: Asked, spaces: Sequence[SearchSpace]) -> SeedPlan:
    """Return the plan of a run that has none on record.

    If the options leave it open, up to three variants have the number of seeds of their spaces.
    More variants have seeds until they are decided, unless their spaces set `confirm.seeds`, or
    the run is a study of several searches.

    Raises:
        RunError: The options contradict each other (exit code 2).
    """
    if asked.seeds and (asked.until_decided or asked.max_seeds):
        raise RunError(
            "seeds are a fixed plan, and until-decided chooses their number as it goes; "
            "leave out one of them",
            exit_code=2,
        )
    if asked.max_seeds not in {None, *LOOKS[1:]}:
        raise RunError(
            f"max-seeds is {asked.max_seeds}, and the looks are at {_listed(LOOKS)} seeds; "
            f"choose {_listed(LOOKS[1:])}",
            exit_code=2,
        )
    seeds = spaces[0].confirm.seeds
    rows = {space.row for space in spaces}
    several = len(rows) > _MOST_WITH_FIXED_SEEDS and seeds == ConfirmSettings().seeds
    # More seeds cannot tell how much searches differ.
    several &= all(space.member.search == 0 for space in spaces)
    until_decided = asked.until_decided
    if until_decided is None:
        until_decided = bool(asked.max_seeds) or (several and not asked.seeds)
    if not until_decided:
        return SeedPlan((asked.seeds or seeds,))
    return SeedPlan(tuple(look for look in LOOKS if look <= (asked.max_seeds or LOOKS[-1])))


def plan_on_record(record: Reader) -> SeedPlan | None:
    """Return the plan of a run, None before it has one."""
    text = record.meta("plan")
    return None if text is None else SeedPlan.of(text)


def settled(record: Record, asked: Asked, spaces: Sequence[SearchSpace]) -> SeedPlan:
    """Return the plan of a run, with the seeds to add to it, and put it on record.

    A run keeps its plan once its repeats may have opened the test split.

    Raises:
        RunError: The options contradict each other, or that plan (exit code 2).
    """
    wanted, found = asked_plan(asked, spaces), plan_on_record(record)
    if not any(record.openings()):
        if wanted != found:
            # Beside the value, an event, because it has the time.
            record.add_event("plan", wanted.text)
            record.set_meta("plan", wanted.text)
        return wanted
    if found is None:
        # An older samtune began the run. It had fixed plans only, and did not record them.
        repeats = record.trials(stage="confirm")
        found = SeedPlan((1 + max(seed_of(repeat.bundle or 0) for repeat in repeats),))
        record.add_event("plan", f"{found.text}, as it was run")
        record.set_meta("plan", found.text)
    if (asked.until_decided or asked.max_seeds) and not _goes_on(found, wanted, asked):
        raise RunError(
            f"{record.name} has opened test by the plan of {found.words}, which cannot change "
            f"any more; `samtune confirm {record.name} --seeds N` adds seeds outside the plan",
            exit_code=2,
        )
    return SeedPlan(found.looks, asked.seeds or 0)


def _goes_on(found: SeedPlan, wanted: SeedPlan, asked: Asked) -> bool:
    """Return whether the wanted plan until decided is the one on record, or sets no maximum."""
    return found == wanted or (asked.max_seeds is None and len(found.looks) > 1)


def _listed(numbers: Sequence[int]) -> str:
    return f"{', '.join(map(str, numbers[:-1]))} or {numbers[-1]}"
