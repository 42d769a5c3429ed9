"""What the routes of jobs give, as the OpenAPI page shows it."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class JobInfo(BaseModel):
    """A file of texts that is answered in the background."""

    job_id: str
    loop: str
    status: Literal["queued", "running", "done", "failed", "cancelled"]
    reason: str | None = Field(description="Why it failed or was cancelled")
    rows: int = Field(description="Rows of the upload")
    valid: int = Field(description="Rows that can be answered; the others have an `error` in the result")
    done: int = Field(description="Rows that have their line in the result")
    created_at: datetime
    ended_at: datetime | None
    removed_at: datetime | None = Field(description="When the result was deleted")

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "job_id": "0198c2a57b1e4f0d9c3a6b8e2d714f05",
                    "loop": "product-sentiment",
                    "status": "running",
                    "reason": None,
                    "rows": 20000,
                    "valid": 19987,
                    "done": 4096,
                    "created_at": "2026-11-24T16:00:00Z",
                    "ended_at": None,
                    "removed_at": None,
                }
            ]
        }
    )


class JobLine(BaseModel):
    """A line of a job's result: the answer to one row of the upload, or why it has none."""

    row: int
    id: str | int | None = None
    prediction_id: str | None = None
    version: str | None = None
    label: str | None = None
    score: float | None = None
    scores: dict[str, float] | None = None
    truncated: bool | None = None
    error: str | None = None
