"""The Ray of a sweep: its start or connection, and the code of its workers.

Ray reads some of its settings when it is imported, so they are set here, before any module of
this package imports it. Settings that the user has made are kept.
"""

import os as _os
import sys as _sys

# Each has a measured reason: a worker must be kept although its trial ends slowly, the record
# replaces Tune's files and snapshots, and only samtune writes to the terminal.
_SETTINGS = {
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "600",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
for _name, _value in _SETTINGS.items():
    _os.environ.setdefault(_name, _value)
if "ray" not in _sys.modules:
    # Without this, a Ray that is joined is not sent its token. Once Ray has been imported, it
    # turns tokens on by itself for a Ray that it starts.
    _os.environ.setdefault("RAY_AUTH_MODE", "token")
