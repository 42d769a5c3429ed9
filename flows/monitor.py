"""From logged predictions to a verdict on drift, and to a retrain where one helps."""

from typing import Any

from prefect import flow

from configs.load import find_loop
from configs.settings import Settings
from tasks.core.window_record import no_champion_record
from tasks.deciding import decide_retraining
from tasks.monitoring import (
    attach_report,
    check_window,
    fetch_champion,
    start_retrain,
    write_report,
)


@flow(name="monitor", persist_result=True, result_serializer="json")
def monitor(loop: str) -> dict[str, Any]:
    """Compare what the champion answers today with what it was judged on, and act on it.

    Args:
        loop: Name of the loop, a file of the loops folder without .yaml.
    """
    config = find_loop(loop, Settings().loops_dir)
    champion = fetch_champion(config)
    if champion is None:
        return no_champion_record(config.name)
    checked = check_window(config, champion)
    decision = decide_retraining(config, champion, checked)
    wants = decision.action == "retrain"
    start = start_retrain(config.name, checked.report_id, decision.trigger or "drift") if wants else None
    record = write_report(config, checked, decision, start)
    attach_report(champion, record)
    return record
