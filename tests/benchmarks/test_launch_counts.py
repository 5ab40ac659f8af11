"""The committed counts of the GPU path; tests/fakegpu holds the code to them."""

from __future__ import annotations

import json

from benchmarks.launches import MIXED, RESULT
from samtune.optimizers import VARIANTS
from trainables.augment import KINDS

FOUND = json.loads(RESULT.read_text())


def test_the_result_has_every_variant_and_no_wait_that_was_mended() -> None:
    assert FOUND["steps"].keys() == VARIANTS.keys()
    assert [name for name, step in FOUND["steps"].items() if step["waits"]] == ["ae_sam"]
    assert FOUND["batches"].keys() == {*KINDS, *MIXED}
    assert not any(batch["waits"] for batch in FOUND["batches"].values())
