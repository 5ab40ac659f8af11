"""The Parquet tables of a run, written and read; `columns.py` declares their columns.

Float columns hold no NaN and no infinity: a value that was not measured, or has diverged, is null.
Readers accept extra columns and refuse a higher version of a table.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samtune import durable
from samtune.errors import SamtuneError
from samtune.record.columns import COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_AT_ONCE = 4096
_FOOTER = b"samtune.footer"
VERSIONS = {"trials": 1, "curves": 1, "selects": 1, "repeats": 1, "leaderboard": 1, "pairs": 1}


class TableError(SamtuneError):
    """A Parquet file that is missing, damaged, or of a version this samtune cannot read."""


def schema(
    table: str,
    *,
    floats: Iterable[str] = (),
    knobs: Mapping[str, Iterable[Any]] | None = None,
) -> pa.Schema:
    """Return the Arrow schema of a table; a declared column has its meaning as metadata.

    Args:
        table: its name, a key of `columns.COLUMNS`.
        floats: names of further float64 columns; those that the table has are left out.
        knobs: the values of each knob, by which its column `knob.NAME` is typed.
    """
    import pyarrow as pa

    types = {"timestamp": pa.timestamp("us", tz="UTC"), "bool": pa.bool_()}
    fields = []
    for column in COLUMNS[table]:
        arrow = types.get(column.type) or pa.type_for_alias(column.type)
        about = {"description": column.meaning}
        fields.append(pa.field(column.name, arrow, column.nullable, about))
    known = {field.name for field in fields}
    fields += [pa.field(name, pa.float64()) for name in dict.fromkeys(floats) if name not in known]
    for knob, values in (knobs or {}).items():
        fields.append(pa.field(f"knob.{knob}", _knob_type(values)))
    return pa.schema(fields, metadata={"samtune.schema": f"{table}/{VERSIONS[table]}"})


def _knob_type(values: Iterable[Any]) -> pa.DataType:
    import pyarrow as pa

    values = [value for value in values if value is not None]
    kinds = {type(value) for value in values}
    if kinds <= {int}:
        return pa.int64() if all(-(2**63) <= v < 2**63 for v in values) else pa.string()
    return pa.float64() if kinds <= {int, float} else pa.string()


def write(
    path: Path,
    typed: pa.Schema,
    rows: Iterable[Mapping[str, Any] | pa.RecordBatch],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write rows as Parquet: zstd, with page checksums.

    Rows are packed as they come, so memory grows with the file and not with the table.

    Args:
        path: the file; it is replaced as a whole.
        typed: the `schema` of the table.
        rows: dicts, or batches of the table's columns.
        metadata: further entries for the file's metadata.

    Raises:
        OSError: the file cannot be written; then the old one is still there.
    """
    import pyarrow.parquet as pq

    # Arrow gives keys as bytes, and takes one key as bytes and as text for two.
    encoded = {key.encode(): value.encode() for key, value in (metadata or {}).items()}
    encoded = {**(typed.metadata or {}), **encoded}
    typed = typed.with_metadata(encoded | {_FOOTER: _digest(typed.names, encoded)})
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, typed, compression="zstd", write_page_checksum=True) as writer:
        for batch in _batches(rows, typed):
            writer.write_batch(_measured(batch, typed))
    durable.replace(path, buffer.getvalue())


def batch(typed: pa.Schema, length: int, columns: Mapping[str, Any]) -> pa.RecordBatch:
    """Return columns, each a list or an Arrow array, as rows; a missing column is null."""
    import pyarrow as pa

    arrays = []
    for field in typed:
        column = columns.get(field.name)
        if column is None:
            column = pa.nulls(length, field.type)
        elif not isinstance(column, pa.Array):
            column = pa.array(column, field.type)
        arrays.append(column.cast(field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=typed)


def _batches(
    rows: Iterable[Mapping[str, Any] | pa.RecordBatch], typed: pa.Schema
) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    # Knobs of several types are text or floats, which Arrow does not make of them by itself.
    casts = {
        field.name: str if pa.types.is_string(field.type) else float
        for field in typed
        if field.name.startswith("knob.") and not pa.types.is_integer(field.type)
    }
    waiting: list[Mapping[str, Any]] = []
    for row in rows:
        if isinstance(row, pa.RecordBatch):
            yield row
            continue
        knobs = {
            name: cast(row[name]) for name, cast in casts.items() if row.get(name) is not None
        }
        waiting.append({**row, **knobs})
        if len(waiting) == _ROWS_AT_ONCE:
            yield pa.RecordBatch.from_pylist(waiting, schema=typed)
            waiting = []
    if waiting:
        yield pa.RecordBatch.from_pylist(waiting, schema=typed)


def _measured(batch: pa.RecordBatch, typed: pa.Schema) -> pa.RecordBatch:
    """Return the batch with null in place of each float that is not finite."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = [
        pc.if_else(pc.is_finite(column), column, pa.scalar(None, column.type))
        if pa.types.is_floating(column.type)
        else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, schema=typed)


def read(path: Path, table: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table, or some of its columns, and verify its pages.

    Raises:
        TableError: the file is missing, damaged, of another table, or of a later version.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.exists():
        raise TableError(f"{path}: no such file")
    whole = pa.BufferReader(path.read_bytes())
    try:
        # The checksums of the pages cover neither the names of the columns nor the metadata.
        footer = pq.read_schema(whole)
        whole.seek(0)
        content = pq.read_table(
            whole,
            columns=columns and list(columns),
            page_checksum_verification=True,
            # Threads of pyarrow that are still at work when a short command ends abort it.
            use_threads=False,
            pre_buffer=False,
        )
    except (pa.ArrowException, OSError) as error:
        raise TableError(
            f"{path}: damaged ({error}); `samtune leaderboard` on its run writes it again"
        ) from error
    label = (content.schema.metadata or {}).get(b"samtune.schema", b"?").decode(errors="replace")
    name, _, version = label.partition("/")
    if name != table or not version.isdigit() or int(version) > VERSIONS[table]:
        raise TableError(
            f"{path}: holds {label}, and this samtune reads {table}/{VERSIONS[table]}; "
            "a newer samtune wrote it"
        )
    known = footer.metadata.get(_FOOTER)
    if known is not None and known != _digest(footer.names, footer.metadata):
        raise TableError(
            f"{path}: damaged (its columns or metadata are not those that were written); "
            "`samtune leaderboard` on its run writes it again"
        )
    return content


def _digest(names: Sequence[str], metadata: Mapping[bytes, bytes]) -> bytes:
    """Return a digest of samtune's own entries in the footer of a table."""
    own = sorted(
        (key, value)
        for key, value in metadata.items()
        if key.startswith(b"samtune.") and key != _FOOTER
    )
    said = [*(name.encode() for name in names), *(part for each in own for part in each)]
    return hashlib.sha256(b"\n".join(said)).hexdigest()[:16].encode()


def metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a table's file. Raise TableError when it cannot be read."""
    found = _footer(path).metadata or {}
    return {key.decode(): value.decode() for key, value in found.items()}


def names(path: Path) -> list[str]:
    """Return the names of a table's columns. Raise TableError when they cannot be read."""
    return list(_footer(path).names)


def _footer(path: Path) -> pa.Schema:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"{path}: {error}") from error
