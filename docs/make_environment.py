"""The page of the environment's variables: which ones the code reads, and what each does."""

from __future__ import annotations

import re
from pathlib import Path

import analysis
import samtune
import trainables
from docs.markdown import table

_HEAD = """# Environment variables

`python docs/make_reference.py` makes this page from `docs/make_environment.py`. An option
of a command counts more than its variable.
"""

OURS = {
    "SAMTUNE_RUNS": "The folder of the runs, as `--runs`; else `runs` in the current folder.",
    "SAMTUNE_DATA_ROOT": "The folder of the data sets; without it `samtune/data` in "
    "`XDG_CACHE_HOME` or `~/.cache`.",
    "SAMTUNE_STORAGE": "Where to copy the run to, as `--storage`.",
    "SAMTUNE_FREE_MB": "Megabytes that must stay free in the run's folder, 200 without it. Below, "
    "a sweep stops with exit code 5.",
    "SAMTUNE_DEBUG": "`1` shows tracebacks of samtune's own, and the output of trials at once.",
    "SAMTUNE_ALLOW_OPEN_RAY": "`1` is `--allow-open-ray`: start Ray although `RAY_AUTH_MODE` is "
    "`disabled`.",
    "SAMTUNE_TRIAL": "Set by samtune for a trainable `program:FILE`: the whole trial, as JSON.",
}
OTHERS = {
    "RAY_AUTH_MODE": "`token` unless it is set; `disabled` lets everyone on the network run code.",
    "RAY_AUTH_TOKEN": "The token of a cluster to join; a new one for a Ray of the run's own.",
    "RAY_AUTH_TOKEN_PATH": "A file with that token.",
    "RAY_TMPDIR": "The folder of Ray's own files.",
    "OMP_NUM_THREADS": "Threads of a process; samtune gives each trial as many as it has CPUs.",
    "WANDB_MODE": "Of `--log wandb`: `offline` unless it is set.",
    "WANDB_PROJECT": "Of `--log wandb`: `samtune` unless it is set.",
    "XDG_CACHE_HOME": "The folder of caches: data sets, and what torch.compile has compiled.",
    "TORCHINDUCTOR_CACHE_DIR": "What torch.compile has compiled; `samtune/inductor` in the folder "
    "of caches unless it is set.",
    "COLUMNS": "The width of tables where the output is no terminal.",
    "CXX": "The C++ compiler that `task.compile` needs on a CPU.",
}


def environment() -> str:
    """Return the page of the environment's variables."""
    parts = [_HEAD]
    for title, variables in (
        ("samtune's own", OURS),
        ("Of others, read or set by samtune", OTHERS),
    ):
        rows = [(f"`{name}`", text) for name, text in variables.items()]
        parts += [f"## {title}\n", table(("Variable", "Meaning"), rows)]
    return "\n".join(parts)


def named_in_code() -> set[str]:
    """Return all of samtune's variables that the code names."""
    homes = [Path(package.__file__ or "").parent for package in (samtune, trainables, analysis)]
    texts = [path.read_text() for home in homes for path in home.rglob("*.py")]
    return {name for text in texts for name in re.findall(r"\bSAMTUNE_[A-Z_]+\b", text)}
