"""`samtune leaderboard`: which rows are shown, in which form, from which folders."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import full_run
import pytest

from samtune.api.run import Run
from samtune.cli import main
from samtune.commands.run import _say_all
from samtune.record import tables

LATEX = r"""\begin{table}
\caption{CAPTION}
\begin{tabular}{lllllll}
\toprule
variant & test acc \% & against sgd &  & Holm p & ranks & searches x repeats \\
\midrule
sam & 94.00 [89.03, 98.97] & +22.00 [+19.52, +24.48] & $\uparrow$ & $<$0.001 & 1-1 & 3 x 3 \\
sgd & 72.00 [69.52, 74.48] &  &  & - & 2-2 & 3 x 3 \\
\bottomrule
\end{tabular}
\end{table}
"""
CAPTION = (
    r"digits, small\_cnn, label noise 0.4, 20 see per trial. Mean on test over fresh seeds; in "
    r"brackets 95 \% intervals; by paired t tests with Holm's correction $\uparrow$ better, about "
    "the variants."
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full_run.make(tmp_path_factory.mktemp("runs"), "r", searches=3)


def printed(run: Path, capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["leaderboard", *words, "--runs", str(run.parent)])
    out, err = capsys.readouterr()
    assert ended.value.code == code, err
    return out + err if code else out


def test_rows_by_condition_order_variant_and_search(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads(printed(run, capsys, "r", "--json", "--sort", "test_acc_mean"))["rows"]
    assert [row["space"] for row in rows] == ["sgd", "sam"]
    out = printed(run, capsys, "r", "--where", "variant in (sam)")
    assert "1 of 2 rows are shown." in out and "sgd won with" not in out
    out = printed(run, capsys, "r", "--by", "search")
    assert "sam search 2" in out and "leads" not in out
    rows = json.loads(printed(run, capsys, "r", "--json", "--by", "search"))["rows"]
    assert len(rows) == 6 and {row["searches"] for row in rows} == {1}
    out = printed(run, capsys, "r", "--by", "budget", "--format", "md")
    assert "| variant | 20 see per trial |" in out
    assert "did you mean 'rank'" in printed(run, capsys, "r", "--sort", "rnk", code=2)


def test_a_folder_with_tables_alone_is_a_run(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    printed(run, capsys, "r")
    for table in ("trials", "repeats", "selects"):
        (tmp_path / f"{table}.parquet").write_bytes((run / f"{table}.parquet").read_bytes())
    out = printed(run, capsys, str(tmp_path), "r")
    assert "are the same run" in out
    path = tmp_path / "board.parquet"
    assert not printed(run, capsys, str(tmp_path), "--format", "parquet", "-o", str(path))
    assert tables.read(path, "leaderboard").num_rows == 2
    assert "needs a file" in printed(run, capsys, "r", "--format", "parquet", code=2)


def test_eighty_columns_show_difference_verdict_and_ranks(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    wide = printed(run, capsys, "r").splitlines()
    (sam,) = [line for line in wide if line.startswith("1  sam")]
    assert "better  " in sam and "1-1" in sam and "looks 3" in sam
    (heads,) = [line for line in wide if line.startswith("#")]
    assert (
        "Holm p  plan     searches  repeats" in heads and sam.split("looks 3")[1].split()[0] == "3"
    )
    monkeypatch.setenv("COLUMNS", "80")
    narrow = printed(run, capsys, "r").splitlines()
    (heads,) = [line for line in narrow if line.startswith("#")]
    assert heads.split("  ")[0] == "#" and len(heads) <= 80
    assert all(word in heads for word in ("against sgd", "verdict", "ranks"))


def test_a_board_in_latex_has_intervals_and_marks(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board, front = printed(run, capsys, "r", "--format", "latex").split("\n\n")
    assert board + "\n" == LATEX.replace("CAPTION", CAPTION)
    assert r"\caption{Pareto front: the full trials" in front
    assert r"variant & trial & val\_acc (max) & see (min) & knobs \\" in front


def test_every_form_of_a_board_has_the_front_of_several_aims(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = json.loads(printed(run, capsys, "r", "--json"))
    # Of each search the first trial; the other one was stopped.
    assert [row["pareto_trials"] for row in told["rows"]] == ["0:0 1:0 2:0"] * 2
    assert {row["space"]: row["trial"] for row in told["fronts"]} == {"sam": 0, "sgd": 0}
    first = told["fronts"][0]
    assert first["metrics"] == {"val_acc": pytest.approx(0.85), "see": 2.0}
    assert first["knobs"] and len(told["fronts"]) == 6
    # A run that has ended says the same.
    _say_all(Run(run), as_json=True)
    assert json.loads(capsys.readouterr().out)["fronts"] == told["fronts"]
    _say_all(Run(run), as_json=False)
    assert "Pareto front: the full" in capsys.readouterr().out
    lines = printed(run, capsys, "r", "--format", "csv", "--by", "search").splitlines()
    at = lines[0].split(",").index("pareto_trials")
    (row,) = csv.reader([line for line in lines if "sam search 2" in line])
    assert row[at] == "0"
    with pytest.raises(SystemExit):
        main(["status", "r", "--runs", str(run.parent)])
    said = capsys.readouterr().out
    assert said.count("    aims val_acc max, see min; constraints s_per_step <= 0.2\n") == 6
