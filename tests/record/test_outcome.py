"""How an attempt ended: its cause, in words, and whether it is tried again."""

from __future__ import annotations

import errno

import pytest

from samtune.record.outcome import is_final, of_death, of_exception, shortly
from samtune.trial import ReportError


@pytest.mark.parametrize(
    ("failures", "final"),
    [
        (["worker_died"] * 2, False),
        (["worker_died", "stalled", "node_lost"], True),
        (["error"], False),
        (["error", "oom"], True),
        (["error", "worker_died"], False),
    ],
)
def test_what_is_tried_again(failures: list[str], final: bool) -> None:
    assert is_final(failures, retries=2) is final
    assert is_final(failures[:1], retries=0)


def test_causes_are_told_apart() -> None:
    class OutOfMemoryError(RuntimeError):
        """Torch's, by its name."""

    assert of_exception(OutOfMemoryError("CUDA out of memory"))[0] == "oom"
    assert of_exception(MemoryError())[0] == "oom"
    assert of_exception(OSError(errno.ENOSPC, "full")) == ("disk_full", True)
    assert of_exception(ReportError("lacks val_acc")) == ("error", False)
    assert of_exception(FileNotFoundError(errno.ENOENT, "gone")) == ("error", True)
    assert of_death("The actor died because its node has died. Node Id: 0") == "node_lost"
    killed = "Worker exit detail: (1) The process is killed by SIGKILL by OOM killer"
    assert of_death(killed) == "worker_died"
    hungry = "ray.exceptions.OutOfMemoryError: node running low on memory"
    assert of_death(hungry) == "oom"
    assert shortly(hungry) == "its process was killed, because its machine ran low on memory"
    died = "Failure # 1\nWorker exit type: {} Worker exit detail: {}"
    ended = died.format("INTENDED_USER_EXIT", "Worker exits with an exit code 7. --enable-x")
    assert shortly(ended) == "its process ended with code 7"
    killed = died.format("SYSTEM_ERROR", "Worker unexpectedly exits. --enable-x")
    assert shortly(killed) == "its process was killed, or crashed"
    assert shortly("Failure # 1\nno such \x1b actor") == "no such \\x1b actor"
