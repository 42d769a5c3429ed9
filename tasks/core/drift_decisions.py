"""What people decided about a loop's drift: silence it for a while, or accept it as what is normal from now on.

A decision never changes what a window is: it is judged and kept as ever. A mute holds back alerts and what drift alone
would start. An acknowledged window becomes the reference of the version that answered it; another version was judged on
test rows of its own, so there the decision has nothing to say.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

import pandas as pd

from tasks.core.verdict import Word

DriftAction = Literal["mute", "unmute", "acknowledge", "restore"]
TEST_ROWS = "test rows"
ACKNOWLEDGED = "acknowledged window"


@dataclass(frozen=True)
class DriftDecision:
    """One decision; `until` belongs to a mute, version, report and window to what was acknowledged."""

    at: datetime
    action: DriftAction
    who: str
    why: str
    until: datetime | None = None
    version: str | None = None
    report_id: str | None = None
    window_from: datetime | None = None
    window_to: datetime | None = None


@dataclass(frozen=True)
class Standing:
    """What holds now: the mute, the acknowledged window, and since when the reference is the one it is."""

    muted: DriftDecision | None = None
    accepted: DriftDecision | None = None
    reference_since: datetime | None = None

    def heed(self, verdict: Word) -> Word:
        """Return the verdict that may start something: none does while drift is muted."""
        return "ok" if self.muted and verdict in ("drift", "watch") else verdict

    @property
    def mute_note(self) -> str:
        """Return who muted drift until when and why, or nothing."""
        if self.muted is None or self.muted.until is None:
            return ""
        return f"drift is muted until {self.muted.until:%Y-%m-%d %H:%M} UTC by {self.muted.who}: {self.muted.why}"


@dataclass(frozen=True)
class Reference:
    """What a window is compared with, and why it is not the acknowledged window where one stands."""

    kind: str  # TEST_ROWS or ACKNOWLEDGED
    n: int
    report_id: str | None = None
    note: str = ""
    snapshot: str | None = None  # fingerprint of the test rows' snapshot


def stand(decisions: Sequence[DriftDecision], *, version: str, now: datetime) -> Standing:
    """Return what the decisions of a loop, oldest first, mean for a version at a time."""
    mutes = [one for one in decisions if one.action in ("mute", "unmute")]
    muted = mutes[-1] if mutes and mutes[-1].action == "mute" else None
    references = [one for one in decisions if one.action in ("acknowledge", "restore") and one.version == version]
    last = references[-1] if references else None
    return Standing(
        muted=muted if muted and muted.until and now < muted.until else None,
        accepted=last if last and last.action == "acknowledge" else None,
        reference_since=last.at if last else None,
    )


def find_obstacle(record: dict[str, Any] | None, served: str | None) -> str | None:
    """Say why the window of a report record cannot become the reference, or None."""
    if record is None:
        return "no such report"
    if record["version"] != served:
        return f"version {record['version']} answered this window, and version {served or 'none'} serves"
    if not record["tests"]:
        return f"this window was never judged: {record['reason']}"
    if record["verdict"] not in ("drift", "watch"):
        return f"its verdict is '{record['verdict']}': there is no drift to acknowledge"
    return None


def choose_reference(
    judged: pd.DataFrame,
    accepted: pd.DataFrame | None,
    decision: DriftDecision | None,
    min_rows: int,
    snapshot: str | None = None,
) -> tuple[pd.DataFrame, Reference]:
    """Return the rows that a window is compared with, and what they are.

    Rows of an acknowledged window that were erased or are past keeping are gone; with too few left, the test rows
    stand in again.
    """
    if accepted is None or decision is None:
        return judged, Reference(TEST_ROWS, len(judged), snapshot=snapshot)
    if len(accepted) < min_rows:
        note = f"the acknowledged window {decision.report_id} has {len(accepted)} texts left, {min_rows} needed"
        return judged, Reference(TEST_ROWS, len(judged), note=note, snapshot=snapshot)
    return accepted, Reference(ACKNOWLEDGED, len(accepted), decision.report_id)


def record_standing(standing: Standing | None, compared_with: Reference | None) -> dict[str, Any]:
    """Return the keys `muted` and `reference` of a report record."""
    muted = standing.muted if standing else None
    told = {"until": muted.until.isoformat(), "who": muted.who, "why": muted.why} if muted and muted.until else None
    return {"muted": told, "reference": asdict(compared_with) if compared_with else None}
