"""Hostile space files: refused with a place, in little time and memory."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from samtune.space import strict_yaml
from samtune.space.search_space import SearchSpace, SpaceError
from samtune.space.strict_yaml import StrictYamlError

pytestmark = pytest.mark.usefixtures("toy_trainable", "in_folder")


BOMB = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}]\n"
    for old, new in zip("abcdefghij", "bcdefghijk", strict=True)
)


HOSTILE = [
    (b"a: !!python/object/apply:os.system [ls]", "1:4: tags (tag:yaml.org,2002:python"),
    (b"a: !x 1", "1:4: tags (!x) are not used here"),
    (BOMB.encode(), "1:4: anchors and aliases (&a) are not used here"),
    (b"a: &a [*a]", "1:4: anchors and aliases (&a) are not used here"),
    (b"[" * 20_000, "1:34: nested deeper than 32 levels"),
    (b"{a: " * 20_000, "nested deeper than 32 levels"),
    (b"- " * 20_000, "nested deeper than 32 levels"),
    (b"? " * 20_000, "nested deeper than 32 levels"),
    (b"a: " + b"1" * 100_000_000, ": larger than 1 MiB"),
    (b"[" + b"a," * 500_000, "more than 10000 values"),
    (b"a\n" * 500_000, ": more than 20000 lines"),
    (b"a: 1\nb: \x00", "2:4: control character '\\x00'; is this a text file?"),
    (b"\x7fELF\x02\x01\x01", "1:1: control character '\\x7f'"),
    (b"a: \xff\xfe", "1:4: byte 0xff is not UTF-8; is this a text file?"),
    (b"\xef\xbb\xbfa: 1", "1:1: begins with a byte-order mark (BOM)"),
    ("a: 1".encode("utf-16"), "1:1: is UTF-16; save the file as UTF-8"),
    (b"a:\t1", "1:3: a tab; "),
    (b"a: 1\n--- \nb: 2", "2:1: a second document begins here"),
    (b"%YAML 1.1\n---\na: 1", "1:1: directives (%YAML, %TAG) are not used here"),
    (b'a: "\\e[2J"', "1:4: '\\x1b[2J' holds a character that cannot be printed"),
    (b'a: "\\UFFFFFFFF"', "not valid YAML"),
    (b"[a]: 1", "1:1: a word must stand before ':', not a map or list"),
    (b"a: 99999999999999999999", "1:4: a whole number must be below 2^63"),
]


@pytest.mark.parametrize(
    ("data", "message"),
    HOSTILE,
    ids=lambda value: None if isinstance(value, str) else repr(value[:20]),
)
def test_hostile_input_is_refused_in_under_a_second(data: bytes, message: str) -> None:
    Path("lab.yaml").write_bytes(data)
    begun = time.process_time()
    with pytest.raises(SpaceError) as caught:
        SearchSpace.load("lab.yaml")
    assert time.process_time() - begun < 1
    assert message in caught.value.messages[0]
    assert all(len(line) < 300 and line.isprintable() for line in caught.value.messages)


@pytest.mark.parametrize("data", [data for data, _ in HOSTILE], ids=lambda data: repr(data[:20]))
def test_hostile_input_takes_little_memory(data: bytes) -> None:
    Path("lab.yaml").write_bytes(data)
    del data
    tracemalloc.start()
    with pytest.raises(SpaceError):
        SearchSpace.load("lab.yaml")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


@given(st.binary(max_size=200) | st.text("{}[]:,-?&*!|>'\"%@` \n\t#a1.~", max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes | str) -> None:
    try:
        strict_yaml.load(data if isinstance(data, bytes) else data.encode(), "f.yaml")
    except StrictYamlError as error:
        assert error.problems


WORDS = [
    "samtune",
    "trainable",
    "knobs",
    "points",
    "task",
    "budget",
    "search",
    "lr",
    "rho",
    "when",
]
WORDS += ["min", "max", "choice", "grid", "default", "first", "step", "scale", "asha", "extends"]
trees = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.sampled_from([*WORDS, "log", "", "0.1"]),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from(WORDS), below),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(WORDS), trees), trees)
def test_any_tree_is_read_or_refused_with_a_place(tree: dict[str, Any], knob: Any) -> None:
    tree = {"knobs": {"lr": knob}, **tree, "samtune": 1, "trainable": "labtrainables.mod:toy"}
    Path("lab.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    try:
        SearchSpace.load("lab.yaml")
    except SpaceError as error:
        assert all(message.startswith("lab.yaml:") for message in error.messages)
