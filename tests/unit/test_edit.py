"""A loop's YAML is changed in its text: the keys asked for, and not one character more."""

import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.edit import change_training, read_text, replace_file, show_difference
from configs.load import ConfigError, load_loop

SHIPPED = Path("configs/loops/product-sentiment.yaml")
FILE = Path("loop.yaml")


def test_the_shipped_file_changes_in_the_lines_of_its_keys_only(tmp_path: Path) -> None:
    before = read_text(SHIPPED)
    after = change_training(before, {"preset": None, "max_tokens": 64, "lora.rank": 8}, SHIPPED)
    old, new = before.splitlines(), after.splitlines()
    gone, came = [line for line in old if line not in new], [line for line in new if line not in old]
    assert [line.split(":")[0].strip() for line in gone] == ["preset", "max_tokens"]
    assert [line.split(":")[0].strip() for line in came] == ["preset", "max_tokens", "lora"]
    assert came[0].index("#") == gone[0].index("#")  # comments that stood in one column still do
    (tmp_path / "product-sentiment.yaml").write_text(after, encoding="utf-8")
    training = load_loop(tmp_path / "product-sentiment.yaml").training
    assert (training.preset, training.max_tokens, training.lora.rank) == (None, 64, 8)


@pytest.mark.parametrize(
    ("text", "changes", "expected"),
    [
        ("training: {a: 1}\n", {"a": 5e-5, "b.c": 3}, "training: {a: 5.0e-05, b: {c: 3}}\n"),
        ("training: {}\n", {"a": "on"}, "training: {a: 'on'}\n"),
        ("training:\n  a:  # why\n  b: 2", {"a": 1, "c": None}, "training:\n  a: 1 # why\n  b: 2\n  c: null\n"),
        ("training:\n  a: 1\n  b:\n    c: 2\n\n# next\ngate: 1\n", {"d": True},
         "training:\n  a: 1\n  b:\n    c: 2\n  d: true\n\n# next\ngate: 1\n"),
        ("training:\n  a: 'x'   # y\r\ngate: 1\r\n", {"b": 2}, "training:\n  a: 'x'   # y\r\n  b: 2\r\ngate: 1\r\n"),
        ("x: &t\n  a: 1\ntraining:\n  <<: *t\n  b: 2\n", {"a": 3},
         "x: &t\n  a: 1\ntraining:\n  <<: *t\n  b: 2\n  a: 3\n"),
        ("training:\n    - lora: 1\n", {}, "training:\n    - lora: 1\n"),
    ],
)  # fmt: skip
def test_layouts(text: str, changes: dict[str, Any], expected: str) -> None:
    assert change_training(text, changes, FILE) == expected


@pytest.mark.parametrize("text", ["x: &t {a: 1}\ntraining: *t\n", "training:\n  a: &v 1\nb: *v\n", "training: 3\n"])
def test_a_layout_that_would_change_more_is_left_to_people(text: str) -> None:
    with pytest.raises(ConfigError, match=r"loop\.yaml: its layout cannot be changed .* set by hand: training\.a=2"):
        change_training(text, {"a": 2}, FILE)


def test_the_difference_is_a_unified_diff() -> None:
    told = show_difference("a: 1\nb: 2\n", "a: 1\nb: 3\n", "x.yaml")
    assert told.splitlines() == [
        "--- x.yaml (today)",
        "+++ x.yaml (tuned)",
        "@@ -1,2 +1,2 @@",
        " a: 1",
        "-b: 2",
        "+b: 3",
    ]
    assert show_difference("a: 1", "a: 1", "x.yaml") == ""


def test_a_file_is_replaced_with_its_mode_and_line_ends(tmp_path: Path) -> None:
    file, link = tmp_path / "loop.yaml", tmp_path / "link.yaml"
    file.write_bytes(b"a: 1\r\n")
    file.chmod(0o640)
    link.symlink_to(file)
    replace_file(link, read_text(link).replace("1", "2"))
    assert file.read_bytes() == b"a: 2\r\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert link.is_symlink()
    assert yaml.safe_load(read_text(link)) == {"a": 2}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.yaml", "loop.yaml"]
    with pytest.raises(ConfigError, match="cannot be written"):
        replace_file(tmp_path / "nowhere" / "loop.yaml", "a: 1")
