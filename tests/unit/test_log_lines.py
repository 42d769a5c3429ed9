import logging

import pytest

from infra.log_lines import LineHandler, format_log


@pytest.mark.parametrize(
    ("level", "message", "line"),
    [
        (logging.INFO, "step 20 of 60, loss 0.41, 12 s left", "step 20 of 60, loss 0.41, 12 s left"),
        (logging.WARNING, "7 rows were rejected", "WARNING  7 rows were rejected"),
        (logging.ERROR, "no\nTraceback (most recent call last):\n  File x", "ERROR  no"),
        (logging.INFO, "Worker 'ProcessWorker 1' submitting flow run '2'", None),
        (logging.INFO, "Flow run 'shy-fox' submitted to infrastructure", None),
        (logging.ERROR, "Encountered exception during execution: DataError('x')\nTraceback", None),
    ],
)
def test_line(level: int, message: str, line: str | None) -> None:
    assert format_log(level, message) == line


def test_records_of_this_process_come_without_traceback() -> None:
    lines: list[str] = []
    logger = logging.Logger("scratch")
    logger.addHandler(LineHandler(lines.append))
    try:
        raise ValueError("boom")
    except ValueError:
        logger.exception("it broke")
    assert lines == ["ERROR  it broke"]
