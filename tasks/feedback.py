"""Which of a loop's feedback is believed: read, judge, and let people look at what is in doubt."""

import logging
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine

from configs.schema import Loop
from tasks.core.feedback_rows import PREFIX, find_test_rows
from tasks.core.feedback_trust import Settled, Statement, Trust, judge_sources, list_doubts, settle
from tasks.core.rows import rows_of_feedback
from tasks.stores.opinions import Opinions
from tasks.stores.prediction_log import PredictionLog

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JudgedFeedback:
    """Each source's standing, and what may be used of each labelled prediction."""

    trust: dict[str, Trust]
    settled: list[Settled]


def judge_feedback(engine: Engine, config: Loop) -> JudgedFeedback:
    """Judge all that was said of a loop's predictions, and put what is in doubt before people on the labelling page."""
    statements, judged = _judge(engine, config)
    rows = rows_of_feedback(PredictionLog(engine).labelled_rows(config.name))
    in_test = [row_id.removeprefix(PREFIX) for row_id in find_test_rows(rows, config.data.splits)]
    Opinions(engine).doubt(config.name, list_doubts(judged.settled, statements, judged.trust, in_test))
    for one in judged.trust.values():
        if one.standing == "held back":
            log.warning("%s: the labels of %s are held back: %s", config.name, one.name, one.reason)
    return judged


def count_usable_labels(engine: Engine, config: Loop, since: datetime | None) -> int:
    """Return how many labels may be learned from that came since a time.

    Those that are held back or contested do not count, nor does `unknown`, which is no label to train on.
    """
    usable = {one.prediction_id for one in _judge(engine, config)[1].settled if one.label in config.labels}
    return len(usable & PredictionLog(engine).labelled_ids(config.name, since))


def _judge(engine: Engine, config: Loop) -> tuple[list[Statement], JudgedFeedback]:
    opinions, rules = Opinions(engine), config.data.feedback
    statements = opinions.statements(config.name, rules.reviewed_keys)
    if not statements:
        return statements, JudgedFeedback({}, [])
    exposures, baseline = opinions.exposures(config.name)
    trust = judge_sources(statements, exposures, baseline, rules, len(config.labels))
    settled = settle(statements, trust, opinions.decided(config.name), config.serving.labelling)
    return statements, JudgedFeedback(trust, settled)
