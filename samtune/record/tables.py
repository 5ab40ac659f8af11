"""The Parquet tables of a run: their columns, and writing and reading them whole or not at all.

Columns that end in `!` are never null. Times are UTC, durations in seconds from a monotonic
clock, accuracies shares of 1, `see` SGD-epoch equivalents: one plain epoch over the training
split is 1. Readers accept extra columns and refuse a higher major version of a schema.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samtune import durable
from samtune.errors import SamtuneError

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_AT_ONCE = 4096
VERSIONS = {"trials": 1, "curves": 1, "repeats": 1, "leaderboard": 1}

_TASK = """
    variant! string, base_optimizer! string, dataset! string, model! string,
    label_noise! float64, augment! string, task! string
"""

_SHARPNESS = """
    sharp_lambda_max float64, sharp_trace float64, sharp_worst_rho float64,
    sharp_worst_adaptive float64, sharp_batchsize float64
"""

COLUMNS = {
    "trials": f"""
    run! string, study! int16, space! string, trial! int32, trial_key! string, {_TASK},
    n_train int32, n_val int32, n_params int64, stage! string,
    search_alg! string, scheduler! string, knobs_searched! string,
    config_json! string, config_sha! string, origin! string,
    seed_init! int64, seed_order! int64, seed_split! int64, seed_sampler! int64,
    budget_kind! string, budget_max! float64, horizon_steps int64,
    state! string, state_reason string, rung_reached int8, rung_value float64,
    epochs_done! int32, steps_done! int64, see! float64, fwd_samples! int64, bwd_samples! int64,
    train_s! float64, eval_s! float64, data_s! float64, wall_s! float64,
    peak_rss_mb float64, peak_gpu_mb float64, device string, threads int16,
    precision string, compiled bool, channels_last bool, hostname_hash string,
    val_acc float64, val_loss float64, train_acc float64, train_loss float64,
    best_val_acc float64, best_epoch int32, gen_gap float64, {_SHARPNESS},
    attempts! int16, epochs_repeated! int32, ckpt_sha256 string, deterministic bool,
    started_at! timestamp, ended_at timestamp,
    samtune_version! string, torch_version string, git_commit string
    """,
    "curves": """
    run! string, trial_key! string, stage! string, attempt! int16, epoch! int32, step int64,
    see float64, used! float64, train_s float64, lr float64, rho float64,
    train_loss float64, train_acc float64, val_loss float64, val_acc float64,
    grad_norm float64, perturb_norm float64, sam_loss_gap float64, cos_grads float64,
    rung int8, decision string, rung_cutoff float64, superseded! bool, reported_at! timestamp
    """,
    "repeats": f"""
    run! string, study! int16, space! string, {_TASK},
    budget_kind! string, budget_max! float64, source_trial_key! string, config_sha! string,
    rank_in_search! int16, seed_bundle! int32, test_openings! int16,
    val_acc float64, val_loss float64,
    test_acc float64, test_loss float64, test_nll float64, test_ece float64,
    n_test int32, test_correct int32, see float64, train_s float64, {_SHARPNESS},
    ckpt_sha256 string, state! string
    """,
    "leaderboard": """
    rank int16, run! string, space! string, variant! string, base_optimizer! string,
    dataset! string, label_noise! float64,
    model! string, augment! string, task! string, budget_kind! string, budget_max! float64,
    search_see! float64, n_knobs! int16, knobs_searched! string,
    search_alg! string, scheduler! string, config_json! string, config_sha! string,
    studies! int16, trials! int32,
    trials_completed! int32, trials_pruned! int32, trials_diverged! int32, trials_error! int32,
    trials_cancelled! int32, search_wall_s float64,
    best_val_acc float64, median_val_acc float64, default_val_acc float64, tuning_gain float64,
    repeats! int16, repeats_diverged! int16, test_acc_mean float64, test_acc_sd float64,
    test_acc_lo float64, test_acc_hi float64, test_binom_se float64,
    test_nll_mean float64, test_ece_mean float64,
    val_acc_mean float64, optimism float64, test_openings! int32,
    see_per_run float64, train_s_per_run float64, peak_mem_mb float64
    """,
}


# Page checksums guard the values only. This one guards the names, types and counts around them
# too; it is of the file with these words in its place.
_KEY = b"samtune.sha256"
_BLANK = b"the SHA-256 of the file with these words in place of the digest:"


class TableError(SamtuneError):
    """A Parquet file that is missing, damaged, or of a version this samtune cannot read."""


def schema(table: str, knobs: Mapping[str, Iterable[Any]] | None = None) -> pa.Schema:
    """The Arrow schema of a table; `knobs` adds one wide column `knob.NAME` for each, typed by
    its values."""
    import pyarrow as pa

    types = {"timestamp": pa.timestamp("us", tz="UTC"), "bool": pa.bool_()}
    fields = []
    for column in COLUMNS[table].split(","):
        name, kind = column.split()
        arrow = types.get(kind) or pa.type_for_alias(kind)
        fields.append(pa.field(name.rstrip("!"), arrow, nullable=not name.endswith("!")))
    for knob, values in (knobs or {}).items():
        fields.append(pa.field(f"knob.{knob}", _knob_type(values)))
    return pa.schema(fields, metadata={"samtune.schema": f"{table}/{VERSIONS[table]}"})


def _knob_type(values: Iterable[Any]) -> pa.DataType:
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int}:
        return pa.int64()
    return pa.float64() if kinds <= {int, float} else pa.string()


def write(
    path: Path,
    table: str,
    rows: Iterable[Mapping[str, Any] | pa.RecordBatch],
    *,
    knobs: Mapping[str, Iterable[Any]] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes the rows as `path`: zstd, with page checksums and a SHA-256 of the whole file.

    Rows may come as batches of the table's columns too. Either way they are packed as they come,
    so that memory grows with the file and not with the table.

    Raises OSError, and then leaves the file that was there.
    """
    import pyarrow.parquet as pq

    typed = schema(table, knobs)
    typed = typed.with_metadata({**typed.metadata, **(metadata or {})})
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, typed, compression="zstd", write_page_checksum=True) as writer:
        for batch in _batches(rows, typed):
            writer.write_batch(batch)
        writer.add_key_value_metadata({_KEY: _BLANK})
    raw = buffer.getvalue()
    durable.replace(path, raw.replace(_BLANK, _digest(raw)))


def batch(typed: pa.Schema, length: int, columns: Mapping[str, Any]) -> pa.RecordBatch:
    """Columns, each a list or an Arrow array, as rows of a schema; a column left out is null."""
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

    text = [
        field.name
        for field in typed
        if field.name.startswith("knob.") and pa.types.is_string(field.type)
    ]
    waiting: list[Mapping[str, Any]] = []
    for row in rows:
        if isinstance(row, pa.RecordBatch):
            yield row.replace_schema_metadata(typed.metadata)
            continue
        words = {name: str(row[name]) for name in text if row.get(name) is not None}
        waiting.append({**row, **words})
        if len(waiting) == _ROWS_AT_ONCE:
            yield pa.RecordBatch.from_pylist(waiting, schema=typed)
            waiting = []
    if waiting:
        yield pa.RecordBatch.from_pylist(waiting, schema=typed)


def read(path: Path, table: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads a table, or some of its columns, the whole file verified.

    Raises TableError when the file is missing, damaged or of another table or later version.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.exists():
        raise TableError(f"{path}: no such file")
    raw = path.read_bytes()
    try:
        # Before a byte of it is parsed.
        stored = raw[(start := raw.rfind(_KEY) + len(_KEY) + 2) : start + len(_BLANK)]
        if stored != _digest(raw.replace(stored, _BLANK)):
            raise OSError("its content does not match its SHA-256")
        content = pq.read_table(
            pa.BufferReader(raw),
            columns=columns and list(columns),
            page_checksum_verification=True,
            # Threads of pyarrow's that are still at work when a short command ends abort it.
            use_threads=False,
            pre_buffer=False,
        )
    except (pa.ArrowException, OSError) as error:
        raise TableError(
            f"{path}: damaged ({error}); `samtune leaderboard` on its run writes it anew"
        ) from error
    label = (content.schema.metadata or {}).get(b"samtune.schema", b"?").decode()
    name, _, version = label.partition("/")
    if name != table or not version.isdigit() or int(version) > VERSIONS[table]:
        raise TableError(
            f"{path}: holds {label}, and this samtune reads {table}/{VERSIONS[table]}; "
            "a newer samtune wrote it"
        )
    return content


def _digest(raw: bytes) -> bytes:
    return hashlib.sha256(raw).hexdigest().encode()
