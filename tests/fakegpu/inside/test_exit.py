"""The end of a process that has used the fake GPU."""

from __future__ import annotations

import os
import subprocess
import sys

IN_A_PASS = """
import threading
import torch

begun = threading.Event()

class Endless(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        begun.set()
        while True:
            pass

w = torch.zeros(1, device="cuda", requires_grad=True)
threading.Thread(target=Endless.apply(w).sum().backward, daemon=True).start()
begun.wait()
"""


def test_python_ends_while_autograd_has_a_pass() -> None:
    # At the end, torch waits this long for the threads of autograd: otherwise 10 seconds.
    environment = os.environ | {"TORCH_AUTOGRAD_SHUTDOWN_WAIT_LIMIT": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", IN_A_PASS],
        env=environment,
        timeout=120,
        text=True,
        capture_output=True,
    )
    assert ended.returncode == 0, ended.stderr
