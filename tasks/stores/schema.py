"""The tables of the prediction log, the ledger, keys, labels, releases and jobs."""

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.types import TypeDecorator

metadata = MetaData()


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC datetimes in and out; SQLite, which knows no zones, holds them naive."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return what the database keeps."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"times in the database are aware (got {value!r} without a zone)")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return an aware datetime."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


predictions = Table(
    "predictions",
    metadata,
    Column("prediction_id", String(64), primary_key=True),
    Column("request_id", String(64), nullable=False),  # the prediction id of the call's first text
    Column("at", UtcDateTime, nullable=False),
    Column("loop", String(64), nullable=False),
    Column("version", String(64), nullable=False),
    Column("stage", String(16), nullable=False),
    Column("text", Text, nullable=False),
    Column("group", String(200)),
    Column("label", String(200), nullable=False),
    Column("score", Float, nullable=False),
    Column("scores", JSON, nullable=False),
    Column("n_tokens", Integer, nullable=False),
    Column("truncated", Boolean, nullable=False),
    Column("latency_ms", Float, nullable=False),
    Column("key_id", String(64), nullable=False),
    Index("predictions_by_time", "loop", "at"),
    Index("predictions_by_key", "key_id", "at"),
    Index("predictions_by_group", "group"),
)

# No foreign key: a label whose prediction was erased goes with it, in the same transaction.
feedback = Table(
    "feedback",
    metadata,
    Column("prediction_id", String(64), primary_key=True),
    Column("loop", String(64), nullable=False),
    Column("label", String(200), nullable=False),
    Column("labeller", String(200)),
    Column("at", UtcDateTime, nullable=False),
    Column("key_id", String(64), nullable=False),
    Index("feedback_by_time", "loop", "at"),
)

# What was said of a prediction after its feedback: another label, or the same by somebody else.
further_feedback = Table(
    "further_feedback",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("prediction_id", String(64), nullable=False),
    Column("loop", String(64), nullable=False),
    Column("label", String(200), nullable=False),
    Column("labeller", String(200)),
    Column("at", UtcDateTime, nullable=False),
    Column("key_id", String(64), nullable=False),
    Index("further_feedback_by_prediction", "prediction_id"),
    Index("further_feedback_by_time", "loop", "at"),
)

# Predictions whose label a second person should look at, and why; written anew whenever labels are judged.
doubts = Table(
    "doubts",
    metadata,
    Column("prediction_id", String(64), primary_key=True),
    Column("loop", String(64), nullable=False),
    Column("reason", String(32), nullable=False),
    Index("doubts_by_loop", "loop"),
)

# What erased and purged predictions had counted for, so that usage stays exact without their texts.
past_usage = Table(
    "past_usage",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key_id", String(64), nullable=False),
    Column("loop", String(64), nullable=False),
    Column("day", String(10), nullable=False),
    Column("requests", Integer, nullable=False),
    Column("texts", Integer, nullable=False),
    Index("past_usage_by_key", "key_id", "day"),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("loop", String(64), nullable=False),
    Column("action", String(16), nullable=False),
    Column("who", String(200), nullable=False),
    Column("why", Text, nullable=False),
    Column("from_version", String(64)),
    Column("to_version", String(64)),
    Index("audit_by_time", "loop", "at"),
)

reports = Table(
    "reports",
    metadata,
    Column("report_id", String(64), primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("loop", String(64), nullable=False),
    Column("version", String(64), nullable=False),
    Column("verdict", String(16), nullable=False),
    Column("fired", Boolean, nullable=False),
    Column("record", JSON, nullable=False),
    Index("reports_by_time", "loop", "at"),
)

retrains = Table(
    "retrains",
    metadata,
    Column("flow_run_id", String(64), primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("loop", String(64), nullable=False),
    Column("started_by", String(16), nullable=False),
    Column("status", String(16), nullable=False),
    Column("version", String(64)),
    Column("record", JSON, nullable=False),
    Index("retrains_by_time", "loop", "at"),
)

# Snapshots that went because rows in them were erased: the versions that learnt them know these rows still.
erased_snapshots = Table(
    "erased_snapshots",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("loop", String(64), nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("splits", JSON, nullable=False),  # in which the rows were
    Index("erased_snapshots_by_loop", "loop", "fingerprint"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", String(64), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("secret_sha256", String(64), nullable=False, unique=True),
    Column("loops", JSON),
    Column("created_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime),
)


# What each key is sold by from a time on; the newest row counts. A key without a row has no limits.
key_terms = Table(
    "key_terms",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key_id", String(64), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("plan", String(64)),
    Column("expires_at", UtcDateTime),
    Index("key_terms_by_key", "key_id", "id"),
)

# Secrets that were rotated away and are good for a while yet.
former_secrets = Table(
    "former_secrets",
    metadata,
    Column("secret_sha256", String(64), primary_key=True),
    Column("key_id", String(64), nullable=False),
    Column("good_until", UtcDateTime, nullable=False),
)

# What was billed, as it was billed: a later change of a plan or a price changes nothing here.
statements = Table(
    "statements",
    metadata,
    Column("month", String(7), primary_key=True),
    Column("key_id", String(64), primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("record", JSON, nullable=False),
)


# What people said on the labelling page. A label that was taken back stays, with the time of it.
labels = Table(
    "labels",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("prediction_id", String(64), nullable=False),
    Column("loop", String(64), nullable=False),
    Column("labeller", String(200), nullable=False),
    Column("label", String(200), nullable=False),
    Column("picked", String(16), nullable=False),  # why the text was asked about: audit, unsure; decided: the last word
    Column("at", UtcDateTime, nullable=False),
    Column("undone_at", UtcDateTime),
    Index("labels_by_time", "loop", "at"),
    Index(
        "labels_once",
        "prediction_id",
        "labeller",
        unique=True,
        sqlite_where=text("undone_at IS NULL"),
        postgresql_where=text("undone_at IS NULL"),
    ),
)

# Who may label without being the operator; a pass is shown once, only its SHA-256 is kept.
labellers = Table(
    "labellers",
    metadata,
    Column("labeller_id", String(64), primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("pass_sha256", String(64), nullable=False, unique=True),
    Column("loops", JSON),
    Column("created_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime),
)


# Versions on their way through shadow and canary. One that has not ended has no `ended_at`; a loop has one at most.
releases = Table(
    "releases",
    metadata,
    Column("release_id", String(64), primary_key=True),
    Column("loop", String(64), nullable=False),
    Column("version", String(64), nullable=False),
    Column("champion", String(64), nullable=False),  # that serves meanwhile
    Column("stage", String(16), nullable=False),  # shadow, canary; then stable, refused, withdrawn, lapsed
    Column("who", String(200), nullable=False),
    Column("why", Text, nullable=False),
    Column("action", String(16), nullable=False),  # that the audit log keeps when it is stable: promote, release
    Column("started_at", UtcDateTime, nullable=False),
    Column("entered_at", UtcDateTime, nullable=False),  # its stage
    Column("ended_at", UtcDateTime),
    Column("reason", Text, nullable=False),  # why it waits, or how it ended
    Column("record", JSON, nullable=False),  # what was measured when it was last looked at
    Index("releases_by_time", "loop", "started_at"),
    Index(
        "one_release_at_a_time",
        "loop",
        unique=True,
        sqlite_where=text("ended_at IS NULL"),
        postgresql_where=text("ended_at IS NULL"),
    ),
)

# Every change of a stage, and the alert about it until Prefect has it.
release_steps = Table(
    "release_steps",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("release_id", String(64), nullable=False),
    Column("loop", String(64), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("stage", String(16), nullable=False),
    Column("who", String(200), nullable=False),
    Column("why", Text, nullable=False),
    Column("record", JSON, nullable=False),
    Column("alert", JSON),
    Column("told_at", UtcDateTime),
    Index("release_steps_by_release", "release_id"),
    Index("release_steps_untold", "told_at", "at"),
)

# What the version that did not answer the caller said of the same text; never counted as usage or monitored.
shadow_predictions = Table(
    "shadow_predictions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("prediction_id", String(64), nullable=False),
    Column("release_id", String(64), nullable=False),
    Column("loop", String(64), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("version", String(64), nullable=False),
    Column("stage", String(16), nullable=False),
    Column("label", String(200)),  # none: this version could not answer
    Column("score", Float),
    Column("scores", JSON),
    Column("candidate_ms", Float),  # this text alone, asked of both versions one after the other
    Column("champion_ms", Float),
    Index("shadow_predictions_by_prediction", "prediction_id"),
    Index("shadow_predictions_by_release", "release_id", "id"),
)


# What people decided about drift; never changed, a later row takes back an earlier one.
drift_decisions = Table(
    "drift_decisions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("loop", String(64), nullable=False),
    Column("action", String(16), nullable=False),
    Column("who", String(200), nullable=False),
    Column("why", Text, nullable=False),
    Column("until", UtcDateTime),  # of a mute
    Column("version", String(64)),  # of an acknowledged window, as all that follow
    Column("report_id", String(64)),
    Column("window_from", UtcDateTime),
    Column("window_to", UtcDateTime),
    Index("drift_decisions_by_time", "loop", "at"),
)


# Files of texts that are answered in the background; the texts and answers themselves are in files.
jobs = Table(
    "jobs",
    metadata,
    Column("job_id", String(64), primary_key=True),
    Column("key_id", String(64), nullable=False),
    Column("loop", String(64), nullable=False),
    Column("place", String(64), nullable=False),
    Column("token", String(200)),
    Column("status", String(16), nullable=False),
    Column("reason", Text),
    Column("n_rows", Integer, nullable=False),
    Column("n_valid", Integer, nullable=False),
    Column("n_done", Integer, nullable=False),
    Column("first_row", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("removed_at", UtcDateTime),
    Index("jobs_by_key", "key_id", "loop"),
    Index("jobs_by_status", "place", "status"),
    Index("jobs_once", "key_id", "token", unique=True),  # null tokens are all different
)
