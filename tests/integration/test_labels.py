"""Labels in a real database: votes become feedback, undo takes them back, disputes, erasure."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from configs.serving_schema import Labelling
from tasks.core.errors import DataError
from tasks.stores.database import open_database
from tasks.stores.labellers import Labellers
from tasks.stores.labels import Labels
from tasks.stores.prediction_log import LABELLING, SKIPPED, LoggedPrediction, PredictionLog
from tasks.stores.schema import feedback
from tasks.stores.traffic import Traffic, count_texts_by_day

NOW = datetime.now(UTC)
ONE, TWO = Labelling(), Labelling(votes=2, max_votes=3)


class Desk:
    """The stores over one database with five predictions."""

    def __init__(self, folder: Path) -> None:
        self.engine = open_database(f"sqlite:///{folder / 'log.db'}")
        self.log, self.labels = PredictionLog(self.engine), Labels(self.engine)
        self.log.append([make_prediction(number) for number in range(5)])

    def say(self, number: int, who: str, label: str, rules: Labelling = TWO, seconds: int = 0) -> str:
        at = NOW + timedelta(seconds=seconds)
        return self.labels.add("toy", f"p{number}", who, label, at, rules).outcome

    def waiting(self, who: str, rules: Labelling = TWO) -> set[str]:
        return {one.prediction_id for one in self.labels.candidates("toy", who, rules, 100).candidates}

    def gold(self, number: int) -> str | None:
        window = self.log.read_window("toy", max_rows=100).set_index("prediction_id")
        found: str | None = window.loc[f"p{number}", "gold"]
        return found

    def feedback(self) -> list[tuple[str, str, str, str, datetime]]:
        with self.engine.connect() as connection:
            rows = connection.execute(select(feedback)).mappings()
            return [(one["prediction_id"], one["label"], one["labeller"], one["key_id"], one["at"]) for one in rows]


def make_prediction(number: int, loop: str = "toy") -> LoggedPrediction:
    scores = {"neg": 0.2, "pos": 0.8}
    at = NOW - timedelta(minutes=number)
    name = f"p{number}" if loop == "toy" else f"{loop}{number}"
    return LoggedPrediction(
        name, at, loop, "1", "stable", f"text {number}", None, "pos", 0.8, scores, 3, False, 1.0, "k"
    )


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_equal_votes_of_two_people_become_feedback(desk: Desk) -> None:
    assert desk.say(0, "ana", "neg") == "open"
    assert (desk.gold(0), desk.waiting("ana"), "p0" in desk.waiting("ben")) == (None, {"p1", "p2", "p3", "p4"}, True)
    assert desk.say(0, "ben", "neg") == "agreed"
    assert (desk.gold(0), "p0" in desk.waiting("eva")) == ("neg", False)
    assert desk.log.count_labels("toy") == 1
    row = desk.log.labelled_rows("toy").iloc[0]
    assert (row["label"], row["source"]) == ("neg", "feedback")


def test_one_label_is_enough_where_the_rule_says_so(desk: Desk) -> None:
    assert desk.say(0, "ana", "neg", ONE) == "agreed"
    assert desk.gold(0) == "neg"


def test_nobody_votes_twice_on_a_text(desk: Desk) -> None:
    desk.say(0, "ana", "neg")
    assert desk.say(0, "ana", "pos") == "open"  # a second press of the button, or the browser's back
    assert desk.labels.votes("toy", 10) == [("p0", "ana", "neg")]


def test_undo_takes_the_last_label_and_its_feedback_back(desk: Desk) -> None:
    desk.say(1, "ana", "pos", ONE, seconds=1)
    desk.say(0, "ana", "neg", ONE, seconds=2)
    assert desk.labels.undo("toy", "ana", NOW, ONE) == "p0"
    assert (desk.gold(0), desk.gold(1), "p0" in desk.waiting("ana", ONE)) == (None, "pos", True)
    assert desk.labels.last("toy", "ana")[0].prediction_id == "p1"
    assert desk.say(0, "ana", "pos", ONE) == "agreed"  # and may say something else
    assert [desk.labels.undo("toy", "ana", NOW, ONE) for _ in range(3)] == ["p1", "p0", None]
    assert desk.log.count_labels("toy") == 0


def test_undo_leaves_what_others_agree_on(desk: Desk) -> None:
    for who in ("ana", "ben", "eva"):
        desk.say(0, who, "neg", ONE)
    desk.labels.undo("toy", "ana", NOW, ONE)
    assert desk.gold(0) == "neg"


def test_undo_leaves_a_customers_feedback(desk: Desk) -> None:
    desk.log.record_feedback("p0", "pos", "customer", NOW, "key_1")
    assert desk.say(0, "ana", "neg", ONE) == "agreed"
    assert desk.gold(0) == "pos"  # what was said first stays
    desk.labels.undo("toy", "ana", NOW, ONE)
    assert desk.gold(0) == "pos"


@pytest.mark.parametrize("late", ["neg", "pos", SKIPPED])
def test_undo_leaves_a_label_that_somebody_else_made(desk: Desk, late: str) -> None:
    """Two people were shown the same text; what the second one says, and takes back, changes nothing."""
    desk.say(0, "ana", "neg", ONE, seconds=1)
    desk.say(0, "ben", "pos", ONE, seconds=2)
    desk.say(0, "eva", late, ONE, seconds=3)
    before = desk.feedback()
    desk.labels.undo("toy", "eva", NOW + timedelta(seconds=4), ONE)
    assert desk.feedback() == before == [("p0", "neg", "ana", LABELLING, NOW + timedelta(seconds=1))]


def test_undo_leaves_the_time_of_a_label_that_still_holds(desk: Desk) -> None:
    """A label that is dated anew would count as new since the last retrain."""
    for second, who in enumerate(("ana", "ben")):
        desk.say(0, who, "neg", ONE, seconds=second)
    desk.labels.undo("toy", "ana", NOW + timedelta(hours=1), ONE)
    assert desk.feedback() == [("p0", "neg", "ben", LABELLING, NOW)]


def test_undo_leaves_what_a_customer_confirmed(desk: Desk) -> None:
    desk.say(0, "ana", "neg", ONE)
    assert desk.log.record_feedback("p0", "neg", "customer", NOW, "key_1") == "repeated"
    desk.labels.undo("toy", "ana", NOW, ONE)
    assert desk.gold(0) == "neg"


def test_undo_leaves_what_a_customer_said_against_the_votes(desk: Desk) -> None:
    desk.say(0, "ana", "neg", ONE)
    assert desk.log.record_feedback("p0", "pos", "customer", NOW, "key_1") == "conflict"
    desk.labels.undo("toy", "ana", NOW, ONE)
    assert desk.feedback() == [("p0", "pos", "customer", "key_1", NOW)]
    assert desk.log.record_feedback("p0", "pos", "customer", NOW, "key_1") == "repeated"


def test_a_vote_that_says_nothing_is_no_new_label(desk: Desk) -> None:
    desk.log.record_feedback("p0", "pos", "customer", NOW, "key_1")
    desk.say(0, "ana", SKIPPED, seconds=9)
    desk.say(0, "ben", "neg", seconds=9)
    desk.labels.undo("toy", "ben", NOW, TWO)
    assert desk.log.labelled_ids("toy", NOW + timedelta(seconds=1)) == set()
    desk.say(0, "eva", "pos", seconds=9)
    assert desk.log.labelled_ids("toy", NOW + timedelta(seconds=1)) == {"p0"}


def test_equal_texts_are_not_asked_one_after_the_other(desk: Desk) -> None:
    desk.log.append([replace(make_prediction(number), text=f" TEXT  {number - 5}") for number in (5, 6)])
    desk.say(0, "ana", "neg")
    desk.say(1, "ana", SKIPPED)
    assert desk.waiting("ana") == {"p2", "p3", "p4"}  # neither what she said nor what she could not say
    assert {"p0", "p5", "p1", "p6"} <= desk.waiting("ben")
    desk.say(0, "ben", "neg")
    assert not {"p0", "p5"} & desk.waiting("eva")  # a text like it has its label
    desk.labels.undo("toy", "ana", NOW, TWO)
    assert {"p1", "p6"} <= desk.waiting("ana")


def test_what_waits_says_whether_it_is_all(desk: Desk) -> None:
    assert desk.labels.candidates("toy", "ana", TWO, 6).is_all
    assert not desk.labels.candidates("toy", "ana", TWO, 4).is_all


def test_a_skipped_text_is_not_asked_again_and_counts_as_no_vote(desk: Desk) -> None:
    assert desk.say(0, "ana", SKIPPED) == "open"
    assert "p0" not in desk.waiting("ana")
    assert (desk.labels.votes("toy", 10), desk.labels.last("toy", "ana")[0].label) == ([], None)
    desk.labels.undo("toy", "ana", NOW, TWO)
    assert "p0" in desk.waiting("ana")


def test_a_dispute_waits_for_somebody_who_decides(desk: Desk) -> None:
    for who, label in (("ana", "neg"), ("ben", "pos"), ("eva", "unknown")):
        outcome = desk.say(0, who, label)
    assert outcome == "disputed"
    assert "p0" not in desk.waiting("jo")
    (dispute,) = desk.labels.disputes("toy", TWO, 10)
    assert dict(dispute.votes) == {"ana": "neg", "ben": "pos", "eva": "unknown"}
    assert desk.labels.decide("toy", "p0", "operator", "pos", NOW) is True
    assert desk.labels.decide("toy", "p0", "operator", "neg", NOW) is False
    assert (desk.gold(0), desk.labels.disputes("toy", TWO, 10)) == ("pos", [])
    assert len(desk.labels.votes("toy", 10)) == 3  # the last word is no vote: agreement is measured without it
    desk.labels.undo("toy", "ana", NOW, TWO)
    assert desk.gold(0) == "pos"  # and outlives a vote that is taken back
    desk.labels.undo("toy", "operator", NOW, TWO)
    assert desk.gold(0) is None


def test_labels_go_with_their_predictions(desk: Desk) -> None:
    desk.say(0, "ana", "neg", ONE)
    desk.say(1, "ana", "neg")
    assert desk.log.erase(key_id="k") == 5
    assert (desk.labels.votes("toy", 10), desk.labels.count_by_labeller("toy")) == ([], {})
    with pytest.raises(DataError, match="toy made no prediction of this id; it may have been erased"):
        desk.say(0, "ben", "neg")


def test_a_text_of_another_loop_is_unknown(desk: Desk) -> None:
    desk.log.append([make_prediction(7, "other")])
    with pytest.raises(DataError, match="toy made no prediction"):
        desk.labels.add("toy", "other7", "ana", "neg", NOW, ONE)


def test_feedback_says_who_agreed(desk: Desk) -> None:
    desk.say(0, "ben", "neg")
    desk.say(0, "ana", "neg")
    with desk.engine.connect() as connection:
        row = connection.exec_driver_sql("SELECT labeller, key_id FROM feedback").one()
    assert tuple(row) == ("ana, ben", LABELLING)


def test_passes_of_people_who_label(desk: Desk) -> None:
    people = Labellers(desk.engine)
    ana, secret = people.invite("Ana", ["toy"], NOW)
    assert people.find(secret) == ana == people.get(ana.labeller_id)
    assert people.find("lab_guess") is None
    with pytest.raises(DataError, match="'Ana' is or was in use"):
        people.invite("Ana", None, NOW)
    assert [people.revoke(ana.labeller_id, NOW) for _ in range(2)] == [True, False]
    assert (people.find(secret), people.get(ana.labeller_id), len(people.list())) == (None, None, 1)
    stored = (Path(str(desk.engine.url.database)).read_bytes(), secret.encode())
    assert stored[1] not in stored[0]


def test_traffic_by_day_counts_erased_texts_too(desk: Desk) -> None:
    yesterday = NOW - timedelta(days=1)
    counted = dict(count_texts_by_day(desk.engine, "toy", NOW, 3))
    assert (len(counted), sum(counted.values()), list(counted)[-1]) == (3, 5, NOW.date())
    assert yesterday.date() in counted
    traffic = Traffic(desk.engine)
    before = traffic.by_day("toy", 3)
    desk.log.erase(prediction_id="p0")
    assert sum(texts for _, texts in count_texts_by_day(desk.engine, "toy", NOW, 3)) == 5
    assert sum(texts for _, texts in count_texts_by_day(desk.engine, "other", NOW, 3)) == 0
    assert traffic.by_day("toy", 3) is before  # a page that is loaded again and again counts once


def test_votes_at_the_same_moment_make_one_label_of_each_text(desk: Desk) -> None:
    with ThreadPoolExecutor(8) as people:
        said = [people.submit(desk.say, number, who, "neg") for number in range(5) for who in ("ana", "ben", "ana")]
        outcomes = [one.result() for one in said]
    assert [desk.gold(number) for number in range(5)] == ["neg"] * 5
    assert (len(desk.labels.votes("toy", 100)), set(outcomes)) == (10, {"open", "agreed"})
