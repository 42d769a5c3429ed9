"""A complete loop that trains in seconds: a csv of made-up reviews and the tiny encoder."""

from pathlib import Path
from typing import Any

import yaml

from tests.support.tiny_base import make_rows, write_tiny_base


def write_toy_loop(folder: Path, num_rows: int = 420, **changes: Any) -> Path:
    """Write `toy.yaml`, its csv and its base model; `changes` replace whole sections. Returns the YAML's path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tiny_base(folder / "tiny-base")
    make_rows(num_rows).to_csv(folder / "reviews.csv", index=False)
    loop: dict[str, Any] = {
        "name": "toy",
        "description": "Made-up reviews.",
        "labels": ["negative", "positive"],
        "data": {
            "sources": [
                {
                    "name": "reviews",
                    "kind": "csv",
                    "path": "reviews.csv",
                    "columns": {"row_id": "row_id", "group": "group", "rating": "rating"},
                }
            ],
            "splits": {"key": "toy-splits", "validation": 0.15, "test": 0.25},
            "expectations": {
                "rows": [
                    {
                        "type": "expect_column_values_to_be_between",
                        "kwargs": {"column": "n_chars", "min_value": 1, "max_value": 500},
                        "reason": "text is empty or longer than 500 characters",
                    },
                    {
                        "type": "expect_column_values_to_be_in_set",
                        "kwargs": {"column": "label", "value_set": ["negative", "positive"]},
                        "reason": "label is neither negative nor positive",
                    },
                ]
            },
        },
        "training": {
            "base_model": str(folder / "tiny-base"),
            "epochs": 10,
            "early_stopping_patience": None,
            "learning_rate": 3e-3,
            "head_learning_rate": 1e-2,
            "precision": "fp32",
        },
        "gate": {"min_macro_f1": 0.8, "min_test_rows": 30, "max_accuracy_loss": 0.05},
        "serving": {"engine": "onnx-fp32"},  # to measure the others takes longer than to train this net
        "monitoring": {
            "schedule": {"cron": "0 0 1 1 *"},
            "window": {"max_rows": 200, "min_rows": 30},
            "permutations": 199,
            "max_tested_rows": 200,
            "k": 1,
            "n": 1,
        },
        "retraining": {"min_new_labels": 20},
        **changes,
    }
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(loop, sort_keys=False), encoding="utf-8")
    return path
