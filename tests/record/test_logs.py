"""The logs of trials: bounded, and followed while they grow."""

from __future__ import annotations

from pathlib import Path

from samtune.record.logs import LARGEST, Tail, log_path, shorten


def test_a_log_is_found_by_the_trials_number(tmp_path: Path) -> None:
    assert log_path(tmp_path, 7) == tmp_path / "logs" / "00007.log"


def test_a_long_log_keeps_its_end(tmp_path: Path) -> None:
    path = tmp_path / "1.log"
    shorten(path)
    assert not path.exists()
    path.write_bytes(b"x" * LARGEST)
    shorten(path)
    assert path.stat().st_size == LARGEST
    lines = [f"line {number}\n" for number in range(LARGEST // 8)]
    path.write_text("".join(lines))
    whole = path.stat().st_size
    shorten(path)
    head, kept = path.read_text().split("\n", 1)
    assert path.stat().st_size <= LARGEST and "".join(lines).endswith(kept)
    assert head == f"[the first {whole - len(kept)} bytes were removed]"
    assert kept.startswith("line ")


def test_a_tail_gives_each_line_once(tmp_path: Path) -> None:
    path = tmp_path / "1.log"
    tail = Tail(path)
    assert tail.lines() == []
    path.write_text("one\ntw")
    assert tail.lines() == ["one"]
    path.write_text("one\ntwo\nthr")
    assert tail.lines() == ["two"]
    assert tail.lines(to_end=True) == ["thr"] and tail.lines(to_end=True) == []
    path.write_text("cut\n")
    assert tail.lines() == []
    with path.open("a") as log:
        log.write("more\n")
    assert tail.lines() == ["more"]
    assert Tail(path, skip=True).lines() == [] and Tail(path).lines() == ["cut", "more"]
