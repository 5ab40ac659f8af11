"""The table of curves: a row per report, and a summary of each trial's reports.

Reports go from SQLite to Parquet in columns, some ten thousand at a time. So a run of millions of
reports is exported in seconds and in constant memory. The other tables need only a few numbers per
trial, which are collected on the way.
"""

from __future__ import annotations

import io
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from samtune.record import tables
from samtune.record.columns import BESIDE, COLUMNS
from samtune.record.reader import Reader
from samtune.record.rows import TrialRow

if TYPE_CHECKING:
    import pyarrow as pa

_REPORTS_AT_ONCE = 20_000
_COLUMNS = (
    *("trial", "attempt", "epoch", "used", "value", "metrics", "sha256", "at"),
    *("decision", "rung", "rung_cutoff"),
)
# A metric of such a name uses the table's own column. No other column of the table is a metric.
_METRICS = {
    *("step", "see", "train_s", "eval_s", "data_s", "s_per_step", "lr", "rho"),
    *("train_loss", "train_acc", "val_loss", "val_acc", "peak_rss_mb", "peak_gpu_mb"),
    *("val_loss_averaged", "val_acc_averaged", *BESIDE),
    *("sam_loss_gap", "cos_grads"),
    *("sharp_lambda_max", "sharp_trace", "sharp_worst_rho", "sharp_worst_adaptive"),
    *("sharp_samples", "sharp_m", "sharp_rho"),
    *("test_acc", "test_loss", "test_nll", "test_ece", "test_brier", "n_test", "test_correct"),
}


def metric_columns(table: str, metrics: Iterable[str]) -> dict[str, str]:
    """Return the column of each metric in a table.

    It has the name of the metric, or `metric.NAME` if the table has another column of that name:
    a trainable may report a metric called `attempt`.
    """
    taken = {column.name for column in COLUMNS[table]} - _METRICS
    return {
        name: f"metric.{name}" if name in taken or name.startswith(("knob.", "metric.")) else name
        for name in metrics
    }


@dataclass
class End:
    """The summary of a trial's reports.

    Attributes:
        metrics: those of the last report that are finite.
        used: the budget used, in its unit.
        checkpoint_sha256: the digest of the last checkpoint.
        epoch: the highest epoch.
        repeated: how many epochs were reported again by a later attempt.
        rung: the last rung that judged the trial.
        rung_value: the value it judged.
        first_rung_value: the value that the first rung judged.
        audited: whether the trial went on after its stop, to check the stop.
        best: the best value of the search's metric.
        best_epoch: the epoch of that value.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    used: float = 0.0
    checkpoint_sha256: str | None = None
    epoch: int = 0
    repeated: int = 0
    rung: int | None = None
    rung_value: float | None = None
    first_rung_value: float | None = None
    audited: bool = False
    best: float | None = None
    best_epoch: int | None = None


class Curves:
    """The rows of the table, in batches; `ends` fills up as they are made.

    Attributes:
        schema: the Arrow schema of the batches.
        ends: the `End` of each trial, by its number in the record.
    """

    def __init__(self, record: Reader, trials: Sequence[TrialRow], mode: str) -> None:
        """Prepare the rows of a run's trials; `mode` says which values are better."""
        self._record = record
        self._known = {trial.trial: (trial.key, trial.stage) for trial in trials}
        self._sign = 1 if mode == "max" else -1
        self._metrics = metric_columns("curves", record.metrics())
        self.schema = tables.schema("curves", floats=self._metrics.values())
        self.ends: dict[int, End] = {}

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield the batches; no trial is in two of them."""
        cursor = self._record.query(
            "SELECT trial, attempt, epoch, used, value, metrics, checkpoint_sha256, at, decision,"
            " rung, cutoff FROM reports LEFT JOIN decisions USING (seq) ORDER BY trial, seq"
        )
        cursor.row_factory = None
        rows: list[tuple[Any, ...]] = []
        while fresh := cursor.fetchmany(_REPORTS_AT_ONCE):
            rows += fresh
            # The last trial waits for its other reports.
            last = rows[-1][0]
            complete = next((k for k in range(len(rows), 0, -1) if rows[k - 1][0] != last), 0)
            if complete:
                yield self._batch(rows[:complete])
                del rows[:complete]
        if rows:
            yield self._batch(rows)

    def _batch(self, rows: Sequence[tuple[Any, ...]]) -> pa.RecordBatch:
        import numpy as np

        columns: dict[str, Any] = dict(
            zip(_COLUMNS, map(list, zip(*rows, strict=True)), strict=True)
        )
        bounds = [0, *(np.flatnonzero(np.diff(columns["trial"])) + 1).tolist(), len(rows)]
        columns |= {"superseded": [], "trial_key": [], "stage": []}
        for start, end in itertools.pairwise(bounds):
            key, stage = self._known[columns["trial"][start]]
            columns["trial_key"] += [key] * (end - start)
            columns["stage"] += [stage] * (end - start)
            self._end(columns, start, end)
        columns["run"] = [self._record.name] * len(rows)
        # In two parts, because the product of the whole would be rounded.
        part, second = np.modf(np.array(columns["at"]))
        columns["reported_at"] = (second * 1e6 + np.rint(part * 1e6)).astype(np.int64)
        return tables.batch(self.schema, len(rows), columns | self._read(columns["metrics"]))

    def _read(self, metrics: Sequence[str]) -> dict[str, pa.Array]:
        """Parse the reports' JSON into a column per metric."""
        import pyarrow as pa
        import pyarrow.compute as pc
        from pyarrow import json as arrow_json

        parsed = arrow_json.read_json(
            io.BytesIO("\n".join(metrics).encode()),
            parse_options=arrow_json.ParseOptions(
                explicit_schema=pa.schema([(name, pa.float64()) for name in self._metrics]),
                unexpected_field_behavior="ignore",
            ),
        ).combine_chunks()
        found = {}
        for name, column in self._metrics.items():
            values = parsed[name].combine_chunks()
            if pa.types.is_integer(self.schema.field(column).type):
                fits = pc.less(pc.abs(values), float(2**62))
                values = pc.if_else(fits, pc.round(values), pa.scalar(None, pa.float64()))
            found[column] = values
        return found

    def _end(self, columns: Mapping[str, Any], start: int, end: int) -> None:
        """Collect the `End` of the trial whose reports are those rows."""
        span = slice(start, end)
        epochs, attempts, values = (columns[name][span] for name in ("epoch", "attempt", "value"))
        newest = dict(zip(epochs, attempts, strict=True))
        columns["superseded"].extend(
            attempt < newest[epoch] for epoch, attempt in zip(epochs, attempts, strict=True)
        )
        finite = [k for k, v in enumerate(values) if v is not None and math.isfinite(v)]
        best = max(finite, key=lambda k: self._sign * values[k], default=None)
        judged = [k for k, rung in enumerate(columns["rung"][span]) if rung is not None]
        first = next((k for k in judged if columns["rung"][start + k] == 0), None)
        decisions = columns["decision"][span]
        checked = decisions[decisions.index("audit") :] if "audit" in decisions else []
        last = json.loads(columns["metrics"][end - 1])
        self.ends[columns["trial"][start]] = End(
            metrics={name: value for name, value in last.items() if math.isfinite(value)},
            used=columns["used"][end - 1],
            checkpoint_sha256=columns["sha256"][end - 1],
            epoch=max(newest),
            repeated=len(epochs) - len(newest),
            rung=columns["rung"][start + judged[-1]] if judged else None,
            rung_value=values[judged[-1]] if judged else None,
            first_rung_value=None if first is None else values[first],
            # A trial that was promoted later is no longer audited.
            audited=bool(checked) and "continue" not in checked,
            best=None if best is None else values[best],
            best_epoch=None if best is None else epochs[best],
        )
