"""A process that runs trials: `python -m tasks.core.trial_worker`, jobs as JSON lines on standard input.

Each report is a line on standard output and waits for `true` or `false`: go on, or stop. The process ends when its
input does, so none outlives a killed search.
"""

import json
import os
import signal
import sys
from dataclasses import asdict
from typing import IO, Any

from tasks.core.trials import Job, Outcome, Report, TrialFailedError, TrialStoppedError, run_and_name_failure


class _InputEndedError(Exception):
    """Whoever gave the jobs is gone."""


def main() -> None:
    """Run one job after another."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the search tells its trials
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not mix with answers
    try:
        for line in sys.stdin:
            _say(answers, _run(Job.from_record(json.loads(line)), answers))
    except (_InputEndedError, BrokenPipeError):
        os._exit(1)


def _run(job: Job, answers: IO[str]) -> dict[str, Any]:
    def tell(report: Report) -> bool:
        _say(answers, {"report": asdict(report)})
        line = sys.stdin.readline()
        if not line:
            raise _InputEndedError
        return bool(json.loads(line))

    try:
        outcome: Outcome = run_and_name_failure(job, tell)
    except TrialStoppedError:
        return {"stopped": True}
    except TrialFailedError as error:
        return {"failed": str(error)}
    return {"outcome": asdict(outcome)}


def _say(answers: IO[str], message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
