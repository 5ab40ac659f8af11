"""UCI's Optical Recognition of Handwritten Digits (CC BY 4.0), shipped: see ../DIGITS.md."""

from __future__ import annotations

import hashlib
import io
from functools import cache
from pathlib import Path

import numpy as np

from trainables.datasets.errors import DataError
from trainables.datasets.source import Part, Source

FILE = Path(__file__).parent.with_name("digits.npz")
SHA256 = "bf2a91a17bbb5da171ba3245cb578a7d5bf574eb8607fb98d25a3e53060d8f02"


@cache
def digits() -> Source:
    """Return the 1,797 images of 1 x 8 x 8 pixels, with values from 0 to 16.

    Raises:
        DataError: The file is missing or damaged.
    """
    try:
        raw = FILE.read_bytes()
    except OSError as error:
        raise DataError(
            f"the data set digits cannot be read: {error}; it is part of samtune, reinstall it"
        ) from error
    sha256 = hashlib.sha256(raw).hexdigest()
    if sha256 != SHA256:
        raise DataError(
            f"{FILE} is damaged: its SHA-256 is {sha256}, not {SHA256}; "
            "it is part of samtune, reinstall it"
        )
    with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
        part = Part(arrays["images"], arrays["labels"].astype(np.int64))
    sizes = {"train": 1000, "val": 297, "test": 500}
    return Source("digits", {"train": part}, tuple("0123456789"), sha256, sizes=sizes)
