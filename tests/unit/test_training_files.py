from pathlib import Path

from tasks.stores.training_files import erase_training_copies


def test_copies_of_rows_go_and_weights_stay(tmp_path: Path) -> None:
    copies = ["cache/encoded/a.arrow", "cache/snapshots/x/y/train.parquet", "checkpoints/loop/key/job/train.parquet"]
    kept = ["checkpoints/loop/key/trainer/checkpoint-8/model.safetensors", "snapshots/loop/abc/train.parquet"]
    for name in [*copies, *kept]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x", encoding="utf-8")
    erase_training_copies(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)
