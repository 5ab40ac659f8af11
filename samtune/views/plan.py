"""The dry run of a space, computed by the same objects that the sweep uses."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from samtune.cluster.size import TrialSize
from samtune.messages import SEE, clock, knob_list, unit
from samtune.search.proposals import Proposals
from samtune.search.rungs import forecast, milestones
from samtune.space.aims import limits_text, metrics_text
from samtune.space.search_space import Choice, Domain, Fixed, Grid, Range, SearchSpace, resolve
from samtune.views.estimate import estimate
from samtune.views.study import MOST_SPACES, plan_lines

_SAMPLED = 5
# Seeds of a row until it is decided, on average over leads of 1.5 standard deviations.
TYPICAL_SEEDS = 12.5


def plans(
    spaces: Sequence[SearchSpace],
    *,
    confirm: bool = True,
    top: int | None = None,
    looks: Sequence[int] = (),
    runs: Path | None = None,
) -> list[dict[str, Any]]:
    """Return what the spaces of one run would run, as JSON can hold it.

    Args:
        spaces: The spaces, resolved.
        confirm: Whether their winners are repeated.
        top: How many configurations to confirm per space; without it, as the space says.
        looks: The plan of the fresh seeds: the numbers of seeds at which results are looked at,
            one for a fixed number; without it, as the space says.
        runs: The folder with the runs by which the time on this machine is estimated.

    Returns:
        The `plan` of each space, with an `estimate` of its time, which is None where no earlier
        run allows one.
    """
    found = []
    for space in spaces:
        asked = space.confirm.model_copy(
            update={"top": (top or space.confirm.top) if confirm else 0}
        )
        planned = plan(dataclasses.replace(space, confirm=asked), looks)
        found.append(planned | {"estimate": None})
    if runs is not None:
        slots = TrialSize.of([space.resources for space in spaces]).own_slots()
        for space, planned in zip(spaces, found, strict=True):
            planned["estimate"] = estimate(space, planned, slots, runs)
    return found


def plan(space: SearchSpace, looks: Sequence[int] = ()) -> dict[str, Any]:
    """Return the plan of a space as plain values for JSON.

    Args:
        space: The space.
        looks: As of `plans`.

    Returns:
        The knobs with their domains and origins, the task and resources, trials, rungs with their
        costs, the expected budget, the confirmation, and the first configurations.
    """
    proposals = Proposals(space)
    budget, select = space.budget, space.select
    end = space.asha.end_of(budget.per_trial)
    rungs = milestones(space.asha.grace_of(budget.per_trial), space.asha.factor, end)
    drawn = itertools.islice(iter(proposals.ask, None), len(space.search.first) + _SAMPLED)
    per_epoch = see_per_epoch(space)
    step = {"compute": per_epoch, "epochs": 1.0}.get(budget.kind)
    stretches = forecast(proposals.total, rungs, space.asha, end, step)
    expected_budget = sum(stretch.budget for stretch in stretches)
    at_most = proposals.total * end
    if budget.total is not None:
        at_most, expected_budget = min(at_most, budget.total), min(expected_budget, budget.total)
    see = {"compute": 1.0, "epochs": per_epoch}.get(budget.kind)
    expected_see = None if see is None else expected_budget * see
    return {
        "space": space.name,
        "study": space.member.study,
        "search": space.member.search,
        "path": str(space.path),
        "sha256": space.sha256,
        "trainable": space.trainable,
        "variant": space.variant,
        "base": space.base,
        "knobs": {
            name: {
                "domain": domain_text(domain),
                "default": space.default().get(name),
                "origin": space.origin.get(f"knobs.{name}", ""),
            }
            for name, domain in space.knobs.items()
        },
        "points": [dict(point) for point in space.points],
        "metrics": dict(space.search.aims.metrics),
        "constraints": dict(space.search.aims.limits),
        "task": dict(space.task),
        "doubts": _doubts(space),
        "resources": {
            word: getattr(space.resources, word)
            for word in ("workers", "cpus", "gpus", "parallel")
        },
        "budget_kind": budget.kind,
        "budget_per_trial": budget.per_trial,
        "budget_until": end,
        "see_per_epoch": per_epoch,
        "epochs_per_trial": budget.per_trial / step if step else None,
        "trials": proposals.total,
        "rungs": list(rungs),
        "rungs_mode": space.asha.mode,
        "rescue": space.asha.rescue,
        "rungs_cost": [dataclasses.asdict(stretch) for stretch in stretches],
        "budget_at_most": at_most,
        "budget_expected": expected_budget,
        "see_expected": expected_see,
        "select": {
            "top": select.top,
            "seeds": select.seeds,
            "with_search": select.with_search,
            "budget": select.top * select.seeds * budget.per_trial,
        }
        if select.takes_place(proposals.total, proposals.total)
        else None,
        "confirm": _confirm(space, looks or (space.confirm.seeds,)),
        "first_configurations": [
            {"origin": proposal.origin, "knobs": proposal.knobs} for proposal in drawn
        ],
    }


def _confirm(space: SearchSpace, looks: Sequence[int]) -> dict[str, Any]:
    """Return the confirmation: at most and expected, equal for a fixed number of seeds."""
    top, most = space.confirm.top, looks[-1]
    expected = most if len(looks) == 1 else min(TYPICAL_SEEDS, most)
    return {
        "top": top,
        "seeds": most,
        "looks": [*looks],
        "budget": top * most * space.budget.per_trial,
        "budget_expected": top * expected * space.budget.per_trial,
    }


def see_per_epoch(space: SearchSpace) -> float | None:
    """Return the theoretical cost of an epoch of the default configuration, in SGD epochs."""
    cost = getattr(resolve(space.trainable), "see_per_epoch", None)
    return None if cost is None else float(cost(space.default(), space.base))


def _doubts(space: SearchSpace) -> list[str]:
    """Return the trainable's doubts about the data of the task."""
    doubts = getattr(resolve(space.trainable), "doubts", None)
    return [] if doubts is None else list(doubts(space.task))


def plans_text(plans: Sequence[dict[str, Any]]) -> str:
    """Return the plans of one run as people read them."""
    if len(plans) > MOST_SPACES and plans[0]["study"]:
        return "\n".join([*plan_lines(plans), SEE])
    texts = [plan_text(each) for each in plans]
    times = [each["estimate"]["seconds"] for each in plans if each["estimate"]]
    if len(times) == len(plans) > 1:
        texts.append(f"all spaces: about {clock(sum(times))}, an estimate")
    if any(each["budget_kind"] == "compute" or each["see_per_epoch"] for each in plans):
        texts.append(SEE)
    return "\n\n".join(texts)


def plan_text(plan: dict[str, Any]) -> str:
    """Return the plan as people read it."""
    kind = unit(plan["budget_kind"])
    lines = [f"{plan['space']}: {plan['trainable']} on {plan['base']}  ({plan['path']})"]
    for name, knob in plan["knobs"].items():
        default = "" if knob["default"] is None else f"default {knob['default']}"
        lines.append(f"  {name:16}{knob['domain']:32}{default:18}{knob['origin']}".rstrip())
    if plan["points"]:
        lines.append(f"  tied points     {len(plan['points'])}")
    if len(plan["metrics"]) > 1:
        lines.append(f"  aims            {metrics_text(plan['metrics'])}")
    if plan["constraints"]:
        lines.append(f"  constraints     {limits_text(plan['constraints'])}")
    # As they are: a train_size of 1 is a count and 1.0 a share.
    task = " ".join(f"{word}={value}" for word, value in plan["task"].items())
    lines.append(f"  task            {task}")
    lines += [f"  warning         {doubt}" for doubt in plan["doubts"]]
    lines.append("  a trial holds   " + _held(plan["resources"]))
    known = plan["see_expected"] is not None and plan["budget_kind"] != "compute"
    in_see = f" = {plan['see_expected']:.0f} see" if known else ""
    epochs, see = plan["epochs_per_trial"], plan["see_per_epoch"]
    long = f" = {epochs:g} epochs" if epochs and plan["budget_kind"] != "epochs" else ""
    cost = f" ({see:g} see per epoch)" if see else ""
    lines += [
        f"  trials          {plan['trials']}, each at most {_most(plan)} {kind}{long}{cost}",
        f"  rungs           {', '.join(f'{rung:g}' for rung in plan['rungs']) or 'none'} {kind}"
        f"{', ' + plan['rungs_mode'] if plan['rungs'] else ''}{_rescued(plan['rescue'])}",
        *([f"                  {_cost_of_rungs(plan, kind)}"] if plan["rungs"] else []),
        f"  search          about {plan['budget_expected']:.0f} {kind} expected{in_see}, "
        f"{plan['budget_at_most']:.0f} at most",
        *([f"  select          {_selected(plan['select'], kind)}"] if plan["select"] else []),
        f"  confirm         {_confirmed(plan['confirm'], kind)}",
        *_time(plan.get("estimate"), kind),
        "  first configurations:",
    ]
    lines += [
        f"    {config['origin']:10}{knob_list(config['knobs'])}"
        for config in plan["first_configurations"]
    ]
    return "\n".join(lines)


def _confirmed(confirm: dict[str, Any], kind: str) -> str:
    if not confirm["top"]:
        return "none"
    *before, most = confirm["looks"]
    if not before:
        return f"{confirm['top']} x {most} repeats, {confirm['budget']:g} {kind}"
    return (
        f"{confirm['top']} x {', '.join(map(str, before))} or {most} repeats, until decided, "
        f"about {confirm['budget_expected']:g} {kind} expected, {confirm['budget']:g} at most"
    )


def _most(plan: dict[str, Any]) -> str:
    until, whole = plan["budget_until"], plan["budget_per_trial"]
    return f"{whole:g}" if until == whole else f"{until:g} of its {whole:g}"


def _rescued(rescue: int) -> str:
    return f"; {rescue} of the stopped go on at the end" if rescue else ""


def _selected(select: dict[str, Any], kind: str) -> str:
    seeds = "seed" if select["seeds"] == 1 else "seeds"
    counts = "; the value of the search counts too" if select["with_search"] else ""
    runs = f"the best {select['top']} x {select['seeds']} {seeds}"
    return f"{runs}, {select['budget']:g} {kind}{counts}"


def _time(estimate: dict[str, Any] | None, kind: str) -> list[str]:
    """Return the lines of an estimate of the time, none without one."""
    if estimate is None:
        return []
    search, confirm, both, pace = (
        estimate[word] for word in ("search_s", "confirm_s", "seconds", "seconds_per_unit")
    )
    parts = f": search {clock(search)}, confirm {clock(confirm)}" if confirm else ""
    each = f"{pace:.3g} s per {'epoch' if kind == 'epochs' else kind}"
    at_once = "1 trial" if estimate["slots"] == 1 else f"{estimate['slots']} trials"
    return [
        f"  time            about {clock(both)}{parts}, with {at_once} at a time",
        f"                  an estimate from run {estimate['run']}, whose {estimate['trials']} "
        f"trials took {each}",
    ]


def _cost_of_rungs(plan: dict[str, Any], kind: str) -> str:
    parts = [
        f"{cost['trials']:.0f} trials to {cost['until']:g} use {cost['budget']:.0f} {kind}"
        for cost in plan["rungs_cost"]
    ]
    return ", ".join(parts)


def _held(resources: dict[str, Any]) -> str:
    workers, gpus, parallel = (resources[word] for word in ("workers", "gpus", "parallel"))
    each = f"{resources['cpus']:g} CPU" + (f" and {gpus:g} GPU" if gpus else "")
    if workers > 1:
        each = f"{workers} workers of {each} that share its batches"
    return f"{each}; {'as many' if parallel == 'auto' else f'at most {parallel}'} at a time" + (
        " as fit" if parallel == "auto" else ""
    )


def _number(value: float) -> str:
    """Return whole numbers with all of their digits, and others with six."""
    return str(value) if isinstance(value, int) else f"{value:g}"


def domain_text(domain: Domain) -> str:
    """Return a domain on one line: `log 0.001 .. 0.5`."""
    match domain:
        case Fixed(value=value):
            text = f"= {value}"
        case Range(low=low, high=high, scale=scale, step=step, type=kind):
            words: list[str] = [word for word in (scale, kind) if word in {"log", "int"}]
            if domain.mean is not None:
                words.append(f"normal {_number(domain.mean)} +- {_number(domain.sd or 0)},")
            if domain.prior is not None:
                words.append(f"near {_number(domain.prior)} ({domain.confidence}),")
            by = [f"by {_number(step)}"] if step else []
            text = " ".join([*words, f"{_number(low)} .. {_number(high)}", *by])
        case Choice(values=values):
            text = " | ".join(map(str, values))
        case Grid(values=values):
            text = "grid " + " | ".join(map(str, values))
    when = " and ".join(
        f"{name} is {' or '.join(map(str, values))}" for name, values in domain.when.items()
    )
    return f"{text}  when {when}" if when else text
