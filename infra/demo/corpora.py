"""The demo's world: a loop that knows product reviews, and the texts that will come by.

A fifth of the reviews is withheld from training, so that even the steady traffic is new to the model. Tweets, rated by
the same twenty people, are the other genre.
"""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from configs.load import CASES, load_loop
from configs.schema import PackageSource
from tasks.stores.sources import load_rows

LOOP = "product-sentiment"
TWEETS_MEMBER = "additional_resources/hutto_ICWSM_2014.tar.gz!hutto_ICWSM_2014/tweets_GroundTruth.txt"
WITHHELD_SHARE = 0.2
ALERT_VARIABLE = "EVERTUNE_ALERT_URL"


@dataclass(frozen=True)
class Corpora:
    """Texts with their human labels: columns row_id, text, label, group."""

    steady: pd.DataFrame  # withheld reviews
    drifting: pd.DataFrame  # tweets that arrive, and whose labels come late
    fresh: pd.DataFrame  # tweets that nobody labels: they only measure


def prepare(template: Path, loops: Path, home: Path, fresh_tweets: int) -> Corpora:
    """Write the demo's loop and its csv under `loops`; return the texts of its traffic."""
    document = yaml.safe_load(template.read_text(encoding="utf-8"))
    loop = load_loop(template)
    reviews = load_rows(loop, template.parent, home)
    tweets_source = document["data"]["sources"][0] | {"name": "tweets", "member": TWEETS_MEMBER}
    tweets_source["columns"] = tweets_source["columns"] | {"group": None, "group_pattern": None}
    source = PackageSource.model_validate(tweets_source)
    tweets = load_rows(
        loop.model_copy(update={"data": loop.data.model_copy(update={"sources": [source]})}), template.parent, home
    )
    withheld = reviews["group"].map(_place) < WITHHELD_SHARE
    loops.mkdir(parents=True, exist_ok=True)
    reviews[~withheld][["row_id", "rating", "text", "group"]].to_csv(loops / "reviews.csv", index=False)
    (loops / f"{LOOP}.yaml").write_text(_render(_adapt(document)), encoding="utf-8")
    shutil.copyfile(template.with_name(template.stem + CASES), loops / f"{LOOP}{CASES}")
    tweets = tweets[~tweets["text"].duplicated(keep=False)].sample(frac=1.0, random_state=1)
    steady = reviews[withheld].sample(frac=1.0, random_state=1)
    return Corpora(steady, tweets.iloc[fresh_tweets:], tweets.iloc[:fresh_tweets])


def _place(group: str) -> float:
    digest = hashlib.blake2b(group.encode(), key=b"demo", digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _adapt(document: dict[str, Any]) -> dict[str, Any]:
    """Return the shipped loop with a csv source and a pulse of one minute."""
    columns = {"text": "text", "label": None, "rating": "rating", "row_id": "row_id", "group": "group"}
    source = {"name": "reviews", "kind": "csv", "path": "reviews.csv", "columns": columns}
    monitoring = {"schedule": {"cron": "* * * * *", "timezone": "UTC"}, "window": {"max_rows": 300, "min_rows": 100}}
    feedback = {"reviewed_keys": ["*"]}  # labels of twenty people each
    drift_alone = {"max_accuracy_drop": None, "labels_alone": None}
    retraining = {"schedule": None, "min_new_labels": 400, **drift_alone}
    return {
        **document,
        "data": document["data"] | {"sources": [source], "feedback": feedback},
        "monitoring": document["monitoring"] | monitoring,
        "retraining": document["retraining"] | retraining,
        "alerts": [{"name": "demo", "url_from": ALERT_VARIABLE}],
    }


def _render(document: dict[str, Any]) -> str:
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
