"""The loop closing on real text, watched through the public interfaces only: HTTP, Prefect, MLflow.

Steady traffic, another genre, drift, an alert, labels, a retrain that nobody started by hand, the gate, a release
without a failed request. It ends with a table and `demo.json`, and with exit code 0 only if all of it was seen.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import httpx

from configs.load import find_loop_file, load_loop
from configs.settings import Settings
from infra.demo.corpora import ALERT_VARIABLE, LOOP, Corpora, prepare
from infra.demo.score import LiveAccuracy, format_table, measure
from infra.demo.sink import AlertSink, open_sink
from infra.demo.traffic import Answered, Traffic
from infra.ports import find_free_port
from infra.stack import stop_leftovers
from tasks.core.errors import TransientError

Say = Callable[[str], None]
T = TypeVar("T")
FRESH_TWEETS = 900
STEADY_TEXTS = 300
LABELS_SENT = 1200
MEASURED_AFTER = 500
PHASES = {
    "steady": "product reviews",
    "drifting": "tweets, before the retrain",
    "fresh": "tweets, after the retrain",
    "back": "product reviews, after the retrain",
}


class DemoFailed(RuntimeError):
    """A step of the demo did not happen in time."""


def run_demo(settings: Settings, output: Path, say: Say) -> int:
    """Run the whole story in a home of its own; return 0 only if every step was observed."""
    home = settings.root / "demo"
    stop_leftovers(home, say)
    shutil.rmtree(home, ignore_errors=True)
    template = find_loop_file(LOOP, settings.loops_dir)
    say("preparing texts: product reviews to learn from, product reviews and tweets to come by")
    corpora = prepare(template, home / "loops", settings.root, FRESH_TWEETS)
    with open_sink() as sink:
        environment = _environment(home, sink)
        with _running_stack(environment, say):
            story = Story(Settings.model_validate(_own_settings(environment)), corpora, sink, say)
            try:
                story.tell()
                failure = None
            except (DemoFailed, httpx.HTTPError) as error:
                failure = str(error)
            finally:
                story.close()
    return _conclude(story, failure, output, say)


class Story:
    """The steps in order, each waited for and timed."""

    def __init__(self, settings: Settings, corpora: Corpora, sink: AlertSink, say: Say) -> None:
        self._settings = settings
        self._corpora = corpora
        self._sink = sink
        self._say = say
        self._began = time.monotonic()
        self._labels = load_loop(find_loop_file(LOOP, settings.loops_dir)).labels
        key = (settings.root / "first.key").read_text(encoding="utf-8").strip()
        self.traffic = Traffic(settings.api, LOOP, key, "steady", corpora.steady)
        self.steps: dict[str, float] = {}
        self.first_version = self.last_version = ""

    def tell(self) -> None:
        """Let everything happen; raises DemoFailed naming the step that did not."""
        self.first_version = self._champion() or ""
        self._seen("the first model serves", bool(self.first_version))
        self.traffic.start()
        self._wait("steady traffic is answered", lambda: self.traffic.count("steady") >= STEADY_TEXTS, 240)
        self._wait("monitoring finds no drift", lambda: self._verdict("ok;"), 300)
        self.traffic.switch("drifting", self._corpora.drifting)
        self._seen("another genre arrives", True)
        self._wait("monitoring finds drift", lambda: self._verdict("drift;"), 420)
        self._wait("the alert is delivered", lambda: self._sink.find("drift"), 120)
        self._wait("monitoring asks for labels first", lambda: self._verdict("drift; label first"), 300)
        self._wait("enough tweets to label", lambda: self.traffic.count("drifting") >= LABELS_SENT, 400)
        recorded = self.traffic.give_feedback(self._to_label())
        self._seen(f"{recorded} human labels come in", recorded == LABELS_SENT)
        self._wait("a retrain starts by itself", self._retrain_by_drift, 300)
        self._wait("the challenger passes the gate", self._new_champion, 900)
        self._wait("the service answers with it", self._serves_new_version, 120)
        self.traffic.switch("fresh", self._corpora.fresh)
        self._wait("fresh tweets are answered", lambda: self.traffic.count("fresh") >= MEASURED_AFTER, 300)
        self.traffic.switch("back", self._corpora.steady)
        self._wait("product reviews again", lambda: self.traffic.count("back") >= STEADY_TEXTS, 240)

    def close(self) -> None:
        """Stop the traffic."""
        if self.traffic.is_alive():
            self.traffic.stop()

    def measure(self) -> list[LiveAccuracy]:
        """Return live accuracy per phase."""
        answers = self.traffic.snapshot()
        versions = {"steady": self.first_version, "drifting": self.first_version}
        rows = [measure(answers, phase, versions.get(phase, self.last_version), self._labels) for phase in PHASES]
        return [LiveAccuracy(**asdict(row) | {"phase": PHASES[row.phase]}) for row in rows]

    def minutes(self, start: str, end: str) -> float | None:
        """Return the minutes between two steps."""
        times = [next((at for name, at in self.steps.items() if word in name), None) for word in (start, end)]
        return None if None in times else round((times[1] - times[0]) / 60, 2)  # type: ignore[operator]

    def _wait(self, step: str, claim: Callable[[], T], timeout_seconds: float) -> T:
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            found = claim()
            if found:
                self._seen(step, True)
                return found
            if self.traffic.failures:
                raise DemoFailed(f"a request failed while waiting for '{step}': {self.traffic.failures[0]}")
            time.sleep(1.0)
        raise DemoFailed(f"not seen within {timeout_seconds:.0f} s: {step}")

    def _seen(self, step: str, is_seen: bool) -> None:
        if not is_seen:
            raise DemoFailed(f"not seen: {step}")
        at = time.monotonic() - self._began
        self.steps[step] = round(at, 1)
        self._say(f"{int(at) // 60:2}:{int(at) % 60:02}  {step}")

    def _to_label(self) -> list[Answered]:
        first: dict[str, Answered] = {}
        for answer in self.traffic.snapshot():
            if answer.phase == "drifting":
                first.setdefault(answer.row_id, answer)
        return list(first.values())[:LABELS_SENT]

    def _verdict(self, wanted: str) -> bool:
        """Say whether the newest report on Prefect's pages begins with a verdict."""
        query = {"artifacts": {"key": {"any_": [f"{LOOP}-monitor"]}}}
        found = self._prefect("/artifacts/latest/filter", query)
        return bool(found) and str(found[0]["description"]).startswith(wanted)

    def _retrain_by_drift(self) -> bool:
        query = {"deployments": {"name": {"any_": [LOOP]}}, "flows": {"name": {"any_": ["retrain"]}}}
        return any(run["parameters"].get("started_by") == "drift" for run in self._prefect("/flow_runs/filter", query))

    def _new_champion(self) -> bool:
        self.last_version = self._champion() or ""
        return self.last_version not in ("", self.first_version)

    def _serves_new_version(self) -> bool:
        answers = self.traffic.snapshot()
        return bool(answers) and answers[-1].version == self.last_version

    def _champion(self) -> str | None:
        url = f"{self._settings.mlflow}/api/2.0/mlflow/registered-models/alias"
        response = httpx.get(url, params={"name": LOOP, "alias": "champion"}, timeout=20)
        return str(response.json()["model_version"]["version"]) if response.is_success else None

    def _prefect(self, path: str, query: Mapping[str, Any]) -> list[dict[str, Any]]:
        response = httpx.post(f"{self._settings.prefect_api}{path}", json=dict(query), timeout=20)
        response.raise_for_status()
        found: list[dict[str, Any]] = response.json()
        return found


def _environment(home: Path, sink: AlertSink) -> dict[str, str]:
    """Return the environment of the demo's own stack: its own home, loops, ports and alert channel."""
    ports = {f"EVERTUNE_{server}_PORT": str(find_free_port()) for server in ("PREFECT", "MLFLOW", "API")}
    own = {"EVERTUNE_HOME": str(home), "EVERTUNE_LOOPS_DIR": str(home / "loops"), ALERT_VARIABLE: sink.apprise_url}
    theirs = {
        name: value for name, value in os.environ.items() if not name.startswith("EVERTUNE_")
    }  # never their servers
    return {**theirs, **ports, **own}


def _own_settings(environment: Mapping[str, str]) -> dict[str, str]:
    names = ("HOME", "LOOPS_DIR", "PREFECT_PORT", "MLFLOW_PORT", "API_PORT")
    return {name.lower(): environment[f"EVERTUNE_{name}"] for name in names}


@contextmanager
def _running_stack(environment: dict[str, str], say: Say) -> Iterator[None]:
    """Run `evertune up` beside us until the story is told, and stop it however that ends."""
    command = [sys.executable, "-m", "infra.cli"]
    say("starting a stack of its own and training the first model (about three minutes)")
    try:
        started = subprocess.run([*command, "up", "--detach"], env=environment, check=False, timeout=1200)
        if started.returncode != 0:
            raise TransientError(
                f"the demo's stack did not start (exit code {started.returncode}); see the lines above"
            )
        _tell_where(environment, say)
        yield
    finally:
        subprocess.run([*command, "down"], env=environment, check=False, timeout=120)


def _tell_where(environment: Mapping[str, str], say: Say) -> None:
    say(f"watch it: Prefect http://127.0.0.1:{environment['EVERTUNE_PREFECT_PORT']}  "
        f"MLflow http://127.0.0.1:{environment['EVERTUNE_MLFLOW_PORT']}  "
        f"service http://127.0.0.1:{environment['EVERTUNE_API_PORT']}")  # fmt: skip


def _conclude(story: Story, failure: str | None, output: Path, say: Say) -> int:
    rows = story.measure()
    by_phase = dict(zip(PHASES, rows, strict=True))
    improved = by_phase["fresh"].accuracy > by_phase["drifting"].accuracy
    failed = len(story.traffic.failures)
    observed = failure is None and improved and failed == 0
    result = {
        "observed_everything": observed,
        "failure": failure,
        "accuracy": {phase: asdict(row) if row.n else None for phase, row in by_phase.items()},
        "minutes_drift_to_alert": story.minutes("another genre", "alert"),
        "minutes_drift_to_champion": story.minutes("another genre", "service answers"),
        "minutes_labels_to_champion": story.minutes("labels come in", "service answers"),
        "requests": story.traffic.calls,
        "failed_requests": failed,
        "steps_seconds": story.steps,
    }
    partial = output.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=2), encoding="utf-8")
    partial.replace(output)
    say("")
    for line in format_table(rows):
        say(line)
    say("")
    say(f"from the first tweet: alert after {result['minutes_drift_to_alert']} min, new champion after "
        f"{result['minutes_drift_to_champion']} min; {failed} of {story.traffic.calls} requests failed")  # fmt: skip
    say(f"written: {output}")
    if failure:
        say(f"the demo failed: {failure}")
    elif not improved:
        say("the demo failed: live accuracy on tweets did not rise")
    return 0 if observed else 1
