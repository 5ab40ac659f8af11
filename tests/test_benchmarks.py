"""The benchmarks measure what they say they do."""

from __future__ import annotations

import os
import sys
import time

import psutil

from benchmarks.process_tree import measure

BURN = "import time\nwhile time.process_time() < 0.5: pass"


def test_what_outlives_a_command_counts_as_its_own_and_once() -> None:
    leave = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {BURN!r}])"
    left = measure([sys.executable, "-c", leave])
    assert left.processes == 2 and left.cpu_s >= 0.25
    after = measure([sys.executable, "-c", "pass"])
    assert after.processes == 1 and after.cpu_s < 0.4
    assert not psutil.Process().children()


def test_a_command_is_measured_to_its_last_moment() -> None:
    """Only a look at the end sees one that is shorter than the pause between two looks."""
    burn = BURN.replace("0.5", "0.12")
    usage = measure([sys.executable, "-c", burn])
    assert usage.cpu_s >= 0.1 and usage.returncode == 0
