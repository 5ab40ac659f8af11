"""All uses of Ray beyond its public API, each with the reason.

`tests/cluster/test_ray_internals.py` fails for a Ray in which one of these no longer acts.
"""

from __future__ import annotations

from ray.exceptions import OutOfMemoryError
from ray.tune.experiment import Trial

# Ray starts a Python worker per CPU in advance, and gives none of them to Tune: with 64 CPUs these
# are 64 unused processes. No documented setting turns this off.
WORKERS_ON_DEMAND = {"RAY_prestart_worker_first_driver": "0"}


def forget(trial: Trial) -> None:
    """Drop the data that Tune keeps of a trial that has ended: 29 KB per trial become 4 KB.

    Tune keeps each trial until the end of the sweep, and a sweep may have 10,000.
    """
    trial.run_metadata.last_result = {"done": True}
    # Ray keeps an object while this reference exists, and Tune has no public way to drop it. In a
    # Ray that has renamed the attribute, this line does nothing, and the object stays until the
    # end of the sweep.
    trial._default_result_or_future = None
    for each in (
        trial.metric_analysis,
        trial.metric_n_steps,
        trial.config,
        trial.evaluated_params,
    ):
        each.clear()


def was_killed_for_memory(trial: Trial) -> bool:
    """Return whether Ray killed a worker at its start because its machine ran low on memory.

    Tune stores the exceptions of dead actors and of failed tasks as objects, and all others as
    text only. `ray.exceptions.OutOfMemoryError` is the only one of these that a trial meets.
    """
    return trial.error_file is not None and trial.pickled_error_file is None


def ended_tune_for_memory(error: RuntimeError) -> bool:
    """Return whether Tune raised this because Ray killed a worker in a trial to free memory.

    Tune expects dead actors and failed tasks. Any other exception of a worker ends all trials.
    """
    return isinstance(error.__cause__, OutOfMemoryError)
