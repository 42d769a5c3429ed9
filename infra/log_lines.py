"""Log lines of a flow run as a person at a terminal wants them: no tracebacks, no orchestration noise."""

import logging
from collections.abc import Callable

NOISE = (
    "Worker '",
    "Process for flow run",
    "Encountered exception during execution",
    "Engine execution exited with unexpected exception",
    "Task run failed with exception",
    "Finished in state ",
    "Starting temporary server",
    "Stopping temporary server",
    "See https://docs.prefect.io/",
)


def format_log(level: int, message: str) -> str | None:
    """Return what to print for a log record, or None for one that only Prefect's own page needs.

    The error that ends a flow run is not among them: the command says it last, in one line.
    """
    text = message.partition("\nTraceback")[0].rstrip()
    if text.startswith(NOISE) or (text.startswith("Flow run '") and text.endswith("submitted to infrastructure")):
        return None
    if level >= logging.ERROR:
        return f"ERROR  {text}"
    return f"WARNING  {text}" if level >= logging.WARNING else text


class LineHandler(logging.Handler):
    """Says each record of this process as one line."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Say the record, without its traceback."""
        line = format_log(record.levelno, record.getMessage())
        if line is not None:
            self._say(line)


def print_lines(say: Callable[[str], None]) -> None:
    """Replace the console handlers of the root logger, once Prefect was imported and has set them."""
    root = logging.getLogger()
    for handler in [*root.handlers]:
        root.removeHandler(handler)
    root.addHandler(LineHandler(say))
