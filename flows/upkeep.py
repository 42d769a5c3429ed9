"""Keeps home from growing for ever, and bills the months that are over."""

from prefect import flow

from configs.load import load_all_loops
from configs.settings import Settings
from tasks.approval import review_question
from tasks.upkeep import delete_checkpoints, delete_reports, purge_predictions, write_statements


@flow(name="upkeep", persist_result=True, result_serializer="json")
def upkeep() -> dict[str, int]:
    """Delete predictions, pages and checkpoints that are past their time, and write the statements of ended months."""
    loops = load_all_loops(Settings().loops_dir)
    return {
        "questions": sum(review_question(loop) for loop in loops),  # first: people wait for them, nobody for the rest
        "predictions": sum(purge_predictions(loop) for loop in loops),
        "reports": sum(delete_reports(loop) for loop in loops),
        "checkpoints": delete_checkpoints(),
        "statements": write_statements(),  # last: one that cannot be written fails the run, and nothing else
    }
