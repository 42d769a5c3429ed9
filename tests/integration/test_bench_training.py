"""`make bench-training` in small: a tiny encoder, made-up corpora, the same code; its figures mean nothing."""

import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import f1_score

from configs.load import load_loop
from tasks.core.metrics import accuracy
from tasks.core.retrain_plan import code_version
from tests.bench.training import __main__ as bench
from tests.bench.training import device, genres, intents, recipe, units
from tests.bench.training.problems import preset_training, problem_of_frames, problem_of_loop
from tests.bench.training.statistics import count_answers, estimate, estimate_difference, weighted_f1
from tests.bench.training.units import Bench, Ledger
from tests.support.tiny_base import make_rows
from tests.support.toy_loop import write_toy_loop

LOOP = Path("configs/loops/product-sentiment.yaml")
RATINGS = {"negative": -2.0, "positive": 2.0}


def write_archive(folder: Path) -> str:
    """Write a source archive with both files of every genre where the product keeps fetched ones; return its sha256."""
    inner, outer = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        for number, name in enumerate(genres.FILES.values()):
            rows = make_rows(90, seed=number)
            ids = [f"{row // 3}_{row % 3}" for row in range(len(rows))]
            means = rows["label"].map(RATINGS).where(np.arange(len(rows)) % 5 > 0, 0.0)
            truth = [f"{one}\t{mean}\t{text}" for one, mean, text in zip(ids, means, rows["text"], strict=True)]
            raters = [f"{one}\t{mean}\t0.5\t[{mean:.0f}, 1]" for one, mean in zip(ids, means, strict=True)]
            for kind, lines in (("GroundTruth", truth), ("anonDataRatings", raters)):
                add(archive, f"hutto_ICWSM_2014/{name}_{kind}.txt", "\n".join(lines).encode())
    with tarfile.open(fileobj=outer, mode="w:gz") as archive:
        add(archive, "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz", inner.getvalue())
    digest = hashlib.sha256(outer.getvalue()).hexdigest()
    (folder / "corpora").mkdir(parents=True)
    (folder / "corpora" / f"{digest[:16]}-made.tar.gz").write_bytes(outer.getvalue())
    return digest


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home with the archive, a loop over it, and the folder `data` with the public files' stand-ins."""
    home = tmp_path_factory.mktemp("bench")
    toy = yaml.safe_load(write_toy_loop(home / "toy").read_text(encoding="utf-8"))
    document = yaml.safe_load(LOOP.read_text(encoding="utf-8"))
    document["data"]["sources"][0]["sha256"] = write_archive(home)
    document["training"] = {"base_model": toy["training"]["base_model"], "max_tokens": 32}
    (home / "loop.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    (home / "data").mkdir()
    make_rows(40, seed=5)[["text", "label"]].to_csv(home / "data" / "hwu64_10shot_train.csv", index=False)
    splits = {"train": 60, "validation": 20, "test": 30}
    rows = [make_rows(count, seed=7 + count).assign(split=split) for split, count in splits.items()]
    pd.concat(rows)[["text", "label", "split"]].to_csv(home / "data" / "hwu64.csv", index=False)
    return home


def run(capsys: pytest.CaptureFixture[str], world: Path, *arguments: str) -> tuple[str, dict[str, Any]]:
    common = ["--seeds", "1", "--threads", "1", "--loop", str(world / "loop.yaml"), "--limit-rows", "60"]
    bench.main([*common, *arguments])
    *table, line = capsys.readouterr().out.splitlines()
    return "\n".join(table), json.loads(line)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, world: Path) -> None:
    """One preset, one problem, two genres: the rest would run the same lines again."""
    monkeypatch.setenv("EVERTUNE_HOME", str(world))
    monkeypatch.setattr(recipe, "PRESETS", ("balanced",))
    monkeypatch.setattr(intents, "CANDIDATES", {"hwu64_10shot": ("balanced",)})
    monkeypatch.setattr(intents, "PROBLEMS", {"hwu64_10shot": intents.hwu64_10shot})
    monkeypatch.setattr(genres, "FILES", {name: genres.FILES[name] for name in ("products", "tweets")})


def test_every_part_prints_a_table_and_the_last_line(capsys: pytest.CaptureFixture[str], world: Path) -> None:
    resume = world / "units.jsonl"
    table, found = run(capsys, world, "--data", str(world / "data"), "--resume", str(resume))
    for words in ("recipe    0.", "balanced  0.", "VADER", "tweets: ", "hwu64_10shot: 2 classes"):
        assert words in table
    for name in ("recipe_accuracy", "balanced_accuracy", "hwu64_10shot"):
        mean, low, high, n = found[name]
        assert 0 <= low <= mean <= high <= 1
        assert n > 0
    assert found["best_accuracy"] is None  # not measured here
    assert found["hwu64_full"] is None
    assert found["times_sooner"] is None or found["times_sooner"] > 0  # two tiny models, and one mark
    assert set(found["weighted_f1"]) == {"products", "tweets"}
    human = found["genres"]["genres"]["products"]["weighted_f1"]["human"]
    assert 0.5 < human[0] < 1  # the first of both raters is always right, the other one at times
    kept = resume.read_text(encoding="utf-8").splitlines()
    assert len(kept) == 2 + 3 + 1
    _, again = run(capsys, world, "--parts", "recipe", "--resume", str(resume))
    assert again["recipe"] == found["recipe"]
    assert resume.read_text(encoding="utf-8").splitlines() == kept  # nothing was trained again


def test_a_variant_of_the_device_part_is_measured_on_whatever_device_there_is(world: Path) -> None:
    small = Bench(loop_file=world / "loop.yaml", seeds=(13,), threads=1, ledger=Ledger(None))
    problem = problem_of_loop(load_loop(small.loop_file), world, small).limited(24)
    training = preset_training(small, "balanced", 13).model_copy(update={"max_steps": 4, "batch_size": 8})
    record = device.measure_variant(problem, training, small)
    assert record["training_texts_per_second"] > 0
    assert record["inference_texts_per_second"] > 0
    width, layers, tokens = 32, 2, 8  # of the tiny encoder and its texts, [CLS] and [SEP] included
    weights = layers * (4 * width**2 + 2 * width * 64)  # biases, norms and the unused pooler come on top
    assert device.flops_per_text(problem, small) == pytest.approx(2 * weights * tokens, rel=0.3)


def test_parts_that_are_not_run_are_null(capsys: pytest.CaptureFixture[str], world: Path) -> None:
    table, found = run(capsys, world, "--parts", "intents")
    assert "recipe: not measured" in table
    assert "intents: no --data DIR: not measured" in table
    assert found["recipe"] is found["times_sooner"] is found["weighted_f1"] is found["hwu64_10shot"] is None


def test_an_unknown_part_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--parts", "recipes"])
    assert "no part recipes; there are: recipe, genres, intents, device" in capsys.readouterr().err


def test_a_ledger_forgets_a_line_that_a_kill_cut_and_what_had_other_settings(tmp_path: Path) -> None:
    file = tmp_path / "units.jsonl"
    assert Ledger(file).unit("part/seed 1", {"epochs": 3}, lambda: {"answers": [1]}) == {"answers": [1]}
    with file.open("a", encoding="utf-8") as lines:
        lines.write('{"key": "part/seed 2 ')
    ledger = Ledger(file)
    assert ledger.unit("part/seed 1", {"epochs": 3}, lambda: {"answers": [2]}) == {"answers": [1]}
    assert ledger.unit("part/seed 1", {"epochs": 4}, lambda: {"answers": [3]}) == {"answers": [3]}
    assert len(file.read_text(encoding="utf-8").splitlines()) == 2


def test_who_misses_the_mark_is_never_sooner_for_it() -> None:
    def record(timeline: list[tuple[float, float]], seconds: float) -> dict[str, object]:
        cpu = {"cpu_timeline": [(2 * at, macro) for at, macro in timeline], "cpu_seconds": 2 * seconds}
        return {"timeline": timeline, "seconds": seconds, "validation_macro_f1": timeline[-1][1], **cpu}

    def told(seconds: float, to_mark: float | None, sooner: float | None, missed: int) -> dict[str, object]:
        cpu = {"cpu_seconds": 2 * seconds, "cpu_times_sooner": sooner}
        return {"seconds": seconds, "seconds_to_mark": to_mark, "times_sooner": sooner, "missed": missed, **cpu}

    example = record([(10.0, 0.5), (20.0, 0.8), (40.0, 0.7)], 40.0)
    ours = record([(2.0, 0.6), (4.0, 0.75)], 5.0)
    misses = record([(2.0, 0.6)], 5.0)
    slow = record([(10.0, 0.75)], 11.0)
    times = recipe.compare_times({"recipe": [example] * 3, "ours": [ours, misses, slow]})
    assert times["recipe"] == told(40.0, 20.0, 1.0, 0)
    assert times["ours"] == told(5.0, 10.0, 2.0, 1)
    half = recipe.compare_times({"recipe": [example] * 2, "ours": [ours, misses]})["ours"]
    assert half == told(5.0, None, None, 1)


def test_the_example_evaluates_as_often_as_the_presets(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "PRESETS", ())
    small = Bench(loop_file=world / "loop.yaml", seeds=(13,), threads=1, ledger=Ledger(None), limit_rows=48)
    assert preset_training(small, "balanced", 13).evaluations_per_epoch == 3
    assert len(recipe.train_recipe(small, 13)["recipe"]["timeline"]) == 9  # in three epochs


def test_a_unit_is_done_again_when_its_rows_or_the_loop_file_changed(world: Path, tmp_path: Path) -> None:
    loop_file = tmp_path / "loop.yaml"
    loop_file.write_text((world / "loop.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    small = Bench(loop_file=loop_file, seeds=(13,), threads=1, ledger=Ledger(None))
    before = small.settings()
    assert code_version() in before["versions"]
    loop_file.write_text(loop_file.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    units._versions.cache_clear()  # as in a new process
    assert small.settings() != before
    rows = [make_rows(count, seed=count) for count in (20, 12, 12)]
    problem = problem_of_frames("made", *rows)
    relabelled = problem.train.assign(label=problem.train["label"].to_numpy()[::-1])
    assert replace(problem, train=problem.train.copy()).fingerprint == problem.fingerprint
    assert replace(problem, train=relabelled).fingerprint != problem.fingerprint


def test_the_first_seed_of_every_part_comes_first(capsys: pytest.CaptureFixture[str], world: Path) -> None:
    resume = world / "order.jsonl"
    arguments = ["--parts", "recipe,genres", "--seeds", "2", "--genre-seeds", "1", "--limit-rows", "30"]
    _, found = run(capsys, world, *arguments, "--resume", str(resume))
    names = [json.loads(line)["key"].partition(" ")[0] for line in resume.read_text(encoding="utf-8").splitlines()]
    assert names == ["recipe/recipe/seed", "recipe/balanced/seed"] + ["genres/" + name + "/seed" for name in (
        "products", "tweets", "genres")] + ["recipe/balanced/seed", "recipe/recipe/seed"]  # fmt: skip
    assert found["seeds"] == {"recipe": 2, "genres": 1, "intents": None, "device": None}


def test_estimates_agree_with_scikit_learn_and_differences_are_paired() -> None:
    random = np.random.default_rng(0)
    gold = random.integers(0, 3, 300)
    answers = [np.where(random.random(300) < right, gold, random.integers(0, 3, 300)).tolist() for right in (0.6, 0.8)]
    groups = [f"group-{row // 3}" for row in range(300)]
    worse, better = (count_answers(gold, [one], groups, 3) for one in answers)
    wanted = f1_score(gold, answers[1], average="weighted")
    assert estimate(better, weighted_f1, 300).mean == pytest.approx(wanted)
    gain = estimate_difference(better, worse, accuracy, 300)
    assert gain.low > 0
    assert estimate_difference(better, better, accuracy, 300).as_list() == [0.0, 0.0, 0.0, 300]
    both = count_answers(gold, answers, groups, 3)
    assert estimate(both, accuracy, 300).mean == pytest.approx(np.mean([np.mean(gold == one) for one in answers]))


def test_published_test_rows_stay_and_no_text_stands_in_two_splits() -> None:
    frames = [
        pd.DataFrame({"text": texts, "label": "a"})
        for texts in (["One", "two", "three"], ["TWO", "four"], ["one ", "one"])
    ]
    problem = problem_of_frames("made", *frames)
    assert [frame["text"].tolist() for frame in (problem.train, problem.validation, problem.test)] == [
        ["three"], ["TWO", "four"], ["one ", "one"]]  # fmt: skip
    assert problem.groups[0] == problem.groups[1]  # copies are one group
