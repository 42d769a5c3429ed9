"""A version that the gate lets through waits here for a person's yes, for days if need be."""

from typing import Any, Literal

from prefect import flow, suspend_flow_run
from prefect.input import RunInput
from pydantic import Field

from configs.load import find_loop
from configs.settings import Settings
from tasks.approval import read_question, settle_question


class Approval(RunInput):
    """The form behind "Resume"."""

    answer: Literal["yes", "no"] = Field(description="yes: the version is released. no: it stays a challenger")
    why: str = Field("", description="The reason, for the audit log")
    who: str = Field("", description="Your name, for the audit log")


@flow(name="approve", persist_result=True, result_serializer="json", flow_run_name="approve {loop} version {version}")
def approve(
    loop: str, version: str | None = None, answer: Literal["yes", "no"] | None = None, why: str = "", who: str = ""
) -> dict[str, Any]:
    """Ask a person whether a version that the gate lets through may serve; release it or let it go.

    Args:
        loop: Name of the loop.
        version: Number of the version; left empty, the one that waits.
        answer: Left empty, this flow run waits for the answer behind its Resume button.
        why: The reason, for the audit log.
        who: Your name, for the audit log.
    """
    config = find_loop(loop, Settings().loops_dir)
    asked = read_question(config, version)
    if answer is None and asked.version is not None:
        form = Approval.with_initial_data(description=asked.table)
        key = f"approval-{asked.version}"  # an answer is to the table that was shown: another version is asked anew
        given = suspend_flow_run(wait_for_input=form, timeout=asked.timeout_seconds, key=key)
        answer, why, who = given.answer, given.why, given.who
    record: dict[str, Any] = settle_question(config, asked, answer, why, who)
    return record
