"""Says what identifies a training run, and whether training it again could give anything new."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.schema import Loop, Training, Unknown
from tasks.core.approval import Entry
from tasks.core.champions import NO_CHAMPION, NO_MOVE, SERVICE
from tasks.core.errors import DataError
from tasks.core.staging import find_served

CORE = Path(__file__).parent
HEARINGS = 3  # of a model that the gate refuses for nothing but its latency, which may be the machine's fault
SHAPES_THE_RESULT = (
    "adapters.py",
    "augmentation.py",
    "averaging.py",
    "batches.py",
    "classifier.py",
    "compiling.py",
    "encoding.py",
    "engine_choice.py",
    "engines.py",
    "export.py",
    "few_shot.py",
    "fine_tuning.py",
    "label_noise.py",
    "layers.py",
    "optimizer.py",
    "padding.py",
    "pooling.py",
    "precision.py",
    "predictor.py",
    "quantisation.py",
    "replay.py",
    "shared_weights.py",
    "temperature.py",
    "torch_engine.py",
    "soup.py",
    "trainer.py",
    "unknown.py",
    "windows.py",
)


def code_version(folder: Path = CORE) -> str:
    """Return a hash of the modules that decide what a training run gives."""
    digest = hashlib.sha256()
    for name in SHAPES_THE_RESULT:
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]


def answering_of(loop: Loop) -> dict[str, Any]:
    """Return what the loop says of how a version answers, beyond its weights: it is fixed when the version is made."""
    return loop.serving.model_dump(
        mode="json", include={"engine", "engine_max_macro_f1_loss", "long_texts", "window_overlap", "share_weights"}
    )


def training_key(
    fingerprint: str,
    training: Training,
    code: str,
    start: str | None = None,
    unknown: Unknown | None = None,
    answering: Mapping[str, Any] | None = None,
) -> str:
    """Return the name of what a run would make: the same key gives the same model, and it answers the same way.

    `start` is the version whose weights training goes on from; None: the base model.
    """
    limit = unknown.model_dump(mode="json") if unknown else None
    parts = json.dumps(
        [fingerprint, training.model_dump(mode="json"), code, start, limit, dict(answering or {})], sort_keys=True
    )
    return hashlib.sha256(parts.encode()).hexdigest()[:24]


def recipe_key(training: Training, code: str, unknown: Unknown | None) -> str:
    """Return a hash of how rows become a model, wherever training starts and whichever rows it is given."""
    recipe = training.model_dump(mode="json", exclude={"origin", "replay"})
    limit = unknown.model_dump(mode="json") if unknown else None
    return hashlib.sha256(json.dumps([recipe, code, limit], sort_keys=True).encode()).hexdigest()[:16]


def gate_key(loop: Loop) -> str:
    """Return a hash of all that gate and service ask: what they refused deserves another hearing by others."""
    asked = [part.model_dump(mode="json") for part in (loop.gate, loop.behaviour, *loop.slices)]
    left_out = {"approval", "approval_days"} | (set() if loop.release.stages.names else {"stages"})
    asked.append(loop.release.model_dump(mode="json", exclude=left_out))
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class TrainedVersion:
    """What a registered version's tags say of its origin."""

    version: str
    training_key: str
    gate_key: str
    champion_then: str = NO_CHAMPION  # the version that it was judged against
    has_served: bool = False
    waits: bool = False  # for a person's answer
    is_staged: bool = False  # on its way through shadow and canary
    ended: str = ""  # how it failed to become champion, to be read after "version N, "
    is_only_slow: bool = False  # refused by the gate for nothing but its latency


def list_trained(
    tags: Mapping[str, Mapping[str, str]], entries: Sequence[Entry], waiting: str | None
) -> list[TrainedVersion]:
    """Return what the registry's tags and the audit log say of every version, in the order of the tags.

    A version whose question was withdrawn, because another one came first or the champion changed, has no end: it may
    be trained and judged again.
    """
    served = {entry.to_version for entry in entries if entry.action not in NO_MOVE}
    last = {entry.to_version: entry for entry in entries if entry.action in NO_MOVE}
    staged = find_served(entries).candidate
    trained = []
    for version, of in tags.items():
        entry = last.get(version)
        ended = _describe_end(entry) if entry is not None else ""
        trained.append(
            TrainedVersion(
                version,
                of.get("training_key", ""),
                of.get("gate_key", ""),
                of.get("champion_then", ""),
                has_served=version in served,
                waits=version == waiting,
                is_staged=version == staged,
                ended="which this gate refused" if of.get("gate") == "refuse" else ended,
                is_only_slow=of.get("gate") == "refuse" and of.get("gate_failed") == "latency",
            )
        )
    return trained


def _describe_end(entry: Entry) -> str:
    if entry.action == "refuse":
        return f"which {'the ' if entry.who == SERVICE else ''}{entry.who} refused"
    return "which nobody answered for in time" if entry.action == "lapse" else ""


def find_same_training(key: str, gate: str, trained: Sequence[TrainedVersion], champion: str | None) -> str | None:
    """Return why training this key again gives nothing new, or None when a run is worth its cost.

    The same key gives the same model. It is nothing new if that model is champion, waits for approval, has served
    before (a rollback must not be undone by the next night), or was refused by gate, service or person under this very
    gate and against this very champion. Latency alone refuses for good only after some hearings.
    """
    num_slow = 0
    for known in trained:
        if known.training_key != key:
            continue
        if known.version == champion:
            return "those of the champion"
        if known.waits:
            return f"those of version {known.version}, which waits for approval"
        if known.is_staged:
            return f"those of version {known.version}, which is on its way through the stages of its release"
        if known.has_served:
            return f"those of version {known.version}, which served before and was taken back"
        if not known.ended or known.gate_key != gate or known.champion_then != (champion or NO_CHAMPION):
            continue
        num_slow += known.is_only_slow
        if not known.is_only_slow or num_slow == HEARINGS:
            return f"those of version {known.version}, {known.ended}"
    return None


def check_labels(loop: str, wanted: Sequence[str], champions: Sequence[str]) -> None:
    """Raise DataError when the champion answers with other labels: the two could not be compared."""
    if set(champions) != set(wanted):
        raise DataError(
            f"labels: the champion of '{loop}' answers {list(champions)}, the loop now says {list(wanted)}. "
            "Other labels make another loop: give it a new name."
        )
