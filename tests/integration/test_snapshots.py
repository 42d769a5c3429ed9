import csv
import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import fsspec
import pandas as pd
import pytest

from configs.schema import Loop
from tasks.core.errors import DataError, TransientError
from tasks.core.rows import RAW_COLUMNS, apply_mends, map_rows, order_rows
from tasks.core.screening import Screened, screen
from tasks.stores.quarantine import Replay, export_quarantine, replay_quarantine
from tasks.stores.snapshots import KEPT_FETCHED, Snapshot, SnapshotStore, _parquet, fingerprint_rows
from tests.support.loops import make_loop

LOOP = make_loop(max_quarantined_share=0.5)
NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
FINGERPRINT = "00112233445566aa"


def raw_rows() -> pd.DataFrame:
    good = [(f"{i:02d}", f"sentence {i}", ("neg", "pos")[i % 2]) for i in range(40)]
    bad = [("x1", 'Odd, "one"\n', "maybe"), ("x2", "same text", "neg"), ("x3", "Same text", "pos"), ("x4", "", "pos")]
    table = pd.DataFrame([*good, *bad], columns=["id", "text", "label"], dtype="str")
    columns = LOOP.data.sources[0].columns.model_copy(update={"row_id": "id"})
    return order_rows(map_rows(table, "shop", columns, None, LOOP.labels))


def screened() -> Screened:
    return screen(raw_rows(), LOOP.data, LOOP.labels)


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SnapshotStore]:
    name = uuid4().hex
    yield SnapshotStore(str(tmp_path / "snapshots") if request.param == "folder" else f"memory://{name}/snapshots")
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()


def write(store: SnapshotStore, fingerprint: str = FINGERPRINT, at: datetime = NOON) -> Snapshot:
    return store.write(LOOP, fingerprint, screened(), "<p>page</p>", at)


def test_what_is_written_is_read_back(store: SnapshotStore) -> None:
    found, snapshot = screened(), write(store)
    assert snapshot.counts == {s: found.count(s) for s in ("train", "validation", "test")} | {"quarantined": 4}
    assert (snapshot.loop, snapshot.fingerprint, snapshot.made_at) == ("tiny-loop", FINGERPRINT, NOON)
    assert store.find("tiny-loop", FINGERPRINT) == snapshot
    test = store.read_split(snapshot, "test")
    expected = found.rows[found.rows["split"] == "test"].reset_index(drop=True)
    pd.testing.assert_frame_equal(test, expected)
    assert str(test["observed_at"].dtype) == "datetime64[us, UTC]"
    pd.testing.assert_frame_equal(store.read_quarantine(snapshot), found.quarantine)
    assert store.read_page("tiny-loop", FINGERPRINT) == "<p>page</p>"


def test_a_split_is_opened_as_a_file_on_this_machine(store: SnapshotStore, tmp_path: Path) -> None:
    snapshot = write(store)
    path = store.open_split(snapshot, "train", tmp_path / "cache")
    pd.testing.assert_frame_equal(pd.read_parquet(path), store.read_split(snapshot, "train"))
    assert store.open_split(snapshot, "train", tmp_path / "cache") == path
    path.write_bytes(b"other")
    if tmp_path / "cache" in path.parents:  # fetched: only the copy is broken, so another one is fetched
        assert store.open_split(snapshot, "train", tmp_path / "cache") == path
        pd.testing.assert_frame_equal(pd.read_parquet(path), store.read_split(snapshot, "train"))
        return
    with pytest.raises(DataError, match=r"train\.parquet was changed after it was written"):
        store.open_split(snapshot, "train", tmp_path / "cache")


def test_fetched_splits_are_few_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, cache = f"memory://{uuid4().hex}", tmp_path / "cache"
    store = SnapshotStore(root)
    for number in range(KEPT_FETCHED + 2):
        path = store.open_split(write(store, f"{number:016x}"), "train", cache)
    assert path.is_file()
    assert len(list(cache.glob("*/*/*"))) == KEPT_FETCHED
    snapshot = write(store)
    memory = fsspec.filesystem("memory")
    memory.pipe_file(f"{root}/tiny-loop/{FINGERPRINT}/train.parquet", b"other")
    with pytest.raises(DataError, match=r"train\.parquet was changed after it was written"):
        store.open_split(snapshot, "train", cache)

    def cut(remote: str, place: str) -> None:
        Path(place).write_bytes(b"half")
        raise OSError("connection lost")

    monkeypatch.setattr(memory, "get_file", cut)
    with pytest.raises(TransientError, match="connection lost"):
        store.open_split(snapshot, "train", cache)
    assert not list((cache / "tiny-loop" / FINGERPRINT).iterdir())
    memory.store.clear()


def test_the_manifest_tells_counts_config_and_hashes(store: SnapshotStore) -> None:
    snapshot = write(store)
    manifest = store.read_manifest(snapshot)
    assert manifest["rows_read"] == 44
    assert (
        sum(manifest["by_label"][label][-1] for label in LOOP.labels)
        == snapshot.train + snapshot.validation + snapshot.test
    )
    assert manifest["data"] == LOOP.data.model_dump(mode="json")
    assert set(manifest["files"]) == {
        "train.parquet", "validation.parquet", "test.parquet", "quarantine.parquet", "validation.html"
    }  # fmt: skip


def test_an_existing_fingerprint_is_reused_never_rewritten(store: SnapshotStore) -> None:
    first = write(store)
    again = store.write(LOOP, FINGERPRINT, screened(), "<p>other</p>", NOON.replace(hour=13))
    assert again == first
    assert store.read_page("tiny-loop", FINGERPRINT) == "<p>page</p>"


def test_the_newest_is_the_one_made_last(store: SnapshotStore) -> None:
    assert store.newest("tiny-loop") is None
    assert store.find("tiny-loop", FINGERPRINT) is None
    write(store, "ff" * 8, NOON)
    write(store, "aa" * 8, NOON.replace(hour=13))
    newest = store.newest("tiny-loop")
    assert newest is not None
    assert newest.fingerprint == "aa" * 8


def test_a_folder_without_its_manifest_is_no_snapshot(tmp_path: Path) -> None:
    store = SnapshotStore(str(tmp_path))
    snapshot = write(store)
    (Path(snapshot.url) / "manifest.json").unlink()
    assert store.find("tiny-loop", FINGERPRINT) is None
    assert store.newest("tiny-loop") is None
    assert write(store) == snapshot
    assert not list(tmp_path.rglob(".*"))


def test_files_that_changed_or_went_are_noticed(tmp_path: Path) -> None:
    store = SnapshotStore(str(tmp_path))
    snapshot = write(store)
    (Path(snapshot.url) / "test.parquet").write_bytes(b"other")
    with pytest.raises(DataError, match=r"test\.parquet was changed after it was written"):
        store.read_split(snapshot, "test")
    (Path(snapshot.url) / "train.parquet").unlink()
    with pytest.raises(DataError, match=r"train\.parquet is missing\. Delete the snapshot"):
        store.read_split(snapshot, "train")
    with pytest.raises(DataError, match="no split 'dev'; there are train, validation, test"):
        store.read_split(snapshot, "dev")


@pytest.mark.parametrize(
    ("loop", "fingerprint"),
    [("tiny-loop", "../../secret"), ("..", FINGERPRINT), ("tiny-loop", "ff" * 8), ("Tiny", FINGERPRINT)],
)
def test_pages_of_other_places_are_not_served(store: SnapshotStore, loop: str, fingerprint: str) -> None:
    write(store)
    assert store.read_page(loop, fingerprint) is None


def test_stores_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="EVERTUNE_SNAPSHOTS_URL 'nonsense://x' cannot be opened"):
        SnapshotStore("nonsense://x")
    (tmp_path / "file").write_text("", encoding="utf-8")
    store = SnapshotStore(str(tmp_path / "file"))
    mended = pd.DataFrame({"row_id": ["shop:1"], "text": ["a"], "label": ["pos"]})
    with pytest.raises(TransientError, match="cannot be written"):
        store.write_mended("tiny-loop", mended)


def test_unreachable_is_not_absent(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(TransientError, match="cannot be read"):
        SnapshotStore(str(tmp_path / "file")).find("tiny-loop", FINGERPRINT)


def test_a_snapshot_of_an_earlier_version_is_still_read(store: SnapshotStore) -> None:
    found = screened()
    old = dataclasses.replace(found, rows=found.rows.drop(columns=["soft_labels", "attributes"]))
    snapshot = store.write(LOOP, FINGERPRINT, old, "<p>page</p>", NOON)
    test = store.read_split(snapshot, "test")
    assert test["soft_labels"].tolist() == test["attributes"].tolist() == [""] * snapshot.test
    assert store.erase_rows("tiny-loop", [test["row_id"].iloc[0]]) == [FINGERPRINT]


@pytest.mark.parametrize("column", RAW_COLUMNS)
def test_every_column_counts_in_the_fingerprint(column: str) -> None:
    rows = raw_rows()
    other = rows.copy()
    value = {"rating": 1.5, "observed_at": pd.Timestamp(NOON)}.get(column, "changed")
    other.loc[3, column] = value
    assert fingerprint_rows(rows, LOOP) == fingerprint_rows(raw_rows(), LOOP)
    assert fingerprint_rows(other, LOOP) != fingerprint_rows(rows, LOOP)


def test_config_counts_in_the_fingerprint_as_far_as_it_shapes_data() -> None:
    rows = raw_rows()
    before = fingerprint_rows(rows, LOOP)
    stricter = make_loop(max_quarantined_share=0.1)
    training = LOOP.model_copy(update={"training": LOOP.training.model_copy(update={"epochs": 9})})
    turned = Loop.model_validate(LOOP.model_dump() | {"labels": ["pos", "neg"]})
    assert fingerprint_rows(rows, training) == before
    assert len({before, fingerprint_rows(rows, stricter), fingerprint_rows(rows, turned)}) == 3


def test_quarantine_goes_out_is_mended_and_comes_back(store: SnapshotStore, tmp_path: Path) -> None:
    write(store)
    file = tmp_path / "rows.csv"
    assert export_quarantine(store, "tiny-loop", file) == 4
    edit(file, {"shop:x1": {"label": "pos"}, "shop:x3": {"label": "neg"}})
    assert replay_quarantine(store, LOOP, file) == Replay(taken=2, unchanged=2)
    fixed = screen(apply_mends(raw_rows(), store.read_mended("tiny-loop")), LOOP.data, LOOP.labels)
    assert fixed.quarantine["row_id"].tolist() == ["shop:x4"]
    assert fixed.rows.set_index("row_id").loc["shop:x1", ["text", "label"]].tolist() == ['Odd, "one"\n', "pos"]
    assert fixed.n_duplicates == 1
    edit(file, {"shop:x1": {"label": "neg"}, "shop:x3": {"label": "pos"}})
    assert replay_quarantine(store, LOOP, file).taken == 1
    assert store.read_mended("tiny-loop").set_index("row_id")["label"].to_dict() == {"shop:x1": "neg", "shop:x3": "neg"}


def edit(file: Path, changes: dict[str, dict[str, str]]) -> None:
    with file.open(encoding="utf-8", newline="") as source:
        rows = list(csv.DictReader(source))
    with file.open("w", encoding="utf-8", newline="") as target:
        writer = csv.DictWriter(target, rows[0].keys())
        writer.writeheader()
        writer.writerows(row | changes.get(row["row_id"], {}) for row in rows)


def test_a_refused_set_leaves_its_quarantine_to_mend(store: SnapshotStore, tmp_path: Path) -> None:
    place = store.refuse(LOOP, FINGERPRINT, screened(), "<p>why</p>", NOON)
    assert place.endswith(f"tiny-loop/{FINGERPRINT}/validation.html")
    assert store.find("tiny-loop", FINGERPRINT) is None
    assert store.read_page("tiny-loop", FINGERPRINT) == "<p>why</p>"
    assert export_quarantine(store, "tiny-loop", tmp_path / "rows.csv") == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("row_id,text\n", r"rows.csv:1: no column \['label'\]; found \['row_id', 'text'\]"),
        ("row_id,text,label\nshop:zz,a,pos\n", "rows.csv:2: row 'shop:zz' is not in quarantine"),
        ("row_id,text,label\nshop:x1,a,great\n", "rows.csv:2: label 'great' is none of neg, pos"),
        ("row_id,text,label\nshop:x1,,pos\n", "rows.csv:2: the text is empty"),
        ('row_id,text,label\nshop:x1,"a,pos\n', "malformed csv"),
        (b"row_id,text,label\nshop:x1,\xff,pos\n", "rows.csv:2: not UTF-8"),
        (None, "cannot be read: No such file"),
    ],
)
def test_broken_replays_take_nothing(tmp_path: Path, content: str | bytes | None, message: str) -> None:
    store, file = SnapshotStore(str(tmp_path / "snapshots")), tmp_path / "rows.csv"
    write(store)
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        replay_quarantine(store, LOOP, file)
    assert store.read_mended("tiny-loop").empty


def test_nothing_to_export_before_the_first_snapshot(store: SnapshotStore, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no snapshot yet.*Run: evertune retrain tiny-loop"):
        export_quarantine(store, "tiny-loop", tmp_path / "rows.csv")


def test_erased_rows_take_their_snapshots_and_mends_with_them(store: SnapshotStore) -> None:
    write(store)
    other = "ffeeddccbbaa9988"
    store.refuse(LOOP, other, screened(), "<p>refused</p>", NOON)
    store.write_mended(
        "tiny-loop", pd.DataFrame({"row_id": ["shop:x4", "shop:x1"], "text": ["a", "b"], "label": "neg"})
    )
    assert store.erase_rows("tiny-loop", {"shop:nobody"}) == []
    assert store.find("tiny-loop", FINGERPRINT) is not None
    assert store.erase_rows("tiny-loop", {"shop:x4"}) == [FINGERPRINT, other]
    assert store.find("tiny-loop", FINGERPRINT) is None
    assert store.read_page("tiny-loop", other) is None
    assert store.read_mended("tiny-loop")["row_id"].tolist() == ["shop:x1"]


def test_suspects_do_not_bring_an_erased_snapshot_back(store: SnapshotStore, monkeypatch: pytest.MonkeyPatch) -> None:
    suspects = pd.DataFrame({"row_id": ["shop:01"], "text": ["sentence 1"], "label": ["neg"]})
    snapshot = write(store)
    train = store.read_split(snapshot, "train")["row_id"].iloc[0]
    store.erase_rows("tiny-loop", {train})
    with pytest.raises(DataError, match="the snapshot is gone"):
        store.write_suspects(snapshot, suspects, "<p>suspects</p>", "recipe")
    assert store.list_loops() == []
    snapshot, write_folder = write(store), store._write_folder

    def erase_meanwhile(*parts: object) -> None:
        store.erase_rows("tiny-loop", {train})
        write_folder(*parts)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "_write_folder", erase_meanwhile)
    with pytest.raises(DataError, match="the snapshot is gone"):
        store.write_suspects(snapshot, suspects, "<p>suspects</p>", "recipe")
    assert store.list_loops() == []
    write_folder(f"tiny-loop/{FINGERPRINT}", {"suspects.parquet": _parquet(suspects)}, "suspects.json", {})
    assert store.erase_rows("tiny-loop", {"shop:01"}) == [FINGERPRINT]  # left by a write that was killed


def test_feedback_of_a_group_is_found_in_snapshots_and_rows_of_sources_are_not(store: SnapshotStore) -> None:
    rows = raw_rows()
    rows.loc[rows["row_id"] == "shop:05", ["source", "group"]] = ["feedback", "user-17"]
    rows.loc[rows["row_id"] == "shop:06", "group"] = "user-18"
    store.write(LOOP, FINGERPRINT, screen(rows, LOOP.data, LOOP.labels), "<p>page</p>", NOON)
    assert store.erase_rows("tiny-loop", set(), "user-18") == []
    assert store.erase_rows("tiny-loop", set(), "user-17") == [FINGERPRINT]
