"""A small typed client of the prediction service.

    with Evertune("http://127.0.0.1:8000", key) as service:
        for answer in service.predict("product-sentiment", ["It broke after a week."]):
            print(answer.label, answer.score)

When the service says "later" (503, or 429 for too many requests) the client asks again when it may, a few times:
nothing was answered, logged or billed then. An answer that got lost on its way is not asked for again.
"""

import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, TypeAdapter

from infra.serving.bodies import (
    FeedbackItem,
    FeedbackItemStatus,
    LoopInfo,
    PredictAnswer,
    PredictedText,
    UsageRow,
)
from infra.serving.job_bodies import JobInfo, JobLine

MEDIA_TYPES = {".jsonl": "application/x-ndjson", ".ndjson": "application/x-ndjson", ".csv": "text/csv"}
LATER = (429, 503)
MAX_WAIT_SECONDS = 30.0  # longer than this nobody waits without having been asked
OVER = ("done", "failed", "cancelled")
Model = TypeVar("Model", bound=BaseModel)
Kind = TypeVar("Kind")


class ServiceProblem(Exception):
    """What the service said instead of an answer; status 0: it could not be reached."""

    def __init__(self, status: int, code: str, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_seconds = retry_after_seconds

    @property
    def is_temporary(self) -> bool:
        """Say whether the same request may be answered soon."""
        waits = self.retry_after_seconds is not None and self.retry_after_seconds <= MAX_WAIT_SECONDS
        return self.status in LATER and waits


class Evertune:
    """Calls one service with one key. Thread-safe; to be closed, or used as a context."""

    def __init__(self, url: str, key: str, timeout_seconds: float = 30.0, tries: int = 5) -> None:
        self._tries = tries
        self._max_texts: dict[str, int] = {}
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(timeout_seconds, connect=5.0),
        )

    def __enter__(self) -> "Evertune":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def predict(
        self, loop: str, texts: Sequence[str], groups: Sequence[str | None] | None = None
    ) -> list[PredictedText]:
        """Return one answer per text, in order; more texts than one request may hold go in several requests.

        Raises ServiceProblem; of several requests those before it were answered, and count.
        """
        of = groups if groups is not None else [None] * len(texts)
        inputs = [{"text": text, "group": group} for text, group in zip(texts, of, strict=True)]
        size = self._max_texts_of(loop)
        answers: list[PredictedText] = []
        for start in range(0, len(inputs), size):
            body = {"inputs": inputs[start : start + size]}
            answers += self._ask(PredictAnswer, "POST", _path(loop, "predict"), json=body).predictions
        return answers

    def give_feedback(self, loop: str, items: Sequence[FeedbackItem]) -> list[FeedbackItemStatus]:
        """Say what the true labels of earlier predictions are; return what became of each item, in order."""
        body = {"items": [item.model_dump(exclude_none=True) for item in items]}
        answer = self._request("POST", _path(loop, "feedback"), json=body).json()
        return TypeAdapter(list[FeedbackItemStatus]).validate_python(answer["items"])

    def list_loops(self) -> list[LoopInfo]:
        """Return the loops that this key may use."""
        return self._ask_list(LoopInfo, "/v1/loops")

    def read_loop(self, loop: str) -> LoopInfo:
        """Return what a loop answers, and with which version since when."""
        return self._ask(LoopInfo, "GET", _path(loop))

    def read_usage(self, since: date | None = None, until: date | None = None) -> list[UsageRow]:
        """Return what this key used per loop and UTC day."""
        wanted = {"since": since, "until": until}
        return self._ask_list(UsageRow, "/v1/usage", {name: str(day) for name, day in wanted.items() if day})

    def start_job(
        self, loop: str, file: Path, text_column: str = "text", idempotency_key: str | None = None
    ) -> JobInfo:
        """Upload a csv or jsonl file to be answered in the background.

        With a key of your own the upload may be repeated: it is one job, however often it arrives.
        """
        headers = {"Content-Type": MEDIA_TYPES[file.suffix.lower()]}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        with file.open("rb") as content:
            path, query = _path(loop, "jobs"), {"text_column": text_column}
            return self._ask(JobInfo, "POST", path, content=content, headers=headers, params=query)

    def read_job(self, loop: str, job_id: str) -> JobInfo:
        """Return how far a job got."""
        return self._ask(JobInfo, "GET", _path(loop, "jobs", job_id))

    def list_jobs(self, loop: str) -> list[JobInfo]:
        """Return this key's jobs with a loop, newest first."""
        return self._ask_list(JobInfo, _path(loop, "jobs"))

    def cancel_job(self, loop: str, job_id: str) -> JobInfo:
        """Stop a job; what was answered until then stays, and counts."""
        return self._ask(JobInfo, "POST", _path(loop, "jobs", job_id, "cancel"))

    def delete_job(self, loop: str, job_id: str) -> JobInfo:
        """Delete the result of a job that is over."""
        return self._ask(JobInfo, "DELETE", _path(loop, "jobs", job_id))

    def wait_for_job(self, loop: str, job_id: str, timeout_seconds: float, poll_seconds: float = 1.0) -> JobInfo:
        """Return a job once it is over; raises TimeoutError, and the job goes on."""
        end = time.monotonic() + timeout_seconds
        while (job := self.read_job(loop, job_id)).status not in OVER:
            if time.monotonic() > end:
                raise TimeoutError(f"job {job_id}: {job.done} of {job.rows} rows after {timeout_seconds:g} s")
            time.sleep(poll_seconds)
        return job

    def read_result(self, loop: str, job_id: str) -> Iterator[JobLine]:
        """Yield the answers of a job that is over, row by row, without holding them all."""
        with self._http.stream("GET", _path(loop, "jobs", job_id, "result")) as response:
            if not response.is_success:
                response.read()
                raise _problem(response)
            for line in response.iter_lines():
                yield JobLine.model_validate_json(line)

    def _max_texts_of(self, loop: str) -> int:
        if loop not in self._max_texts:
            self._max_texts[loop] = self.read_loop(loop).limits.max_texts
        return self._max_texts[loop]

    def _ask(self, model: type[Model], method: str, path: str, **request: Any) -> Model:
        return model.model_validate_json(self._request(method, path, **request).content)

    def _ask_list(self, kind: type[Kind], path: str, query: dict[str, str] | None = None) -> list[Kind]:
        return TypeAdapter(list[kind]).validate_json(self._request("GET", path, params=query).content)  # type: ignore[valid-type]

    def _request(self, method: str, path: str, **request: Any) -> httpx.Response:
        for trial in range(1, self._tries + 1):
            try:
                response = self._http.request(method, path, **request)
            except httpx.TransportError as error:
                raise ServiceProblem(0, "unreachable", f"{self._http.base_url}: {type(error).__name__}") from error
            if response.is_success:
                return response
            problem = _problem(response)
            can_repeat = not hasattr(request.get("content"), "read")
            if trial == self._tries or not problem.is_temporary or not can_repeat:
                raise problem
            time.sleep(problem.retry_after_seconds or 0.0)
        raise AssertionError("the last trial returns or raises")


def _path(*parts: str) -> str:
    return "/v1/loops/" + "/".join(quote(part, safe="") for part in parts)


def _problem(response: httpx.Response) -> ServiceProblem:
    after = response.headers.get("retry-after", "")
    seconds = float(after) if after.isdigit() else None
    try:
        error = response.json()["error"]
        code, message = str(error["code"]), str(error["message"])
    except (ValueError, KeyError, TypeError):  # a proxy in between speaks for itself
        code, message = "error", response.text[:300]
    return ServiceProblem(response.status_code, code, message, seconds)
