"""The prediction service beside what a user would pick instead: `make bench-serving`.

    python -m tests.bench.serving --home DIR [--connections 1,8,32,64] [--seconds 10] [--rounds 3]
                                  [--contenders evertune,mlflow,...] [--rivals DIR] [--swaps 50] [--kills 20]

One run on one machine: the same fine-tuned model, the same test texts, one text per request, load from another process.
Keys, limits, metering and the log of our service are on. Every round measures each server once at each number of
connections, the servers in another order each round; figures are medians over rounds. `--home DIR` keeps the trained
versions (two minutes each) for the next time. `--rivals DIR` is a folder with LitServe and BentoML:

    pip install --target DIR litserve bentoml

Prints tables and, last, one JSON line.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.serving.contenders import Contender, bodies, measure, run
from tests.bench.serving.prepare import LOOP, TOKEN, Prepared, prepare, write_bodies
from tests.bench.serving.trials import kill_under_load, swap_under_load, with_key

EVERTUNE = "evertune"
MLFLOW_WORKERS = (1, 2)
VERSION = "our version"  # in MLflow's server: our engine behind its HTTP
WARM_UP_SECONDS = 3.0
SERVER_THREADS = 2
TRIAL_CONNECTIONS = 32
FIGURES = ("requests_per_second", "p50_ms", "p99_ms", "cpu_ms_per_request", "memory_mb", "failed")
Found = dict[str, dict[int, dict[str, float]]]  # by contender and connections


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    given = _parse(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        home = (given.home or Path(temporary)).absolute()
        prepared = prepare(home)
        texts = {kind: write_bodies(prepared, kind, bodies(kind, prepared.texts)) for kind in ("text", "mlflow")}
        contenders = list_contenders(prepared, given.rivals)
        chosen = [one for one in contenders if not given.contenders or one.name in given.contenders.split(",")]
        found, shares = compare(chosen, prepared, texts, given)
        print_table(found)
        print()
        trials = shares | run_trials(contenders[0], prepared, texts["text"], given)
        for name, value in trials.items():
            print(f"{name:26} {json.dumps(value)}")
        print()
        print(json.dumps(summarise(found) | trials))


def list_contenders(prepared: Prepared, rivals: Path | None) -> list[Contender]:
    """Return our service, and what this machine has of the others."""
    python, ours = sys.executable, dict(prepared.environment) | {"EVERTUNE_SERVING_THREADS": str(SERVER_THREADS)}
    found = [
        Contender(EVERTUNE, (python, "-m", "infra.serving"), f"/v1/loops/{LOOP}/predict",
                  ours | {"EVERTUNE_API_PORT": "{port}"}, {"Authorization": f"Bearer {TOKEN}"}),
    ]  # fmt: skip
    path = {**prepared.environment, "PATH": f"{Path(python).parent}:{os.environ['PATH']}"}  # MLflow starts uvicorn
    path |= {"BENCH_CHECKPOINT": str(prepared.checkpoint), "PYTHONPATH": str(Path.cwd())}
    served = [("mlflow", str(prepared.pipeline), workers) for workers in MLFLOW_WORKERS]
    for name, model, workers in [*served, (f"mlflow, {VERSION}", prepared.model_uri, 1)]:
        command = (python, "-m", "mlflow", "models", "serve", "-m", model, "-p", "{port}", "--env-manager", "local")
        options = () if workers == 1 else ("-w", str(workers))
        name = name if workers == 1 else f"{name} -w {workers}"
        found.append(Contender(name, (*command, *options), "/invocations", path, body="mlflow"))
    environment = {**prepared.environment, "BENCH_CHECKPOINT": str(prepared.checkpoint)}
    module = "tests.bench.serving.rivals"
    found.append(Contender("pipeline", (python, "-m", "uvicorn", f"{module}.fastapi_pipeline:app", "--port", "{port}",
                                        "--log-level", "warning"), "/predict", environment))  # fmt: skip
    if rivals is not None:
        environment["PYTHONPATH"] = os.pathsep.join([str(rivals.absolute()), str(Path.cwd())])
        environment |= {"BENTOML_DO_NOT_TRACK": "true", "BENTOML_HOME": str(prepared.home / "bentoml")}
        found.append(Contender("litserve", (python, "-m", f"{module}.litserve_app", "{port}"), "/predict", environment))
        found.append(Contender("bentoml", (python, "-m", "bentoml", "serve", f"{module}.bentoml_service:Sentiment",
                                           "--port", "{port}"), "/predict", environment))  # fmt: skip
    return found


def compare(
    chosen: Sequence[Contender], prepared: Prepared, texts: dict[str, Path], given: Any
) -> tuple[Found, dict[str, float]]:
    """Return medians over rounds of every contender's figures, and of our share of the engine's own limit.

    The limit is measured right after our service in each round: a machine is not equally fast all the time.
    """
    rounds: dict[str, dict[int, list[dict[str, float]]]] = {}
    limits: list[dict[str, float]] = []
    for number in range(given.rounds):
        for contender in [*chosen[number % len(chosen) :], *chosen[: number % len(chosen)]]:
            log = prepared.home / f"bench-{contender.name}.log".replace(" ", "").replace(",", "-")
            with run(contender, log) as running:
                ready = with_key(running, TOKEN)[0] if contender.name == EVERTUNE else running
                file = texts[contender.body]
                measure(ready, file, 8, WARM_UP_SECONDS)
                for connections in given.connections:
                    figures = measure(ready, file, connections, given.seconds)
                    rounds.setdefault(contender.name, {}).setdefault(connections, []).append(figures)
                    print(f"  round {number + 1}: {contender.name}, {connections} connections: "
                          f"{figures['requests_per_second']:.0f}/s", file=sys.stderr, flush=True)  # fmt: skip
            if contender.name == EVERTUNE:
                best = max(measured[-1]["requests_per_second"] for measured in rounds[EVERTUNE].values())
                limits.append(measure_limit(prepared, texts["text"], given.seconds, best))
    found = {
        name: {
            connections: {figure: median(one[figure] for one in measured) for figure in FIGURES}
            for connections, measured in by_connections.items()
        }
        for name, by_connections in rounds.items()
    }
    return found, {name: median(one[name] for one in limits) for name in (limits[0] if limits else ())}


def measure_limit(prepared: Prepared, texts: Path, seconds: float, ours: float) -> dict[str, float]:
    """Return what tokenizer and engine alone answer on the same cores, and our share of it."""
    command = (sys.executable, "-m", "tests.bench.serving.limit", str(prepared.bundle), str(texts))
    out = subprocess.run(
        [*command, str(seconds), str(SERVER_THREADS)],
        env=dict(prepared.environment),
        capture_output=True,
        check=True,
    ).stdout
    limit: dict[str, float] = json.loads(out)
    return limit | {
        "of_engine_limit": ours / limit["arrival_texts_per_second"],
        "of_sorted_limit": ours / limit["sorted_texts_per_second"],
    }


def run_trials(ours: Contender, prepared: Prepared, texts: Path, given: Any) -> dict[str, Any]:
    """Return what swaps and kills cost."""
    result: dict[str, Any] = {}
    log = prepared.home / "bench-evertune.log"
    if given.swaps:
        with run(ours, log) as running:
            keyed, _ = with_key(running, TOKEN)
            result["swap"] = swap_under_load(keyed, prepared, texts, TOKEN, given.swaps, TRIAL_CONNECTIONS)
        result["failed_requests"] = result["swap"]["failed"]
    if given.kills:
        with run(ours, log) as running:
            keyed, key_id = with_key(running, TOKEN)
        result["kill"] = kill_under_load(
            keyed.contender, texts, prepared.home / "evertune.db", key_id, log, given.kills, TRIAL_CONNECTIONS
        )
        result["lost_predictions"] = result["kill"]["lost"]
    return result


def print_table(found: Found) -> None:
    """Print a line per contender and number of connections."""
    print(f"{'':19} {'conn.':>5} {'req/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'CPU ms':>7} {'MB':>6} {'failed':>6}")
    for name, by_connections in found.items():
        for connections, row in by_connections.items():
            print(f"{name:19} {connections:5} {row['requests_per_second']:8.1f} {row['p50_ms']:8.1f} "
                  f"{row['p99_ms']:8.1f} {row['cpu_ms_per_request']:7.2f} {row['memory_mb']:6.0f} "
                  f"{row['failed']:6.0f}")  # fmt: skip


def summarise(found: Found) -> dict[str, Any]:
    """Return how many times the requests per second of each other server ours answers, by connections."""
    ours = found.get(EVERTUNE, {})
    mlflow = [name for name in found if name.startswith("mlflow") and VERSION not in name]

    def times(name: str) -> dict[str, float] | None:
        theirs = found.get(name)
        return None if not theirs or not ours else {
            str(at): row["requests_per_second"] / theirs[at]["requests_per_second"] for at, row in ours.items()
        }  # fmt: skip

    best: dict[str, float] | None = None
    for name in mlflow:
        ratios = times(name)
        best = ratios if best is None or ratios is None else {at: min(best[at], ratios[at]) for at in ratios}
    p99 = (
        {str(at): found["mlflow"][at]["p99_ms"] / row["p99_ms"] for at, row in ours.items()}
        if "mlflow" in found and ours
        else None
    )
    return {
        "times_mlflow_default": times("mlflow"),
        "times_mlflow_best": best,
        "times_mlflow_our_version": times(f"mlflow, {VERSION}"),
        "times_pipeline": times("pipeline"),
        "times_litserve": times("litserve"),
        "times_bentoml": times("bentoml"),
        "p99_ratio_mlflow": p99,
        "servers": found,
    }


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, help="folder that keeps the trained versions; default: a temporary one")
    parser.add_argument("--connections", type=lambda given: [int(one) for one in given.split(",")],
                        default=[1, 8, 32, 64])  # fmt: skip
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contenders", help="names, separated by commas; default: all")
    parser.add_argument("--rivals", type=Path, help="folder with LitServe and BentoML")
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--kills", type=int, default=20)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
