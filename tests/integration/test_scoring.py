"""Files in, the same files with answers out: every format, and every way a file can be wrong."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from prefect.testing.utilities import prefect_test_harness

from configs.settings import Settings
from flows.score import score
from tasks.core.errors import DataError
from tasks.scoring import place_output
from tasks.stores.model_registry import open_registry
from tasks.stores.score_files import ScoreFile
from tests.support.ports import free_port
from tests.support.toy_loop import write_toy_loop
from tests.support.versions import register_tiny_version

LABELS = ["negative", "positive"]
TEXTS = ["good and great", 'bad, "really" bad', "Größe passt", "line one\nline two"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a champion of the toy loop."""
    home = tmp_path_factory.mktemp("home")
    registry = open_registry(Settings(home=home, mlflow_port=free_port()))
    version = register_tiny_version(registry, home / "made", "toy", LABELS)
    registry.set_alias("toy", "champion", version)
    write_toy_loop(home / "loops")
    return home


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(autouse=True)
def _environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERTUNE_HOME", str(home))
    monkeypatch.setenv("EVERTUNE_LOOPS_DIR", str(home / "loops"))
    monkeypatch.setenv("EVERTUNE_MLFLOW_PORT", str(free_port()))


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_each_format_comes_back_as_it_was(suffix: str, tmp_path: Path) -> None:
    source = tmp_path / f"reviews{suffix}"
    frame = pd.DataFrame({"id": [7, 8, 9, 10], "text": TEXTS, "label": ["mine"] * 4})
    _write(frame, source)
    record = score("toy", str(source))
    assert (record["n_scored"], record["n_rejected"], record["rejected"]) == (4, 0, None)
    assert record["output"] == str(tmp_path / f"reviews.scored{suffix}")
    scored = _read(Path(record["output"]))
    assert list(scored) == ["id", "text", "label", "predicted_label", "score", "p_negative", "p_positive"]
    assert scored["text"].tolist() == TEXTS
    assert scored["label"].tolist() == ["mine"] * 4
    assert set(scored["predicted_label"]) <= set(LABELS)
    assert (scored["p_negative"] + scored["p_positive"]).tolist() == pytest.approx([1.0] * 4, abs=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == [source.name, f"reviews.scored{suffix}"]


@pytest.mark.usefixtures("prefect_server")
def test_rows_that_cannot_be_scored_are_listed(tmp_path: Path) -> None:
    source = tmp_path / "mixed.jsonl"
    lines = ['{"text": "fine"}', '{"text": ""}', '{"text": 4}', "not json", '{"other": 1}', '{"text": "a\\u0000b"}']
    lines.append(json.dumps({"text": "x" * 10_001}))
    source.write_text("\n".join([*lines, '{"text": "fine too"}']) + "\n", encoding="utf-8")
    record = score("toy", str(source))
    assert (record["n_scored"], record["n_rejected"]) == (2, 6)
    assert record["rejected"] == str(tmp_path / "mixed.scored.rejected.csv")
    with Path(record["rejected"]).open(encoding="utf-8", newline="") as listed:
        rejected = {int(row["row"]): row["reason"] for row in csv.DictReader(listed)}
    assert rejected == {
        2: "empty",
        3: "not text (int)",
        4: "not a record with the file's columns",
        5: "no field 'text'",
        6: "control characters",
        7: "too long (10001 characters, at most 10000)",
    }
    scored = [json.loads(line) for line in Path(record["output"]).read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in scored] == ["fine", "fine too"]


@pytest.mark.usefixtures("prefect_server")
def test_a_failed_run_leaves_nothing_behind(tmp_path: Path) -> None:
    source = tmp_path / "broken.csv"
    source.write_text("text\nfine\n" * 3 + '"never closed', encoding="utf-8")
    source.write_bytes(source.read_bytes() + b"\x00\n")
    with pytest.raises(DataError, match="no champion"):
        _without_champion(source)
    assert [path.name for path in tmp_path.iterdir()] == ["broken.csv"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"body,stars\nx,1\n", r"a.csv:1: no column 'text'; found \['body', 'stars'\]. Name .* --text-column"),
        ("a.csv", b"text\nfine\nGr\xf6\xdfe\n", r"a.csv:3: not UTF-8 \(byte 2 of the line\); save it as UTF-8"),
        ("a.csv", b"text,text\nx,y\n", "a.csv:1: a column name stands twice"),
        ("a.csv", b"", r"a.csv:1: no column 'text'; found \[\]"),
        ("a.jsonl", b'{"body": "x"}\n', r"a.jsonl:1: no column 'text'; found \['body'\]"),
        ("a.parquet", b"PAR1 not really", "a.parquet: not a parquet file"),
        ("a.xlsx", b"", r"a.xlsx: the name must end in .csv, .jsonl, .ndjson, .parquet"),
    ],
)
def test_wrong_files(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        ScoreFile(tmp_path / name, "text")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone.csv: no such file"):
        ScoreFile(tmp_path / "gone.csv", "text")


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbftext\nfine\n")
    file = ScoreFile(tmp_path / "a.csv", "text")
    assert [part.rows for part in file.parts(10)] == [[{"text": "fine"}]]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("in.csv", "in.csv: would overwrite the input"),
        ("link.csv", "link.csv: would overwrite the input"),
        ("hard.csv", "hard.csv: would overwrite the input"),
        ("out.jsonl", "must end in .csv"),
        ("no/out.csv", "no such folder"),
        ("loop.csv", r"loop.rejected.csv: the list of rejected rows would overwrite the output; name the output"),
        ("list.csv", r"list.rejected.csv: the list of rejected rows would overwrite the input; name the output"),
    ],
)
def test_wrong_places_for_the_output(output: str, message: str, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("text\nfine\n", encoding="utf-8")
    (tmp_path / "link.csv").symlink_to(source)
    (tmp_path / "hard.csv").hardlink_to(source)
    (tmp_path / "list.rejected.csv").symlink_to(source)
    (tmp_path / "loop.rejected.csv").symlink_to(tmp_path / "loop.csv")
    with pytest.raises(DataError, match=message):
        place_output(source, tmp_path / output)


def test_a_list_of_rejected_rows_can_itself_be_scored(tmp_path: Path) -> None:
    source = tmp_path / "a.rejected.csv"
    with pytest.raises(DataError, match=r"a.rejected.csv: the list of rejected rows would overwrite the input"):
        place_output(source, tmp_path / "a.csv")
    assert place_output(source, None) == (
        tmp_path / "a.rejected.scored.csv",
        tmp_path / "a.rejected.scored.rejected.csv",
    )


@pytest.mark.usefixtures("prefect_server")
def test_nobody_elses_file_is_deleted(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("text\nfine\n", encoding="utf-8")
    others = [tmp_path / name for name in ("in.rejected.csv", "out.rejected.csv", ".out.csv.partial")]
    for other in others:
        other.write_text("mine", encoding="utf-8")
    record = score("toy", str(source), str(tmp_path / "out.csv"))
    assert (record["n_scored"], record["rejected"]) == (1, None)
    assert [other.read_text(encoding="utf-8") for other in others] == ["mine"] * 3
    same_name = score("toy", str(source), str(tmp_path / "in.rejected.csv"))  # what the list was once called
    assert Path(same_name["output"]).read_text(encoding="utf-8").startswith("text,label,score")


def _without_champion(source: Path) -> None:
    registry = open_registry(Settings())
    champion = registry.find("toy", "champion")
    registry.delete_alias("toy", "champion")
    try:
        score("toy", str(source))
    finally:
        registry.set_alias("toy", "champion", champion.version if champion else "1")


def _write(frame: pd.DataFrame, path: Path) -> None:
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True, force_ascii=False)
    else:
        frame.to_parquet(path, index=False)


def _read(path: Path) -> pd.DataFrame:
    if path.suffix == ".csv":
        return pd.read_csv(path)
    return pd.read_json(path, orient="records", lines=True) if path.suffix == ".jsonl" else pd.read_parquet(path)
