from pathlib import Path

from tasks.stores.training_files import erase_training_copies

KEY = "0123456789abcdef01234567"


def test_copies_of_rows_go_and_weights_stay(tmp_path: Path) -> None:
    copies = ["cache/encoded/a.arrow", "cache/snapshots/x/y/train.parquet", "checkpoints/loop/key/job/train.parquet",
              "checkpoints/loop/tuning-0123456789ab/train.parquet", f"shared/loop/{KEY}/cache/a.arrow",
              f"shared/loop/{KEY}/train.parquet", "shared/loop/tuning-0123456789ab/validation.parquet"]  # fmt: skip
    kept = ["checkpoints/loop/key/trainer/checkpoint-8/model.safetensors", "shared/other/things/train.parquet",
            "snapshots/loop/abc/train.parquet"]  # fmt: skip
    for name in [*copies, *kept]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x", encoding="utf-8")
    erase_training_copies(tmp_path, tmp_path / "shared")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)
