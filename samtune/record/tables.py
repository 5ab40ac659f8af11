"""The Parquet tables of a run: their columns, and how they are written and read.

Columns that end in `!` are never null. Float columns hold no NaN and no infinity: a value that was
not measured, or has diverged, is null. Times are UTC; durations are seconds of a monotonic clock;
accuracies are shares of 1; `see` is SGD-epoch equivalents: one plain epoch over the training split
is 1. Readers accept extra columns and refuse a higher version of a table.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samtune import durable
from samtune.errors import SamtuneError

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_AT_ONCE = 4096
VERSIONS = {"trials": 1, "curves": 1, "selects": 1, "repeats": 1, "leaderboard": 1, "pairs": 1}

_TASK = """
    variant! string, base_optimizer! string, dataset! string, model! string,
    label_noise float64, augment! string, task! string
"""

# Of a trained model, by the settings in the last four.
_SHARPNESS = """
    sharp_lambda_max float64, sharp_trace float64, sharp_worst_rho float64,
    sharp_worst_adaptive float64, sharp_samples int64, sharp_m int64, sharp_rho float64,
    sharp_bn_mode string
"""

# A paired comparison over `n` common seed bundles. Differences are positive where the row (or `a`)
# is better, whatever the mode of the metric.
_COMPARISON = """
    n int16, diff_mean float64, diff_lo float64, diff_hi float64,
    p float64, p_holm float64, p_tied float64, wins float64, margin float64,
    mde float64, seeds_needed float64, searches_needed float64
"""

# Beside these, trials, curves and repeats have a column per metric that a trainable reported, and
# trials one per knob. The leaderboard has the statistics of each metric that a run searched by.
COLUMNS = {
    "trials": f"""
    run! string, study! int16, space! string, search! int16, trial! int32, trial_key! string,
    {_TASK}, n_train int32, n_val int32, n_params int64, stage! string,
    search_alg! string, scheduler! string, knobs_searched! string, metric string, mode string,
    tie_margin float64, config_json! string, config_sha! string, origin! string,
    seed_init! int64, seed_order! int64, seed_split! int64,
    budget_kind! string, budget_max! float64, horizon_steps int64,
    state! string, state_reason string, rung_reached int8, rung_value float64,
    epochs_done! int64, steps_done! int64, see! float64, fwd_samples! int64, bwd_samples! int64,
    train_s! float64, eval_s! float64, data_s! float64, wall_s! float64,
    peak_rss_mb float64, peak_gpu_mb float64, device string, threads int16,
    precision string, compiled bool, channels_last bool, hostname_hash string,
    val_acc float64, val_loss float64, train_acc float64, train_loss float64,
    sam_loss_gap float64, cos_grads float64,
    best_val_acc float64, best_epoch int64,
    attempts! int16, epochs_repeated! int32, ckpt_sha256 string, deterministic bool,
    started_at! timestamp, ended_at timestamp,
    samtune_version! string, torch_version string, git_commit string
    """,
    "curves": """
    run! string, trial_key! string, stage! string, attempt! int16, epoch! int64, step int64,
    see float64, used! float64, train_s float64, lr float64, rho float64,
    train_loss float64, train_acc float64, val_loss float64, val_acc float64,
    sam_loss_gap float64, cos_grads float64,
    rung int8, decision string, rung_cutoff float64, superseded! bool, reported_at! timestamp
    """,
    "selects": f"""
    run! string, study! int16, space! string, search! int16, trial_key string, {_TASK},
    budget_kind! string, budget_max! float64, source_trial_key! string, config_sha! string,
    rank_in_search! int16, seed_bundle! int32, metric string, mode string,
    val_acc float64, val_loss float64, see float64, train_s float64,
    ckpt_sha256 string, state! string
    """,
    "repeats": f"""
    run! string, study! int16, space! string, search! int16, trial_key string, {_TASK},
    budget_kind! string, budget_max! float64, source_trial_key! string, config_sha! string,
    rank_in_search! int16, seed_bundle! int32, plan string, test_openings! int16,
    metric string, mode string, tie_margin float64, val_acc float64, val_loss float64,
    test_acc float64, test_loss float64, test_nll float64, test_ece float64,
    n_test int64, test_correct int64, test_bits binary, see float64, train_s float64,
    {_SHARPNESS}, ckpt_sha256 string, state! string
    """,
    "leaderboard": f"""
    rank int16, run! string, space! string, variant! string, base_optimizer! string,
    dataset! string, label_noise float64,
    model! string, augment! string, task! string, budget_kind! string, budget_max! float64,
    metric! string, mode! string, test_metric! string, tie_margin float64,
    searches! int16, search_see! float64, n_knobs! int16, knobs_searched! string,
    search_alg! string, scheduler! string, config_json! string, config_sha! string,
    trials! int32,
    trials_completed! int32, trials_pruned! int32, trials_diverged! int32, trials_error! int32,
    trials_cancelled! int32, search_wall_s float64,
    best_val_acc float64, median_val_acc float64, default_val_acc float64, tuning_gain float64,
    select_mean float64, repeats! int16, repeats_diverged! int16,
    test_acc_mean float64, test_acc_sd float64, test_acc_lo float64, test_acc_hi float64,
    between_search_sd float64, test_binom_se float64, test_nll_mean float64, test_ece_mean float64,
    val_acc_mean float64, optimism float64, test_openings! int32,
    see_per_run float64, train_s_per_run float64, peak_mem_mb float64,
    sharp_lambda_max_mean float64, sharp_trace_mean float64, sharp_worst_rho_mean float64,
    sharp_worst_adaptive_mean float64, sharp_samples int64, sharp_m int64, sharp_rho float64,
    sharp_bn_mode string,
    baseline string, verdict string, verdict_about string, plan string, look int16,
    {_COMPARISON}, rank_lo int16, rank_hi int16
    """,
    "pairs": f"""
    dataset! string, model! string, task! string, budget_kind! string, budget_max! float64,
    metric! string, mode! string,
    run_a! string, space_a! string, variant_a! string,
    run_b! string, space_b! string, variant_b! string,
    verdict! string, verdict_about! string, look int16, {_COMPARISON}
    """,
}


class TableError(SamtuneError):
    """A Parquet file that is missing, damaged, or of a version this samtune cannot read."""


def schema(
    table: str,
    *,
    floats: Iterable[str] = (),
    knobs: Mapping[str, Iterable[Any]] | None = None,
) -> pa.Schema:
    """Return the Arrow schema of a table.

    Args:
        table: its name, a key of `COLUMNS`.
        floats: names of further float64 columns; those that the table has are left out.
        knobs: the values of each knob, by which its column `knob.NAME` is typed.
    """
    import pyarrow as pa

    types = {"timestamp": pa.timestamp("us", tz="UTC"), "bool": pa.bool_()}
    fields = []
    for column in COLUMNS[table].split(","):
        name, kind = column.split()
        arrow = types.get(kind) or pa.type_for_alias(kind)
        fields.append(pa.field(name.rstrip("!"), arrow, nullable=not name.endswith("!")))
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

    typed = typed.with_metadata({**(typed.metadata or {}), **(metadata or {})})
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
    try:
        content = pq.read_table(
            pa.BufferReader(path.read_bytes()),
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
    label = (content.schema.metadata or {}).get(b"samtune.schema", b"?").decode()
    name, _, version = label.partition("/")
    if name != table or not version.isdigit() or int(version) > VERSIONS[table]:
        raise TableError(
            f"{path}: holds {label}, and this samtune reads {table}/{VERSIONS[table]}; "
            "a newer samtune wrote it"
        )
    return content


def metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a table's file. Raise TableError when it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = pq.read_schema(path).metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"{path}: {error}") from error
    return {key.decode(): value.decode() for key, value in found.items()}
