"""Where the command line's words go: people's lines to standard output, or to standard error beside a JSON object."""

import json
import sys
from typing import Annotated, Any

import typer

DONE, FAILED, USAGE, REFUSED = 0, 1, 2, 3  # exit codes
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, all else on error")]


class Output:
    """The output of one command."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json

    def say(self, line: str) -> None:
        """Print a line for people."""
        print(line, file=sys.stderr if self._as_json else sys.stdout, flush=True)

    def finish(self, record: Any) -> None:
        """Print the JSON object, if one is wanted; the last thing on standard output."""
        if self._as_json:
            print(json.dumps(record, ensure_ascii=False, default=str), flush=True)
