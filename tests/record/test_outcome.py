"""Tests of the end of an attempt: its cause, in words, and the decision to try again."""

from __future__ import annotations

import errno

import pytest

from samtune.record.outcome import failure, is_final, of_exception
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


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_too_little_memory_of_a_library_is_oom(text: str) -> None:
    """GPU defect 8. Torch raises plain RuntimeErrors for these."""
    assert of_exception(RuntimeError(text)) == ("oom", True)
    assert of_exception(RuntimeError("CUDA error: an illegal memory access"))[0] == "error"


class Mute(Exception):
    """An exception that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (SystemExit("no data"), "SystemExit: no data"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit"),
        (Mute(), "Mute: (its message cannot be shown)"),
    ],
)
def test_any_exception_is_an_error_with_its_name(error: BaseException, line: str) -> None:
    found = failure(error)
    assert found is not None and found["error"] == line
    assert (found["cause"], found["again"]) == ("error", True)


def test_an_exit_without_an_error_is_a_return() -> None:
    assert failure(SystemExit()) is None and failure(SystemExit(0)) is None


def test_a_long_message_is_cut() -> None:
    found = failure(ValueError("x" * 10**6))
    assert found is not None and len(found["error"]) + len(found["traceback"]) < 30_000
