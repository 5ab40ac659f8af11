"""samtune: which sharpness-aware optimizer, with which settings, for my problem and my budget?

    run = samtune.run("asam", name="first", set={"budget.trials": 8})
    run.leaderboard, run.best().knobs

A trainable of your own takes a `TrialConfig` and calls `samtune.report`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from samtune.api.best import Best
    from samtune.api.run import Interrupted, Run
    from samtune.api.runs import leaderboard, load, run
    from samtune.api.spaces import Space
    from samtune.errors import SamtuneError
    from samtune.optimizers.knobs import Knob
    from samtune.trial import TrialConfig, report

__version__ = "0.1.0"
__all__ = [
    "Best",
    "Interrupted",
    "Knob",
    "Run",
    "SamtuneError",
    "Space",
    "TrialConfig",
    "__version__",
    "leaderboard",
    "load",
    "report",
    "run",
]

# Public names are imported when they are used, so that `samtune --help` is instant.
_HOMES = {
    "Best": "samtune.api.best",
    **dict.fromkeys(("Interrupted", "Run"), "samtune.api.run"),
    **dict.fromkeys(("leaderboard", "load", "run"), "samtune.api.runs"),
    "Space": "samtune.api.spaces",
    "SamtuneError": "samtune.errors",
    "Knob": "samtune.optimizers.knobs",
    **dict.fromkeys(("TrialConfig", "report"), "samtune.trial"),
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'samtune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
