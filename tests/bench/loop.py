"""What a stack of the embedded loop costs: time to a first answer, a retrain beyond its training, an unchanged one.

    python -m tests.bench.loop

Starts a stack of its own in a temporary home on free ports and stops it. Prints a table and, last, one JSON line.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from infra.ports import find_free_port

LOOP = "product-sentiment"
COMMAND = [sys.executable, "-m", "infra.cli"]
SCORING_AND_TRAINING = ("train", "evaluate")


def main() -> None:
    """Run the benchmark from the command line."""
    with tempfile.TemporaryDirectory() as home:
        ports = {f"EVERTUNE_{server}_PORT": str(find_free_port()) for server in ("PREFECT", "MLFLOW", "API")}
        environment = {**os.environ, **ports, "EVERTUNE_HOME": home}
        try:
            figures = measure(environment)
        finally:
            subprocess.run([*COMMAND, "down"], env=environment, check=False, timeout=120, stdout=subprocess.DEVNULL)
    for name, value in figures.items():
        print(f"{name:28} {value:8.1f}")
    print(json.dumps(figures))


def measure(environment: dict[str, str]) -> dict[str, float]:
    """Return seconds; overhead is the whole command less training, export and scoring."""
    started = time.monotonic()
    subprocess.run([*COMMAND, "up", "--detach"], env=environment, check=True, timeout=1800, stdout=sys.stderr)
    first_answer = time.monotonic() - started
    changed, changed_wall = retrain(environment, "--set", "training.max_steps=40")
    _, unchanged_wall = retrain(environment)
    started = time.monotonic()
    subprocess.run([*COMMAND, "down"], env=environment, check=True, timeout=120, stdout=sys.stderr)
    down = time.monotonic() - started
    started = time.monotonic()
    subprocess.run([*COMMAND, "up", "--detach"], env=environment, check=True, timeout=300, stdout=sys.stderr)
    second_start = time.monotonic() - started
    seconds = changed["seconds"]
    return {
        "first_answer_seconds": round(first_answer, 1),
        "retrain_overhead_seconds": round(changed_wall - sum(seconds[name] for name in SCORING_AND_TRAINING), 1),
        "unchanged_retrain_seconds": round(unchanged_wall, 1),
        "second_start_seconds": round(second_start, 1),
        "stop_seconds": round(down, 1),
    }


def retrain(environment: dict[str, str], *options: str) -> tuple[dict[str, Any], float]:
    """Return what `evertune retrain --json` prints and its seconds; a refusal (exit code 3) is fine here."""
    started = time.monotonic()
    done = subprocess.run(
        [*COMMAND, "retrain", LOOP, "--json", *options],
        env=environment,
        check=False,
        timeout=1800,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.returncode in (0, 3), done.returncode
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return record, time.monotonic() - started


if __name__ == "__main__":
    main()
