"""Everything that the service's own OpenAPI allows, and much that it forbids: does any answer break the description?

    python -m tests.bench.serving.fuzz [--max-examples 50] [--seed 1]

A customer's key and the operator's token each ask every operation: the examples, the edges of every field, every wrong
method, content type and credential, then drawn requests that do and do not fit; ids that the service gave come back in
later requests. The same again with made-up loop names. A failure is a 5xx, a status, type, header or body that is not
described, a forbidden request that is accepted, or no answer. Runs a service of its own; the last line is JSON, and the
exit code is 1 when anything was found. The same seed asks a fresh service the same.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import schemathesis
from schemathesis.engine import events, from_schema

from tests.support.serving import OPERATOR, Running, run_service
from tests.support.tiny_bundle import write_tiny_bundle
from tests.support.toy_loop import write_toy_loop

SEED = 1
NDJSON = "application/x-ndjson"
UPLOAD = "POST /v1/loops/{loop}/jobs"
LIMITS = {"max_texts": 8, "max_chars": 200, "max_batch": 4, "jobs": {"max_open": 1000}}


@schemathesis.serializer(NDJSON, "text/csv")
def write_lines(_context: schemathesis.SerializationContext, value: Any) -> bytes:
    """Return the body of an upload: a text as it is, and anything else as a line of JSON."""
    if isinstance(value, bytes):
        return value
    return (value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "surrogatepass")


@dataclass
class Findings:
    """What one caller was answered."""

    caller: str
    cases: Counter[str] = field(default_factory=Counter)  # by phase
    statuses: dict[str, Counter[str]] = field(default_factory=dict)  # by operation
    failures: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)  # of the fuzzer itself: what it could not ask

    def add(self, event: events.EngineEvent) -> None:
        """Note what an event tells."""
        if isinstance(event, events.ScenarioFinished):
            self._add_scenario(event)
        elif isinstance(event, events.NonFatalError):
            self.errors.append(f"{self.caller}: {event.label}: {event.value!r}"[:500])
        elif isinstance(event, events.FatalError):
            self.errors.append(f"{self.caller}: {event.exception!r}"[:500])
        elif isinstance(event, events.EngineFinished) and event.stop_reason.value != "completed":
            self.errors.append(f"{self.caller}: ended early, {event.stop_reason.value}")

    def _add_scenario(self, event: events.ScenarioFinished) -> None:
        recorder = event.recorder
        answered = self.statuses.setdefault(recorder.label, Counter())
        for interaction in recorder.interactions.values():
            response = interaction.response
            answered["none" if response is None else str(response.status_code)] += 1
            if response is None:
                self._fail(recorder.label, "no answer", "", f"{interaction.request.method} {interaction.request.uri}")
        self.cases[event.phase.value] += len(recorder.interactions)
        for check in (check for checks in recorder.checks.values() for check in checks if check.failure_info):
            assert check.failure_info is not None
            failure, request = check.failure_info.failure, check.failure_info.code_sample
            self._fail(recorder.label, check.name, f"{failure.title}: {failure.message}", request)

    def _fail(self, operation: str, check: str, message: str, request: str) -> None:
        key = (operation, check, message)
        said = {"caller": self.caller, "operation": operation, "check": check, "message": message, "request": request}
        known = self.failures.setdefault(key, said | {"times": 0})
        known["times"] += 1


def fuzz(base_url: str, key: str, operator_token: str, max_examples: int, seed: int = SEED) -> dict[str, Any]:
    """Ask a service as a customer, then as its operator, who may end that customer's key; return what was found.

    `max_examples` is per operation and phase. `untested` names operations that got no answer; `errors`, what could not
    be asked.
    """
    asked = [Findings("key"), Findings("operator")]
    documented: set[str] = set()  # the same for both
    for findings, secret in zip(asked, (key, operator_token), strict=True):
        headers = {"Authorization": f"Bearer {secret}"}
        loop = httpx.get(f"{base_url}/v1/loops", headers=headers, timeout=30.0).raise_for_status().json()[0]
        known = {"path.loop": loop["name"], "query.loop": loop["name"], "path.version": loop["version"]}
        for names in (known, {}):  # the second time with any name
            config = _configure(base_url, headers, names, max_examples, seed)
            schema = schemathesis.openapi.from_url(f"{base_url}/openapi.json", config=config)
            documented = {f"{way.upper()} {path}" for path, ways in schema.raw_schema["paths"].items() for way in ways}
            for event in from_schema(schema).execute():
                findings.add(event)
    return _summarise(asked, documented, seed)


def _configure(
    base_url: str, headers: dict[str, str], names: dict[str, str], max_examples: int, seed: int
) -> schemathesis.Config:
    return schemathesis.Config.from_dict(
        {
            "seed": seed,
            "base-url": base_url,
            "headers": headers,
            "parameters": names,
            "continue-on-failure": True,
            "request-timeout": 30,
            "warnings": False,
            "cache": {"enabled": False},
            "generation": {"max-examples": max_examples, "database": "none", "no-shrink": True},
            "phases": {
                "examples": {"enabled": bool(names)},
                "coverage": {"enabled": bool(names)},
                "stateful": {"enabled": False},
            },
            # how many texts a request may hold, and which labels there are, is said by a loop, not by the description
            "checks": {"positive_data_acceptance": {"enabled": False}},
            # a line that is no row is an answer in the result of a job, not a refusal of the upload
            "operations": [{"include-name": UPLOAD, "checks": {"negative_data_rejection": {"enabled": False}}}],
        }
    )


def _summarise(asked: Sequence[Findings], documented: set[str], seed: int) -> dict[str, Any]:
    answered = {
        findings.caller: {label for label, statuses in findings.statuses.items() if set(statuses) - {"none"}}
        for findings in asked
    }
    return {
        "seed": seed,
        "operations": len(documented),
        "cases": sum(findings.cases.total() for findings in asked),
        "callers": {
            findings.caller: {
                "cases": dict(findings.cases),
                "statuses": {name: dict(sorted(found.items())) for name, found in sorted(findings.statuses.items())},
            }
            for findings in asked
        },
        "failures": [failure for findings in asked for failure in findings.failures.values()],
        "errors": [error for findings in asked for error in findings.errors],
        "untested": sorted(f"{caller}: {one}" for caller, labels in answered.items() for one in documented - labels),
    }


@contextmanager
def own_service(folder: Path) -> Iterator[Running]:
    """Run a service of a small loop in two versions, of which the first serves."""
    loops = write_toy_loop(folder / "loops", num_rows=20, serving=LIMITS).parent
    registry = folder / "home" / "registry" / "toy"
    for version in ("1", "2"):
        write_tiny_bundle(registry / version)
    (registry / "champion").write_text("1", encoding="utf-8")
    with run_service(folder / "home", loops) as running:
        yield running


def main(arguments: Sequence[str] | None = None) -> None:
    """Fuzz a service of its own from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-examples", type=int, default=50, help="drawn per operation and phase")
    parser.add_argument("--seed", type=int, default=SEED)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, own_service(Path(folder)) as running:
        found = fuzz(running.url, running.key, OPERATOR, given.max_examples, given.seed)
    for caller, answered in found["callers"].items():
        for operation, statuses in answered["statuses"].items():
            print(f"{caller:9} {operation:55} " + "  ".join(f"{status} x{n}" for status, n in statuses.items()))
    for failure in found["failures"]:
        print(f"\n{failure['caller']}: {failure['operation']}: {failure['check']}, {failure['times']} times\n"
              f"{failure['message']}\n{failure['request']}")  # fmt: skip
    print("\n" + json.dumps({name: found[name] for name in found if name != "callers"}))
    sys.exit(bool(found["failures"] or found["errors"] or found["untested"]))


if __name__ == "__main__":
    main()
