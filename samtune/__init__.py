"""samtune: which sharpness-aware optimizer, with which settings, for my problem and my budget?"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from samtune.optimizers.knobs import Knob
    from samtune.trial import TrialConfig, report

__version__ = "0.1.0"
__all__ = ["Knob", "TrialConfig", "__version__", "report"]


def __getattr__(name: str) -> Any:
    # Public names load on first use, so that `samtune --help` stays instant.
    if name == "Knob":
        from samtune.optimizers.knobs import Knob

        return Knob
    if name in {"TrialConfig", "report"}:
        from samtune import trial

        return getattr(trial, name)
    raise AttributeError(f"module 'samtune' has no attribute {name!r}")
