"""Keeps home from growing for ever."""

from prefect import flow

from configs.load import load_all_loops
from configs.settings import Settings
from tasks.approval import review_question
from tasks.upkeep import delete_checkpoints, delete_reports, purge_predictions


@flow(name="upkeep", persist_result=True, result_serializer="json")
def upkeep() -> dict[str, int]:
    """Delete predictions, monitoring pages and checkpoints that are past their time, and end unanswered questions."""
    loops = load_all_loops(Settings().loops_dir)
    return {
        "questions": sum(review_question(loop) for loop in loops),  # first: people wait for them, nobody for the rest
        "predictions": sum(purge_predictions(loop) for loop in loops),
        "reports": sum(delete_reports(loop) for loop in loops),
        "checkpoints": delete_checkpoints(),
    }
