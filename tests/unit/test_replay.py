import numpy as np
import pandas as pd
import pytest

from tasks.core.replay import count_learned, list_learned, mix_replay


def make_rows(n: int, prefix: str = "old", group_size: int = 3, share_positive: float = 0.3) -> pd.DataFrame:
    random = np.random.default_rng(len(prefix))
    return pd.DataFrame(
        {
            "row_id": [f"{prefix}:{i}" for i in range(n)],
            "text": [f"{prefix} text {i}" for i in range(n)],
            "label": np.where(random.random(n) < share_positive, "positive", "negative"),
            "group": [f"{prefix}-{i // group_size}" for i in range(n)],
        }
    )


OLD, NEW = make_rows(600), make_rows(100, "fresh")
BOTH = pd.concat([OLD[:300], NEW, OLD[300:]], ignore_index=True)


@pytest.mark.parametrize(("old_per_new", "wanted"), [(0, 0), (0.5, 50), (1, 100), (2.5, 250), (6, 600), (1000, 600)])
def test_about_so_many_old_rows_come_beside_all_new_ones(old_per_new: float, wanted: int) -> None:
    mixture = mix_replay(BOTH, OLD, old_per_new, seed=1)
    assert set(NEW["row_id"]) <= set(mixture.rows["row_id"])
    assert mixture.n_new == 100
    assert mixture.n_old == len(mixture.rows) - 100
    assert abs(mixture.n_old - wanted) <= 3
    assert mixture.rows["row_id"].tolist() == [row for row in BOTH["row_id"] if row in set(mixture.rows["row_id"])]


def test_groups_stay_whole_and_labels_keep_their_shares() -> None:
    rows = mix_replay(BOTH, OLD, 2, seed=3).rows
    old = rows[rows["row_id"].str.startswith("old")]
    assert (old.groupby("group").size() == 3).all()
    shares = [frame["label"].value_counts(normalize=True)["positive"] for frame in (old, OLD)]
    assert abs(shares[0] - shares[1]) < 0.07


def test_the_seed_decides_which() -> None:
    first, again, other = (set(mix_replay(BOTH, OLD, 1, seed).rows["row_id"]) for seed in (1, 1, 2))
    assert first == again != other


def test_a_row_with_another_label_is_new() -> None:
    mended = BOTH.copy()
    mended.loc[0, "label"] = "positive" if BOTH.loc[0, "label"] == "negative" else "negative"
    assert mix_replay(mended, OLD, 0, seed=1).n_new == 101
    assert mix_replay(OLD, OLD, 1, seed=1).n_new == 0
    assert mix_replay(NEW, OLD, 1, seed=1).n_old == 0


def test_a_version_learned_the_snapshots_of_all_whom_it_went_on_from() -> None:
    tags = {
        "4": {"snapshot": "d", "started_from": "2"},
        "3": {"snapshot": "c", "started_from": "2"},
        "2": {"snapshot": "b", "started_from": "1"},
        "1": {"snapshot": "a"},
    }
    assert list_learned("4", tags) == ["d", "b", "a"]
    assert list_learned("1", tags) == ["a"]
    assert list_learned("2", {"2": {"started_from": "1"}, "1": {"snapshot": "a"}}) == ["none", "a"]


def test_test_rows_are_known_by_name_and_by_text() -> None:
    test = NEW.copy()
    assert count_learned(test, [OLD]) == 0
    test.loc[0, "row_id"] = OLD["row_id"][7]  # its group moved, or its text was mended
    test.loc[1, "text"] = f"  {OLD['text'][9].upper()} "
    assert count_learned(test, [OLD[:5], OLD[5:]]) == 2
