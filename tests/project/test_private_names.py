"""Samtune rests on the public API of Ray alone, but for what one module says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import samtune

HOME = Path(samtune.__file__).parent
ALLOWED = {HOME / "cluster" / "ray_internals.py"}
# Of Ray's objects that are public themselves.
PRIVATE = {
    *("temporary_state", "run_metadata", "metric_analysis", "metric_n_steps"),
    *("evaluated_params", "_raylet", "_private", "_temp_dir", "_system_config"),
}
# Ray reads each setting of its insides from such a variable; these are in its documentation.
DOCUMENTED = {
    *("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR", "RAY_ADDRESS"),
    *("RAY_AIR_NEW_OUTPUT", "RAY_CHDIR_TO_TRIAL_DIR", "RAY_USAGE_STATS_ENABLED"),
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO",
}


def private_names(code: str) -> Iterator[str]:
    """Yield the private names of Ray in a module's code."""
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Attribute(attr=name) | ast.keyword(arg=str(name)) if name in PRIVATE:
                yield name
            case ast.ImportFrom(module=str(module), names=names) if module.startswith("ray"):
                parts = [*module.split("."), *(each.name for each in names)]
                yield from (part for part in parts if part.startswith("_"))
            case ast.Import(names=names):
                for each in names:
                    parts = each.name.split(".")
                    if parts[0] == "ray":
                        yield from (part for part in parts if part.startswith("_"))
            case ast.Attribute(value=ast.Name(id="ray" | "tune"), attr=name) if name[0] == "_":
                yield name
            case ast.Constant(value=str(text)):
                for name in re.findall(r"\bRAY_[A-Za-z_]+\b", text):
                    if name not in DOCUMENTED:
                        yield name
                if re.search(r"\bray\.(\w+\.)*_\w", text):
                    yield text


@pytest.mark.parametrize(
    "code",
    [
        "import ray._private.services",
        "from ray._raylet import Config",
        "from ray.tune.experiment.trial import _Location",
        "ray.init(_temp_dir='/tmp')",
        "ray._private",
        "trial.temporary_state.ray_actor",
        "import_module('ray._private.parameter')",
        "os.environ['RAY_enable_worker_prestart'] = '0'",
    ],
)
def test_a_private_name_is_found(code: str) -> None:
    assert list(private_names(code))


def test_no_private_name_of_ray_is_used() -> None:
    found = {
        str(file.relative_to(HOME)): names
        for file in HOME.rglob("*.py")
        if file not in ALLOWED and (names := list(private_names(file.read_text())))
    }
    assert not found
