"""Labels a whole file with the champion."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import flow

from configs.load import find_loop
from configs.settings import Settings
from tasks.scoring import score_file


@flow(name="score", persist_result=True, result_serializer="json")
def score(loop: str, input_path: str, output_path: str | None = None, text_column: str = "text") -> dict[str, Any]:
    """Label every row of a csv, jsonl or parquet file; the result keeps its format and gains columns.

    Args:
        loop: Name of the loop.
        input_path: The file, as a path on the machine that runs the flow.
        output_path: Where the result goes; left empty, beside the input as NAME.scored.csv.
        text_column: The column that holds the text.
    """
    config = find_loop(loop, Settings().loops_dir)
    output = Path(output_path) if output_path else None
    return asdict(score_file(config, Path(input_path), output, text_column))
