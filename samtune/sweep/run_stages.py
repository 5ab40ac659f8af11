"""Runs the stages of a command one after another: Ray Tune around the driver."""

from __future__ import annotations

from collections.abc import Iterable

from ray.exceptions import RayError

from samtune.cluster.ray_internals import ended_tune_for_memory
from samtune.cluster.start import Cluster
from samtune.record.folder import RunError
from samtune.record.record import Record
from samtune.sweep import tune
from samtune.sweep.driver import Driver
from samtune.sweep.heartbeat import heartbeat
from samtune.sweep.observers import Observers
from samtune.sweep.progress import Progress, View
from samtune.sweep.stages import StagePlan
from samtune.sweep.stop import Stop


class MemoryKillError(RunError):
    """The end of all trials, because Ray has killed the workers of some to free memory.

    Those count as failed for lack of memory, so one that needs more than there is comes to an end.
    All others continue where they were.
    """

    exit_code = 5


def run_stages(
    stages: Iterable[StagePlan],
    record: Record,
    on: Cluster,
    view: View,
    stop: Stop,
    observers: Observers | None = None,
) -> list[Progress]:
    """Run stages one after another on the same workers, until they end or a stop is requested.

    The caller holds the record's lock.

    Args:
        stages: The stages. Each is requested when the one before it has ended.
        record: The record of the run.
        on: The Ray that runs the trials.
        view: The display of the progress.
        stop: The request to stop.
        observers: Further receivers of the sweep's events.

    Returns:
        The progress of each stage that was begun.

    Raises:
        MemoryKillError: A machine ran low on memory. The stages have to be made again.
        RunError: Ray itself failed (exit code 5). The run can be resumed then.
    """
    driver = Driver(stages, record, on, view, stop, observers)
    if not driver.open_next():
        return driver.progresses
    is_cut = True
    try:
        with heartbeat(driver.beat, stop.request), driver.watch.writing():
            tune.run(driver, on, record.name)
        is_cut = stop.requested
    except RayError as error:
        raise RunError(
            f"Ray failed ({str(error).strip().splitlines()[0]}); everything up to here is on "
            f"record: `samtune resume {record.name}` goes on",
            exit_code=5,
        ) from error
    except RuntimeError as error:
        if not ended_tune_for_memory(error):
            raise
        why = "a machine ran low on memory, so Ray ended the trials"
        if driver.lost_to_memory():
            raise MemoryKillError(why) from error
        raise RunError(
            f"{why}; once there is room, `samtune resume {record.name}` continues", exit_code=5
        ) from error
    finally:
        driver.close(cut=is_cut)
    return driver.progresses
