"""What a row is: how a source's table becomes rows, and how rows are compared, counted and told apart.

A *raw row* has the columns of a row, `own_split` ("" where the hash decides) and `defect` (why it cannot be used, "" if
it can). `soft_labels` holds the shares of the loop's labels as a JSON list, `attributes` further columns as a JSON
object; both are "" where there are none. Everything here works on whole frames and keeps their order unless it says
otherwise.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import pandas as pd

from configs.schema import Columns, RatingLabels
from tasks.core.soft_labels import BROKEN, TIED, SoftLabels, soft_labels_of

ROW_COLUMNS = ["row_id", "text", "label", "group", "source", "observed_at", "rating", "soft_labels", "attributes"]
RAW_COLUMNS = [*ROW_COLUMNS, "own_split", "defect"]
SPLITS = ("train", "validation", "test")
TIME = "datetime64[us, UTC]"

_OWN_GROUP = "text:"  # prefix of the group of a text that belongs to none
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # tab and line ends are ordinary


def normalise_text(text: str) -> str:
    """Return the form in which two texts count as the same: NFKC, case folded, white space collapsed."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def digest(*parts: str) -> str:
    """Return 16 hexadecimal digits that tell these parts, in this order, from any others."""
    joined = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.blake2b(joined.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def label_of_rating(rating: float, labels: Sequence[str], thresholds: Sequence[float]) -> str:
    """Return the label of a rating; one that lies exactly on a threshold takes the label on the side of zero."""
    passed = sum(rating > threshold or (rating == threshold < 0) for threshold in thresholds)
    return labels[passed]


def map_rows(
    table: pd.DataFrame, source: str, columns: Columns, rating_labels: RatingLabels | None, labels: Sequence[str]
) -> pd.DataFrame:
    """Return a source's table as raw rows, in the table's order.

    Every column that `columns` names must be there, as text (NaN where empty); observed_at may hold times. Label and
    split lose surrounding white space. What cannot be read becomes the row's defect.
    The label comes from its column, else from the largest soft label, else from the rating.
    """
    rows = pd.DataFrame(index=table.index)
    rows["text"] = table[columns.text].astype("str")
    rows["rating"] = _ratings(table, columns.rating)
    soft = soft_labels_of(table, columns.soft_labels, labels)
    rows["soft_labels"] = soft.shares
    rows["label"] = _labels(table, columns, rows["rating"], soft, rating_labels, labels)
    rows["source"] = pd.Series(source, index=table.index, dtype="str")
    rows["observed_at"] = _times(table, columns.observed_at)
    rows["own_split"] = _own_splits(table, columns.split)
    rows["group"] = _groups(table, columns, rows["text"])
    rows["row_id"] = _row_ids(table, columns.row_id, rows)
    rows["attributes"] = _attributes(table, columns.attributes)
    rows["defect"] = _defects(rows, table, columns, soft)
    rows.loc[~rows["own_split"].isin(SPLITS), "own_split"] = ""
    return rows[RAW_COLUMNS].reset_index(drop=True)


def rows_of_feedback(labelled: pd.DataFrame) -> pd.DataFrame:
    """Return labelled rows of the prediction log as raw rows, grouped as the rows of a source are."""
    rows = with_row_columns(labelled).assign(own_split="", defect="")
    alone = rows["group"].str.startswith(_OWN_GROUP)
    rows.loc[alone, "group"] = [own_group(text) for text in rows.loc[alone, "text"]]
    return rows[RAW_COLUMNS]


def with_row_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame of rows with the columns that rows did not have in earlier versions, empty where it lacks them."""
    missing = {name: "" for name in ("soft_labels", "attributes") if name not in frame.columns}
    return frame.assign(**missing) if missing else frame


def settle_feedback(feedback: pd.DataFrame, sources: pd.DataFrame) -> pd.DataFrame:
    """Return feedback with one row per normalised text: the oldest of its majority label; none where labels tie.

    Texts that a source labels are left out. So neither a slip nor ill will of one caller can contradict rows of the
    sources into quarantine, frozen test rows among them.
    """
    texts = feedback["text"].map(normalise_text)
    unknown = ~texts.isin({normalise_text(text) for text in sources["text"].dropna()})
    kept = feedback[unknown].assign(normalised=texts[unknown])
    votes = kept.groupby(["normalised", "label"]).size().rename("votes").reset_index()
    best = votes[votes["votes"] == votes.groupby("normalised")["votes"].transform("max")]
    best = best[~best["normalised"].duplicated(keep=False)]
    settled = kept.merge(best[["normalised", "label"]], on=["normalised", "label"])
    oldest_first = settled.sort_values(["observed_at", "row_id"], kind="stable", na_position="first")
    return oldest_first.drop_duplicates("normalised")[list(feedback.columns)]


def order_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Return raw rows in an order that does not depend on the source's; an id that comes again gets #2, #3, …"""
    ordered = rows.sort_values(["row_id", "text", "label"], kind="stable", ignore_index=True)
    nth = ordered.groupby("row_id", sort=False).cumcount()
    again = nth > 0
    ordered.loc[again, "row_id"] += "#" + (nth[again] + 1).astype("str")
    return ordered


def apply_mends(rows: pd.DataFrame, mended: pd.DataFrame) -> pd.DataFrame:
    """Return raw rows with the text and label that a person gave some of them (mended: row_id, text, label).

    Mends of rows that exist no longer are left out, so that what was erased stays erased.
    """
    fix = mended.drop_duplicates("row_id", keep="last").set_index("row_id")
    hit = rows["row_id"].isin(fix.index)
    if not hit.any():
        return rows
    rows, ids = rows.copy(), rows.loc[hit, "row_id"]
    relabelled = hit & (rows["label"] != rows["row_id"].map(fix["label"]))
    rows.loc[hit, ["text", "label"]] = fix.loc[ids, ["text", "label"]].to_numpy()
    rows.loc[relabelled, "rating"] = np.nan  # the rating spoke for the label that was wrong
    rows.loc[relabelled, "soft_labels"] = ""  # so did the soft labels
    rows.loc[hit & rows["defect"].str.startswith(("text", "label", "rating", "soft labels")), "defect"] = ""
    lonely = hit & rows["group"].str.startswith(_OWN_GROUP)
    rows.loc[lonely, "group"] = [own_group(text) for text in rows.loc[lonely, "text"]]
    return rows


def own_group(text: str) -> str:
    """Return the group of a text that belongs to no group: its copies share it."""
    return _OWN_GROUP + digest(normalise_text(text))


def derive_columns(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with n_chars, n_words and n_control_chars, which expectations may name (missing text: 0)."""
    texts = rows["text"].fillna("").tolist()
    return rows.assign(
        n_chars=[len(text) for text in texts],
        n_words=[len(text.split()) for text in texts],
        n_control_chars=[len(_CONTROL.findall(text)) for text in texts],
    )


def find_contradictions(rows: pd.DataFrame) -> dict[str, str]:
    """Return, by row id, why a row contradicts others: the same normalised text under another label."""
    n_labels = rows.groupby("normalised")["label"].transform("nunique")
    reasons: dict[str, str] = {}
    for _, same in rows[n_labels > 1].groupby("normalised", sort=False):
        for row_id, label in zip(same["row_id"], same["label"], strict=True):
            others = same.loc[same["label"] != label, "row_id"].tolist()
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            reasons[row_id] = f"same text, another label: contradicts {', '.join(others[:3])}{more}"
    return reasons


def drop_duplicates(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with one copy of each normalised text: the oldest, then the one with the smallest id."""
    oldest_first = rows.sort_values(["observed_at", "row_id"], kind="stable", na_position="first")
    return rows.loc[oldest_first.drop_duplicates("normalised").index.sort_values()]


def _ratings(table: pd.DataFrame, column: str | None) -> pd.Series:
    if column is None:
        return pd.Series(np.nan, index=table.index, dtype="float64")
    ratings = pd.to_numeric(table[column], errors="coerce").astype("float64")
    return ratings.where(np.isfinite(ratings))


def _labels(
    table: pd.DataFrame,
    columns: Columns,
    ratings: pd.Series,
    soft: SoftLabels,
    rating_labels: RatingLabels | None,
    labels: Sequence[str],
) -> pd.Series:
    if columns.label is not None:
        given = table[columns.label].astype("str").str.strip()
        return given.where(given != "")
    if columns.soft_labels is not None:
        return soft.largest
    assert rating_labels is not None
    made = [None if np.isnan(r) else label_of_rating(r, labels, rating_labels.thresholds) for r in ratings]
    return pd.Series(made, index=table.index, dtype="str")


def _times(table: pd.DataFrame, column: str | None) -> pd.Series:
    if column is None:
        return pd.Series(pd.NaT, index=table.index, dtype=TIME)
    given = table[column]
    if pd.api.types.is_string_dtype(given):
        given = pd.to_datetime(given.where(given != ""), utc=True, errors="coerce", format="ISO8601")
    return pd.to_datetime(given, utc=True).astype(TIME)


def _own_splits(table: pd.DataFrame, column: str | None) -> pd.Series:
    if column is None:
        return pd.Series("", index=table.index, dtype="str")
    return table[column].astype("str").fillna("").str.strip().str.lower()


def _groups(table: pd.DataFrame, columns: Columns, texts: pd.Series) -> pd.Series:
    if columns.group is None:
        given = pd.Series("", index=table.index, dtype="str")
    else:
        given = table[columns.group].astype("str").fillna("")
    if columns.group_pattern is not None:
        pattern = re.compile(columns.group_pattern)
        given = given.map(lambda name: match.group(0) if (match := pattern.search(name)) else name)
    alone = [own_group(text) for text in texts[given == ""].fillna("")]
    given = given.astype("str")
    given.loc[given == ""] = alone
    return given


def _row_ids(table: pd.DataFrame, column: str | None, rows: pd.DataFrame) -> pd.Series:
    given = [""] * len(table) if column is None else table[column].astype("str").fillna("").tolist()
    triples = zip(given, rows["source"], rows["group"], rows["text"].fillna(""), strict=True)
    made = [f"{source}:{name or digest(source, group, text)}" for name, source, group, text in triples]
    return pd.Series(made, index=table.index, dtype="str")


def _attributes(table: pd.DataFrame, names: Sequence[str]) -> pd.Series:
    if not names:
        return pd.Series("", index=table.index, dtype="str")
    texts = [table[name].astype("str").fillna("").tolist() for name in names]
    objects = [json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) for row in zip(*texts, strict=True)]
    return pd.Series(objects, index=table.index, dtype="str")


def _defects(rows: pd.DataFrame, table: pd.DataFrame, columns: Columns, soft: SoftLabels) -> pd.Series:
    is_rated = columns.label is None and columns.soft_labels is None
    no_rating = rows["rating"].isna() if is_rated else pd.Series(False, index=rows.index)
    dated = pd.Series(False, index=rows.index)
    if columns.observed_at is not None:
        dated = table[columns.observed_at].notna() & (table[columns.observed_at].astype("str") != "")
    checks = [
        (rows["text"].isna() | (rows["text"].str.strip() == ""), "text is missing"),
        (no_rating, "rating is missing or not a number"),
        (soft.defects == BROKEN, f"soft labels {BROKEN}"),
        (rows["label"].isna() & (soft.defects == TIED), f"soft labels {TIED}"),
        (rows["label"].isna() & ~no_rating, "label is missing"),
        (rows["observed_at"].isna() & dated, "observed_at is not an ISO 8601 time"),
        (~rows["own_split"].isin(["", *SPLITS]), "split is none of train, validation, test"),
    ]
    defects = pd.Series("", index=rows.index, dtype="str")
    for fails, reason in reversed(checks):
        defects = defects.mask(fails.fillna(True).astype(bool), reason)
    return defects
