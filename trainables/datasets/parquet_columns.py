"""Columns of a Parquet file in Hugging Face's layout: images, labels and class names."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow.compute as compute
import pyarrow.types as types

from samtune.optimizers.knobs import nearest
from trainables.datasets.errors import DataError, WordError
from trainables.sampling import Rows

_IMAGES = ("image", "img")
_LABELS = ("label", "fine_label", "coarse_label")
EMBED = (
    "to embed the files in Hugging Face's datasets: `from datasets.table import "
    'embed_table_storage`, then `d.with_format("arrow").map(embed_table_storage, batched=True)`, '
    "and write that by `to_parquet`"
)


def columns(where: str, schema: Any, label: str) -> tuple[str, str]:
    """Return the names of the image column and the label column.

    Args:
        where: The file's path, for messages.
        schema: The file's Arrow schema.
        label: The label column to use; "" for the first that is known.

    Raises:
        WordError: There is no column `label`.
        DataError: There is no image column or no label column, or two of one name.
    """
    if label and label not in schema.names:
        raise WordError(
            f"{where} has no column {label!r}{nearest(label, schema.names)} "
            f"(it has: {', '.join(schema.names)})"
        )
    image = _first(where, schema, "image", _IMAGES)
    label = label or _first(where, schema, "label", _LABELS)
    for name in (image, label):
        if schema.names.count(name) > 1:
            raise DataError(f"{where} has two columns {name!r}; rename one of them")
    _check_images(f"column {image!r} of {where}", schema.field(image).type)
    return image, label


def _first(where: str, schema: Any, what: str, known: tuple[str, ...]) -> str:
    for name in known:
        if name in schema.names:
            return name
    naming = "; or name yours, as in parquet:/path#column" if what == "label" else ""
    raise DataError(
        f"{where} has no {what} column; it has {', '.join(schema.names) or 'none'}, and one "
        f"should be called {' or '.join(known)}{naming}"
    )


def _check_images(where: str, kind: Any) -> None:
    """Raise DataError for a column type that cannot hold one encoded image per row."""
    kind = getattr(kind, "storage_type", kind)
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if types.is_struct(kind):
        index = kind.get_field_index("bytes")
        if index < 0:
            raise DataError(f"{where} has no bytes in it, only {kind.names}; {EMBED}")
        held = kind.field(index).type
        if not (_is_binary(held) or types.is_null(held)):
            raise DataError(f"{where} has bytes of type {held}; they must be of type binary")
    elif types.is_string(kind) or types.is_large_string(kind):
        raise DataError(f"{where} has no bytes in it, only paths (type {kind}); {EMBED}")
    elif _is_list(kind):
        inner = kind
        while _is_list(inner):
            inner = inner.value_type
        if types.is_struct(inner) or _is_binary(inner):
            raise DataError(
                f"{where} holds a list of images per row (type {kind}); there must be one image "
                "per row"
            )
        raise DataError(
            f"{where} holds lists of pixel values (type {kind}), not encoded images; in Hugging "
            "Face's datasets `cast_column` to `Image()` makes them that"
        )
    elif types.is_null(kind):
        raise DataError(f"{where} is null in every row, the first of them row 0")
    elif not _is_binary(kind):
        raise DataError(f"{where} is of type {kind}, and must hold the bytes of encoded images")


def _is_binary(kind: Any) -> bool:
    return bool(
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_binary_view(kind)
    )


def _is_list(kind: Any) -> bool:
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def image_bytes(where: str, column: str, held: Any) -> bytes:
    """Return the bytes of an image from a row of the image column.

    Raises:
        DataError: The row is null, or holds a path alone.
    """
    if held is None:
        raise DataError(f"{where} is null in column {column!r}; remove the row")
    raw, path = (held.get("bytes"), held.get("path")) if isinstance(held, dict) else (held, None)
    if isinstance(raw, bytes):
        return raw
    if path is None:
        raise DataError(f"{where} has neither bytes nor a path in column {column!r}")
    raise DataError(
        f"{where} has no bytes in it, only a path ({path!r} in column {column!r}); {EMBED}"
    )


def labels(where: str, name: str, column: Any) -> Rows:
    """Return the labels of a column as int64.

    Raises:
        DataError: A label is null, not a whole number, or above the range of int64.
    """
    if types.is_null(column.type) or column.null_count:
        row = compute.index(compute.is_null(column), True).as_py()
        raise DataError(
            f"{where} has {column.null_count} rows without a label in column {name!r}, the first "
            f"of them row {row}"
        )
    if not (types.is_integer(column.type) or types.is_boolean(column.type)):
        raise DataError(
            f"the labels in column {name!r} of {where} are of type {column.type}"
            f"{_example(column)}, and must be whole numbers from 0 on; in Hugging Face's datasets "
            f'`class_encode_column("{name}")` makes them that'
        )
    values = np.asarray(column.to_numpy())
    large = np.flatnonzero(values > np.iinfo(np.int64).max)
    if len(large):
        raise DataError(
            f"row {large[0]} of {where} has label {values[large[0]]} in column {name!r}; number "
            "the classes from 0 on"
        )
    return values.astype(np.int64)


def _example(column: Any) -> str:
    """Return the place and the value of the first fraction or NaN, for a message; else ""."""
    if types.is_floating(column.type):
        for row, value in enumerate(column.to_pylist()):
            if value % 1 != 0:
                return f" (row {row} is {value})"
    return ""


def class_names(where: str, schema: Any, label: str) -> list[str]:
    """Return the class names in the schema's metadata; [] if there are none.

    Raises:
        DataError: Two classes have one name.
    """
    try:
        about = json.loads((schema.metadata or {})[b"huggingface"])
        found = about["info"]["features"][label]["names"]
    except (KeyError, ValueError, TypeError):
        return []
    names = [str(name) for name in found] if isinstance(found, list) else []
    for index, name in enumerate(names):
        if name in names[:index]:
            raise DataError(
                f"{where} calls two classes {name!r}: labels {names.index(name)} and {index} of "
                f"column {label!r}; give each class a name of its own"
            )
    return names
