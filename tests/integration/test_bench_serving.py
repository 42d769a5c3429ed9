"""The serving benchmark's own parts: a load that counts right, a limit, ratios that say what they say."""

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.bench.serving import limit
from tests.bench.serving.__main__ import FIGURES, summarise
from tests.bench.serving.contenders import HOST, Contender, bodies, collect, measure, offer, run
from tests.support.serving import OPERATOR
from tests.support.tiny_bundle import write_tiny_bundle
from tests.support.toy_loop import write_toy_loop

TEXTS = ["good", "bad", "nothing", "good and bad"]


@pytest.fixture
def texts_file(tmp_path: Path) -> Path:
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(bodies("text", TEXTS)), encoding="utf-8")
    return file


def test_a_load_counts_what_was_answered_and_what_was_not(tmp_path: Path, texts_file: Path) -> None:
    loops = write_toy_loop(tmp_path / "loops", num_rows=20).parent
    bundle = write_tiny_bundle(tmp_path / "home" / "registry" / "toy" / "1")
    (bundle.parent / "champion").write_text("1", encoding="utf-8")
    command = (sys.executable, "-m", "tests.support.serving", str(tmp_path / "home"), str(loops), "{port}")
    headers = {"Authorization": f"Bearer {OPERATOR}"}
    contender = Contender("ours", command, "/v1/loops/toy/predict", headers=headers)
    with run(contender, tmp_path / "log") as running:
        ids = tmp_path / "ids"
        figures = collect(offer(running, texts_file, 4, 1.0, ids), 1.0)
        assert figures["answered"] == len(set(ids.read_text(encoding="utf-8").split())) > 4
        assert (figures["failed"], figures["statuses"]) == (0, {"200": figures["answered"]})
        assert 0 < figures["p50_ms"] <= figures["p99_ms"]
        usage = httpx.get(f"http://{HOST}:{running.port}/v1/usage", headers=headers, timeout=10.0).json()
        assert sum(row["texts"] for row in usage) == figures["answered"] + 1  # the text that asked whether it is up
        assert measure(running, texts_file, 2, 0.5)["cpu_ms_per_request"] > 0
        more = tmp_path / "more"
        load = offer(running, texts_file, 4, 60.0, more)
        wait_until(lambda: more.exists() and more.stat().st_size > 0)
        running.process.kill()
        running.process.wait(10)
        load.terminate()
        killed = collect(load, 10.0)
        assert killed["broken"] > 0
        assert killed["seconds"] < 50


def wait_until(holds: Callable[[], bool]) -> None:
    deadline, pause = time.monotonic() + 30, threading.Event()
    while not holds():
        assert time.monotonic() < deadline
        pause.wait(0.05)


def test_the_limit_is_that_of_tokenizer_and_engine(
    tmp_path: Path, texts_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    monkeypatch.setattr(sys, "argv", ["limit", str(bundle), str(texts_file), "0.05", "1"])
    limit.main()
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"arrival_texts_per_second", "sorted_texts_per_second"}
    assert min(found.values()) > 100


def test_ratios_are_ours_by_theirs_and_the_best_setting_of_mlflow_is_the_fastest() -> None:
    def row(requests_per_second: float, p99_ms: float) -> dict[str, float]:
        return dict.fromkeys(FIGURES, 0.0) | {"requests_per_second": requests_per_second, "p99_ms": p99_ms}

    found = {
        "evertune": {1: row(100, 10), 8: row(800, 20)},
        "mlflow": {1: row(50, 30), 8: row(50, 200)},
        "mlflow -w 2": {1: row(40, 30), 8: row(100, 100)},
        "litserve": {1: row(25, 30), 8: row(400, 40)},
    }
    ratios = summarise(found)
    assert ratios["times_mlflow_default"] == {"1": 2.0, "8": 16.0}
    assert ratios["times_mlflow_best"] == {"1": 2.0, "8": 8.0}
    assert ratios["times_litserve"] == {"1": 4.0, "8": 2.0}
    assert ratios["times_bentoml"] is None
    assert ratios["p99_ratio_mlflow"] == {"1": 3.0, "8": 10.0}
