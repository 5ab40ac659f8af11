"""`samtune publish` writes a tabular benchmark that `samtune replay` reads and verifies."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import full_run
import pytest

from samtune.cli import main


def called(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_a_published_run_is_replayed_as_the_run_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, target = full_run.make(tmp_path / "runs", "r").parent, tmp_path / "open"
    code, _, err = called(capsys, "publish", "r", str(target), "--runs", str(runs))
    assert code == 0, err
    sheet = (target / "README.md").read_text()
    assert "CC-BY-4.0" in sheet and "- digits, small_cnn, label noise 0.4" in sheet
    assert "| trials.parquet | 4 |" in sheet
    subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=target, check=True)
    words = ("--asha", "grace=4", "--seeds", "2", "--json")
    read = json.loads(called(capsys, "replay", str(target), *words)[1])["studies"]
    own = json.loads(called(capsys, "replay", "r", *words, "--runs", str(runs))[1])["studies"]
    assert read == own and [study["space"] for study in own] == ["sgd-0", "sam-0"]

    code, _, err = called(capsys, "publish", "r", str(target), "--runs", str(runs))
    assert code == 5 and "is not empty" in err
    (target / "README.md").write_text(sheet + "more")
    (target / "pairs.parquet").unlink()
    code, _, err = called(capsys, "replay", str(target), *words[:2])
    assert code == 5 and "README.md has changed, pairs.parquet is missing" in err
