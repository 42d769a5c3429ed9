"""Texts to label as files, labels that come back, and the commands for both."""

import csv
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from configs.settings import Settings
from infra.cli import main
from tasks.core.errors import DataError
from tasks.stores.database import open_database
from tasks.stores.label_files import FiledLabel, TextToLabel, labelling_config, read_label_file, write_label_file
from tasks.stores.prediction_log import PredictionLog
from tests.support.monitored import make_predictions
from tests.support.toy_loop import write_toy_loop

LABELS = ["negative", "positive"]
TEXTS = [TextToLabel("p1", 'so "good",\nreally', "audit"), TextToLabel("p2", "meh", "unsure")]


def choose(*chosen: str, by: object = 3, **more: Any) -> dict[str, Any]:
    """Return an annotation as Label Studio exports it."""
    result = [{"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": list(chosen)}}]
    return {"id": 1, "completed_by": by, "was_cancelled": False, "result": result if chosen else [], **more}


def export(*annotations: dict[str, Any], known: str = "p1") -> list[dict[str, Any]]:
    return [{"id": 7, "data": {"prediction_id": known, "text": "so good"}, "annotations": list(annotations)}]


def test_a_csv_file_comes_back_with_labels(tmp_path: Path) -> None:
    file = tmp_path / "texts.csv"
    write_label_file(TEXTS, file, "csv")
    with file.open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert [row["text"] for row in rows] == [one.text for one in TEXTS]
    rows[0] |= {"label": " positive ", "labeller": "ana"}
    with file.open("w", encoding="utf-8-sig", newline="") as opened:  # as a spreadsheet saves it
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert read_label_file(file, LABELS) == [FiledLabel("p1", "positive", "ana", "line 3")]


def test_a_text_is_no_formula_of_a_spreadsheet(tmp_path: Path) -> None:
    file = tmp_path / "texts.csv"
    write_label_file([TextToLabel("p1", '=HYPERLINK("http://x")', "audit"), TextToLabel("p2", "so-so", "audit")], file,
                     "csv")  # fmt: skip
    with file.open(encoding="utf-8", newline="") as opened:
        assert [row["text"] for row in csv.DictReader(opened)] == ['\'=HYPERLINK("http://x")', "so-so"]


def test_label_studio_gets_tasks_and_choices(tmp_path: Path) -> None:
    file = tmp_path / "tasks.json"
    write_label_file(TEXTS, file, "label-studio")
    assert json.loads(file.read_text(encoding="utf-8"))[1] == {
        "data": {"prediction_id": "p2", "text": "meh", "picked": "unsure"}
    }
    assert '<Choice value="a &amp; b"/>' in labelling_config(["a & b"])


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        (export(choose("positive")), [("p1", "positive", "3")]),
        (export(choose("positive", by={"id": 3, "email": "ana@x.org"})), [("p1", "positive", "ana@x.org")]),
        (export(choose("positive"), choose("negative", by=4)), [("p1", "positive", "3"), ("p1", "negative", "4")]),
        (export(choose("positive", was_cancelled=True), choose()), []),  # skipped
        ([{"prediction_id": "p1", "label": "negative", "annotator": 2}], [("p1", "negative", "2")]),  # JSON-MIN
        ([{"id": 7, "prediction_id": "p1", "text": "so good"}], []),
    ],
)  # fmt: skip
def test_label_studios_exports_are_read(
    tmp_path: Path, tasks: list[dict[str, Any]], expected: list[tuple[str, str, str]]
) -> None:
    file = tmp_path / "export.json"
    file.write_text(json.dumps(tasks), encoding="utf-8")
    found = read_label_file(file, LABELS)
    assert [(one.prediction_id, one.label, one.labeller) for one in found] == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\nso good,positive\n", "no column prediction_id; found"),
        ("prediction_id,label\np1,great\n", "line 2: no label 'great'; accepted: negative, positive"),
        ("prediction_id,label\n,positive\n", "line 2: no prediction_id"),
        ("[{]", "export:1: not JSON"),
        ('{"tasks": []}', "not a list of tasks"),
        ('[{"id": 7, "data": {}}]', "task 7: neither annotations nor prediction_id"),
        (json.dumps(export(choose("positive", "negative"))), "task 7: one choice is needed"),
        (json.dumps([{"prediction_id": "p1", "label": {"choices": ["positive"]}}]), "task 1: one choice is needed"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "export"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_label_file(file, LABELS)
    assert message in str(caught.value)


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["evertune", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PredictionLog:
    write_toy_loop(tmp_path / "loops", num_rows=20)
    monkeypatch.setenv("EVERTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EVERTUNE_LOOPS_DIR", str(tmp_path / "loops"))
    log = PredictionLog(open_database(Settings().database))
    log.append(make_predictions([f"text {row}" for row in range(12)]))
    return log


def test_the_commands_close_the_circle(
    tmp_path: Path, log: PredictionLog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "texts.csv"
    assert run(monkeypatch, "label", "export", "toy", str(file), "--n", "5", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"loop": "toy", "exported": 5, "waiting": 12, "file": str(file)}
    rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
    answered = log.read_window("toy", max_rows=20).set_index("prediction_id")["label"]
    told = [f"{row['prediction_id']},{answered[row['prediction_id']]}" for row in rows]
    file.write_text("\n".join(["prediction_id,label", *told, "gone,positive"]), encoding="utf-8")
    assert run(monkeypatch, "label", "import", "toy", str(file), "--by", "ana", "--json") == 0
    counts = json.loads(capsys.readouterr().out)
    assert (counts["labels"], counts["agreed"], counts["unknown"]) == (6, 5, 1)
    assert log.count_labels("toy") == 5
    assert run(monkeypatch, "label", "sources", "toy") == 0
    assert "reviewer         5 labels  labelling/ana: labels for the loop" in capsys.readouterr().out


def test_sources_that_are_held_back_come_first(
    log: PredictionLog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answered = log.read_window("toy", max_rows=20).set_index("prediction_id")["label"]
    for known, label in answered.items():
        wrong = "negative" if label == "positive" else "positive"
        log.record_feedback(str(known), wrong, "eve", datetime.now(UTC), "key")
    assert run(monkeypatch, "label", "sources", "toy", "--json") == 0
    assert {one["standing"] for one in json.loads(capsys.readouterr().out)["sources"]} == {"new"}  # nobody looked yet
    file = Path(Settings().root) / "reviews.csv"
    file.write_text("\n".join(["prediction_id,label", *(f"{known},{label}" for known, label in answered.items())]))
    assert run(monkeypatch, "label", "import", "toy", str(file), "--by", "ana") == 0
    capsys.readouterr()
    assert run(monkeypatch, "label", "sources", "toy") == 0
    assert capsys.readouterr().out.startswith("held back ")
