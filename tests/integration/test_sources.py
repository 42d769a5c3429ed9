import gzip
import hashlib
import http.server
import io
import json
import os
import sqlite3
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pandas as pd
import pytest

from configs.schema import PackageSource
from tasks.core.errors import DataError, TransientError
from tasks.core.rows import RAW_COLUMNS
from tasks.stores.packages import extract_member, fetch_package
from tasks.stores.sources import load_rows
from tests.support.loops import make_loop

FRAME = pd.DataFrame({"text": [f"sentence {i}" for i in range(20)], "label": ["neg", "pos"] * 10})
CSV = FRAME.to_csv(index=False)
JSONL = FRAME.to_json(orient="records", lines=True)


def load(folder: Path, kind: str = "csv", path: str = "rows", **source: Any) -> pd.DataFrame:
    place = {} if kind in ("sql", "hub", "package") else {"path": path}
    return load_rows(make_loop({"name": "source", "kind": kind, **place, **source}), folder, folder / "home")


def texts(rows: pd.DataFrame) -> list[str]:
    return sorted(rows["text"].dropna())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rows").write_text(CSV, encoding="utf-8")
    return tmp_path


def write_csv(path: Path) -> None:
    path.write_text(CSV, encoding="utf-8")


def write_jsonl(path: Path) -> None:
    path.write_text(JSONL, encoding="utf-8")


def write_parquet(path: Path) -> None:
    FRAME.astype({"label": "category"}).to_parquet(path)


def write_class_labels(path: Path) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"text": FRAME["text"], "label": [0, 1] * 10}, features=features).to_parquet(str(path))


def write_gzip(path: Path) -> None:
    path.write_bytes(gzip.compress(CSV.encode()))


@pytest.mark.parametrize(
    ("kind", "name", "write"),
    [
        ("csv", "rows.csv", write_csv),
        ("csv", "rows.csv.gz", write_gzip),
        ("jsonl", "rows.jsonl", write_jsonl),
        ("parquet", "rows.parquet", write_parquet),
        ("parquet", "classes.parquet", write_class_labels),
    ],
)
@pytest.mark.parametrize("scheme", ["", "file://", "memory://"])
def test_every_file_kind_from_a_path_and_a_url(
    tmp_path: Path, kind: str, name: str, write: Callable[[Path], None], scheme: str
) -> None:
    write(tmp_path / name)
    path = {"": name, "file://": f"file://{tmp_path / name}", "memory://": f"memory://bucket/{name}"}[scheme]
    if scheme == "memory://":
        fsspec.filesystem("memory").pipe_file(f"/bucket/{name}", (tmp_path / name).read_bytes())
    rows = load(tmp_path, kind, path)
    assert rows.columns.tolist() == RAW_COLUMNS
    assert texts(rows) == sorted(FRAME["text"])
    assert sorted(rows["label"].unique()) == ["neg", "pos"]
    assert (rows["defect"] == "").all()


def test_a_file_name_is_no_pattern(tmp_path: Path) -> None:
    write_csv(tmp_path / "odd [name]*?.csv")
    (tmp_path / "odd n.csv").write_text("other", encoding="utf-8")
    assert len(load(tmp_path, path="odd [name]*?.csv")) == 20


def test_a_changed_file_is_read_afresh_even_with_its_old_time(folder: Path) -> None:
    before = (folder / "rows").stat()
    assert "sentence 3" in texts(load(folder))
    (folder / "rows").write_text(CSV.replace("sentence", "Sentence"), encoding="utf-8")
    os.utime(folder / "rows", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "Sentence 3" in texts(load(folder))


def test_csv_values_stay_as_they_stand(folder: Path) -> None:
    extra = "\ufeff" + CSV + 'NA,pos\nnull,neg\n"two\nlines, ""quoted""",pos\n007,neg\n,pos\n'
    (folder / "rows").write_text(extra.replace("\n", "\r\n"), encoding="utf-8", newline="")
    rows = load(folder)
    assert {"NA", "null", 'two\r\nlines, "quoted"', "007"} <= set(texts(rows))
    assert rows["defect"].tolist().count("text is missing") == 1


def test_columns_are_mapped(folder: Path) -> None:
    table = FRAME.rename(columns={"text": "body"}).assign(
        id=[f"{i // 5}_{i}" for i in range(20)], when="2026-01-02T03:04:05Z", part=["test"] + [""] * 19, stars=range(20)
    )
    table.to_csv(folder / "rows", index=False, sep=";")
    columns = {
        "text": "body", "row_id": "id", "group": "id", "group_pattern": r"^\d+", "observed_at": "when",
        "split": "part", "rating": "stars",
    }  # fmt: skip
    rows = load(folder, delimiter=";", columns=columns, split="train").set_index("row_id")
    first = rows.loc["source:0_0"]
    assert (first["text"], first["group"], first["own_split"], first["rating"]) == ("sentence 0", "0", "test", 0.0)
    assert first["observed_at"] == pd.Timestamp("2026-01-02T03:04:05Z")
    assert rows["own_split"].tolist().count("train") == 19
    assert rows["group"].nunique() == 4


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_votes_and_attributes_come_from_every_kind(folder: Path, kind: str) -> None:
    frame = FRAME.assign(n=[3.0, 0.5] * 10, p=[1, 2] * 10, stars=[4.5, 1] * 10, land="AT")
    write = {
        "csv": lambda: frame.to_csv(folder / "rows", index=False),
        "jsonl": lambda: frame.to_json(folder / "rows", orient="records", lines=True),
        "parquet": lambda: frame.to_parquet(folder / "rows"),
    }
    write[kind]()
    columns = {
        "label": None, "soft_labels": {"pos": "p", "neg": "n"}, "rating": "stars", "attributes": ["land", "stars"],
    }  # fmt: skip
    rows = load(folder, kind, columns=columns).sort_values("text")
    assert (rows["defect"] == "").all()
    assert rows["label"].tolist()[:2] == ["neg", "pos"]
    assert [json.loads(text) for text in rows["soft_labels"][:2]] == [[0.75, 0.25], [0.2, 0.8]]
    assert rows["rating"].tolist()[:2] == [4.5, 1.0]
    assert json.loads(rows["attributes"].iloc[0]) == {"land": "AT", "stars": "4.5"}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"soft_labels": {"neg": "no", "pos": "label"}}, r"no column 'no'.*Set columns\.soft_labels\.neg"),
        ({"attributes": ["text", "shop"]}, r"no column 'shop'.*Set columns\.attributes"),
    ],
)
def test_missing_vote_and_attribute_columns_are_named(folder: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(folder, columns=columns)


def test_several_sources_come_in_one_order(folder: Path) -> None:
    write_jsonl(folder / "more.jsonl")
    first = {"name": "alpha", "kind": "csv", "path": "rows"}
    second = {"name": "beta", "kind": "jsonl", "path": "more.jsonl"}
    rows = load_rows(make_loop(first, second), folder, folder)
    assert rows["source"].value_counts().to_dict() == {"alpha": 20, "beta": 20}
    pd.testing.assert_frame_equal(rows, load_rows(make_loop(second, first), folder, folder))


def test_csv_without_a_header(folder: Path) -> None:
    (folder / "rows").write_text(CSV.split("\n", 1)[1], encoding="utf-8")
    assert len(load(folder, column_names=["text", "label"])) == 20


LISTS = JSONL.replace('"sentence', '["sentence').replace('","label', '"],"label')
BAD_BYTES = CSV.encode() + b"caf\xe9,pos\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CSV.replace("label", "stars", 1), r"no column 'label'; found \['text', 'stars'\]. Set columns.label"),
        (CSV.replace(",", ";"), r"no column 'text'; found \['text;label'\].*delimiter"),
        (BAD_BYTES, r"rows:22: not UTF-8 \(byte 0xe9 at column 4\). Save the file as UTF-8"),
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        ("text,label\n", r"no rows, only the columns \['text', 'label'\]"),
        ("text,label\na,neg\nb,pos\nc,pos\n", "3 rows; at least 10 are needed"),
        (CSV.replace(",neg", ",pos"), r"every row with a known label is 'pos' \(20 rows\); accepted are neg, pos"),
        (CSV + "a,b,pos\n", r"rows:22: 3 fields, expected 2 \(text, label\). Quote fields that hold the delimiter ','"),
        (CSV.replace("sentence", "a,sentence"), "rows:2: 3 fields, expected 2"),
        (CSV + "only text\n", "rows:22: 1 fields, expected 2"),
        (CSV + '"never closed,pos\n' + CSV, "rows:22: malformed record: unexpected end of data"),
        (CSV + "cut\0off,pos\n", "rows:22: holds a NUL character"),
        (CSV.replace("label", "text", 1), r"rows:1: the header names \['text'\] more than once"),
    ],
)  # fmt: skip
def test_broken_csv(folder: Path, content: str | bytes, message: str) -> None:
    (folder / "rows").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (JSONL + '{"text": bad}\n', "rows:21: not JSON: Expecting value at column 10"),
        (JSONL + "17\n", "rows:21: int, not an object"),
        (JSONL + '{"text": 5, "label": "pos"}\n', "rows:21: 'text' is a number, but text in lines before"),
        (JSONL.encode() + b'{"text": "caf\xe9", "label": "pos"}\n', "rows:21: not UTF-8"),
        (JSONL + '{"text": "\\ud800", "label": "pos"}\n', "rows:21: holds half of a surrogate pair"),
        (LISTS, "column 'text' holds list<.*expected text"),
        ("", "the file is empty"),
        ("\n \n", "the file is empty"),
    ],
)  # fmt: skip
def test_broken_jsonl(folder: Path, content: str | bytes, message: str) -> None:
    (folder / "rows").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        load(folder, "jsonl")


def test_null_and_absent_texts_of_jsonl_are_defects(folder: Path) -> None:
    (folder / "rows").write_text(
        JSONL + '{"text": null, "label": "pos"}\n{"label": "neg", "more": 1}\n', encoding="utf-8"
    )
    assert load(folder, "jsonl")["defect"].tolist().count("text is missing") == 2


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (FRAME.assign(text=range(20)), "column 'text' holds int64, expected text"),
        (FRAME.drop(columns="label"), r"no column 'label'; found \['text'\]"),
        (FRAME[:0], "no rows"),
        (None, "not readable as parquet"),
    ],
)
def test_broken_parquet(folder: Path, frame: pd.DataFrame | None, message: str) -> None:
    if frame is not None:
        frame.to_parquet(folder / "rows")
    with pytest.raises(DataError, match=message):
        load(folder, "parquet")


def test_numbers_as_labels_keep_their_names(folder: Path) -> None:
    FRAME.assign(label=[1.0, None] * 10).to_parquet(folder / "rows")
    rows = load(folder, "parquet")
    assert rows["label"].dropna().unique().tolist() == ["1"]
    assert rows["defect"].tolist().count("label is missing") == 10


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("gone.csv", DataError, "no file 'gone.csv' in .*; the folder holds rows. Set path"),
        ("no/such.csv", DataError, "the folder does not exist either"),
        ("memory://nowhere/x.csv", DataError, "there is no such file"),
        ("nonsense://x/y.csv", DataError, "Protocol not known"),
        ("http://127.0.0.1:9/x.csv", TransientError, "the store does not answer"),
    ],
)
def test_files_that_are_not_there(folder: Path, path: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load(folder, path=path)


@pytest.fixture
def web(folder: Path) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_file_from_the_web(folder: Path, web: str) -> None:
    assert len(load(folder, path=f"{web}/rows")) == 20
    with pytest.raises(DataError, match="there is no such file"):
        load(folder, path=f"{web}/gone")


@pytest.fixture
def database(tmp_path: Path) -> str:
    path = tmp_path / "reviews.db"
    connection = sqlite3.connect(path)
    FRAME.assign(stars=[1, None] * 10).to_sql("reviews", connection, index=False)
    connection.close()
    return f"sqlite:///{path}"


def load_query(tmp_path: Path, query: str) -> pd.DataFrame:
    return load(tmp_path, "sql", query=query, url_from="TEST_REVIEWS_URL")


def test_a_query_is_asked_afresh_each_time(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_REVIEWS_URL", database)
    query = "SELECT text, label FROM reviews WHERE text LIKE 'sentence%'"
    assert len(load_query(tmp_path, query)) == 20
    connection = sqlite3.connect(database.removeprefix("sqlite:///"))
    with connection:
        connection.execute("INSERT INTO reviews (text, label) VALUES ('sentence new', 'pos')")
    connection.close()
    assert len(load_query(tmp_path, query)) == 21


@pytest.mark.parametrize(
    ("url", "query", "error", "message"),
    [
        (None, "SELECT 1", DataError, "the environment variable TEST_REVIEWS_URL is not set"),
        ("nonsense", "SELECT 1", DataError, "TEST_REVIEWS_URL is no usable SQLAlchemy URL"),
        ("oddbase://user:secret@host/db", "SELECT 1", DataError, "is no usable SQLAlchemy URL"),
        ("sqlite:///missing-folder/x.db", "SELECT 1", DataError, "names an SQLite file that does not exist"),
        ("here", "SELECT absent FROM reviews", DataError, "the query fails: no such column: absent. Mend `query`"),
        ("here", "SELEKT", DataError, "the query fails: near \"SELEKT\": syntax error"),
        ("here", "SELECT text, label FROM reviews WHERE 0", DataError, "no rows"),
        ("postgresql+psycopg://u:secret@127.0.0.1:9/db", "SELECT 1", TransientError, "does not answer: .*refused"),
    ],
)  # fmt: skip
def test_broken_queries(
    tmp_path: Path,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    url: str | None,
    query: str,
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.delenv("TEST_REVIEWS_URL", raising=False)
    if url is not None:
        monkeypatch.setenv("TEST_REVIEWS_URL", database if url == "here" else url)
    with pytest.raises(error, match=message) as caught:
        load_query(tmp_path, query)
    assert "secret" not in str(caught.value)


def test_a_data_set_laid_out_like_one_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_csv(tmp_path / "data" / "train.csv")
    assert len(load(tmp_path, "hub", dataset=str(tmp_path / "data"))) == 20
    with pytest.raises(DataError, match='Unknown split "nope"'):
        load(tmp_path, "hub", dataset=str(tmp_path / "data"), hub_split="nope")


def test_a_hub_that_cannot_be_reached_is_no_missing_data_set(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from configs.schema import HubSource; from tasks.core.errors import TransientError\n"
        "from tasks.stores.tables import read_hub\n"
        "try: read_hub(HubSource(name='hub-set', kind='hub', dataset='some/set'), Path.cwd())\n"
        "except TransientError as error: print(error)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "source 'hub-set': some/set: the hub does not answer" in done.stdout


def tar_bytes(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


TSV = "".join(f'{i}\t{"-+"[i % 2]}1\t" odd quote {i}\n' for i in range(20)).encode()
INNER = tar_bytes({"corpus/rows.txt": TSV})
ARCHIVE = tar_bytes(
    {"corpus-1.0/extra/inner.tar.gz": INNER, "corpus-1.0/plain.txt": b"plain", "corpus-1.0/setup.py": b""}
)


def package(**changes: Any) -> PackageSource:
    return PackageSource.model_validate(
        {
            "name": "corpus", "kind": "package", "package": "corpus==1.0",
            "sha256": hashlib.sha256(ARCHIVE).hexdigest(),
            "member": "extra/inner.tar.gz!corpus/rows.txt", "column_names": ["id", "rating", "text"], **changes,
        }
    )  # fmt: skip


def keep_archive(home: Path) -> Path:
    """Put the archive where an earlier fetch would have left it."""
    kept = home / "corpora" / f"{hashlib.sha256(ARCHIVE).hexdigest()[:16]}-corpus-1.0.tar.gz"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(ARCHIVE)
    return kept


def test_a_package_that_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    keep_archive(tmp_path / "home")
    source = package().model_dump() | {"columns": {"label": None, "rating": "rating", "row_id": "id"}}
    loop = make_loop(source, rating_labels={"thresholds": [0]})
    rows = load_rows(loop, tmp_path, tmp_path / "home").set_index("row_id")
    assert len(rows) == 20
    assert rows.loc["corpus:1", ["text", "label"]].tolist() == ['" odd quote 1', "pos"]


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("gone.txt", "no file 'gone.txt'; it holds extra/inner.tar.gz, plain.txt, setup.py. Set `member`"),
        ("extra/inner.tar.gz!gone.txt", "inner.tar.gz: no file 'gone.txt'; it holds corpus/rows.txt"),
        ("plain.txt!x", "plain.txt: not a readable tar or zip archive"),
    ],
)
def test_missing_members(tmp_path: Path, member: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        extract_member(keep_archive(tmp_path), member, tmp_path / "out")


def test_members_of_zip_archives(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "corpus.zip", "w") as bundle:
        bundle.writestr("corpus-1.0/a/b.txt", "inside")
    extract_member(tmp_path / "corpus.zip", "a/b.txt", tmp_path / "out")
    assert (tmp_path / "out").read_text(encoding="utf-8") == "inside"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make pip see one folder of archives and nothing else."""
    folder = tmp_path / "index"
    folder.mkdir()
    name = "tinycorpus"
    files = {
        f"{name}-1.0/setup.py": f"from setuptools import setup; setup(name='{name}', version='1.0')".encode(),
        f"{name}-1.0/PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{name}-1.0/rows.txt": TSV,
    }
    (folder / f"{name}-1.0.tar.gz").write_bytes(tar_bytes(files))
    for key, value in {
        "NO_INDEX": "1",
        "FIND_LINKS": str(folder),
        "NO_BUILD_ISOLATION": "0",
        "CONFIG_FILE": os.devnull,
    }.items():
        monkeypatch.setenv(f"PIP_{key}", value)
    return folder


def test_a_package_is_fetched_once_and_its_hash_is_checked(tmp_path: Path, index: Path) -> None:
    digest = hashlib.sha256((index / "tinycorpus-1.0.tar.gz").read_bytes()).hexdigest()
    source = package(package="tinycorpus==1.0", sha256=digest, member="rows.txt")
    with pytest.raises(DataError, match=f"tinycorpus-1.0.tar.gz has sha256 {digest}, expected 0{{64}}"):
        fetch_package(source.model_copy(update={"sha256": "0" * 64}), tmp_path / "corpora")
    assert list((tmp_path / "corpora").iterdir()) == []
    first = fetch_package(source, tmp_path / "corpora")
    (index / "tinycorpus-1.0.tar.gz").unlink()
    assert fetch_package(source, tmp_path / "corpora") == first
    assert [path.name for path in first.parent.iterdir()] == [f"{digest[:16]}-tinycorpus-1.0.tar.gz"]


def test_a_package_that_does_not_exist(tmp_path: Path, index: Path) -> None:
    with pytest.raises(DataError, match=r"pip download .*nothing-here==9` failed: Could not find a version"):
        fetch_package(package(package="nothing-here==9"), tmp_path / "corpora")


def test_an_index_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {"INDEX_URL": "http://127.0.0.1:9/simple", "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{key}", value)
    with pytest.raises(TransientError, match="could not reach the package index"):
        fetch_package(package(package="nothing-here==9"), tmp_path / "corpora")


def test_reading_prints_nothing_and_leaves_nothing_behind(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load(folder)
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in folder.iterdir()] == ["rows"]


def test_json_is_told_apart_from_csv(folder: Path) -> None:
    (folder / "rows").write_text(json.dumps(FRAME.to_dict("records")), encoding="utf-8")
    assert len(load(folder, "jsonl")) == 20
