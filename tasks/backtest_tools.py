"""Trains, watches and judges for a backtest, and keeps what it found."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from configs.schema import Loop
from tasks.core.backtest import Champion, Floats, Ints, Seen, Timeline, Trained
from tasks.core.base_models import resolve_base_model
from tasks.core.errors import DataError
from tasks.core.evidence import as_logged, build_reference
from tasks.core.metrics import score_predictions
from tasks.core.promotion import GateEvidence, Parity, compare_accuracy, decide_promotion
from tasks.core.retraining import Accuracy
from tasks.core.rows import derive_columns
from tasks.core.verdict import Vote
from tasks.core.window_check import WindowCheck, check
from tasks.stores.backtest_files import BacktestFiles, digest, digest_rows
from tasks.window_reading import describer

Kind = Literal["head", "recipe"]
CHUNK = 512  # texts embedded between two files: what a killed backtest loses
HEAD_STRENGTH = 5.0  # inverse regularisation of the head


class Workshop:
    """The tools of a replay. `kind` head: a linear head on the frozen base model; recipe: the loop's own training."""

    def __init__(
        self,
        config: Loop,
        timeline: Timeline,
        files: BacktestFiles,
        kind: Kind,
        usual_hours: float | None,
        tell: Callable[[str], None],
    ) -> None:
        self._config, self._kind, self._files, self._tell = config, kind, files, tell
        self._usual_hours = usual_hours if kind == "head" else None
        self._rows = derive_columns(timeline.rows)
        self._base_model = resolve_base_model(config.training.base_model)
        self._texts: list[str] = self._rows["text"].tolist()
        self._number_of = {text: number for number, text in enumerate(self._texts)}
        known = self._rows["label"].map({label: place for place, label in enumerate(config.labels)})
        self.gold = known.fillna(-1).to_numpy(dtype=np.int64)
        self._vectors = self._embed_all()
        self._n_tokens = self._count_tokens()
        self._models: dict[str, Trained] = {}

    @property
    def costs_are_usual(self) -> bool:
        """Say whether a retrain is counted with what the loop's real retrains take."""
        return self._usual_hours is not None

    def train(self, rows: Ints) -> Trained:
        """Return the model that these labelled rows make; its cost is that of a real retrain where one is known."""
        name = digest_rows(rows)
        if name not in self._models:
            started = time.perf_counter()
            probabilities = self._files.array(f"models/{self._kind}-{name}", lambda: self._fit(rows))
            seconds = float(
                self._files.note("seconds", {"model": name, "kind": self._kind}, lambda: time.perf_counter() - started)
            )
            hours = self._usual_hours if self._usual_hours is not None else seconds / 3600
            self._models[name] = Trained(name, probabilities, hours)
        return self._models[name]

    def watch(self, champion: Champion, window: Ints, votes: Sequence[Vote], now: datetime) -> Seen:
        """Look at the newest answers as monitoring does: same tests, same rules, same accuracy figures."""
        hangs_on = {
            "model": champion.model.name,
            "kind": self._kind,
            "test": digest_rows(champion.test),
            "window": digest_rows(window),
            "votes": [asdict(vote) for vote in votes],
            "now": now,
            "rules": self._config.monitoring.model_dump(mode="json"),
        }
        found = self._files.note("seen", hangs_on, lambda: _tell_seen(*self._check(champion, window, votes, now)))
        vote = found["vote"]
        return Seen(
            found["verdict"],
            Vote(datetime.fromisoformat(vote[0]), datetime.fromisoformat(vote[1]), vote[2]) if vote else None,
            found["is_new_vote"],
            found["expected"],
            Accuracy(**found["measured"]) if found["measured"] else None,
            Accuracy(**found["estimated"]) if found["estimated"] else None,
        )

    def judge(self, champion: Trained | None, challenger: Trained, test: Ints) -> tuple[bool, str]:
        """Ask the loop's gate, as far as it judges answers: rows, floor, no loss, gain, calibration."""
        hangs_on = {
            "champion": champion.name if champion else None,
            "challenger": challenger.name,
            "kind": self._kind,
            "test": digest_rows(test),
            "gate": self._config.gate.model_dump(mode="json"),
        }
        promote, reason = self._files.note("gate", hangs_on, lambda: self._ask_gate(champion, challenger, test))
        return bool(promote), str(reason)

    def _ask_gate(self, champion: Trained | None, challenger: Trained, test: Ints) -> tuple[bool, str]:
        if not len(test):
            return False, "there is no test row yet"
        gold, groups = self.gold[test], self._rows["group"].iloc[test].tolist()
        ours = challenger.probabilities[test]
        theirs = champion.probabilities[test] if champion else None
        evidence = GateEvidence(
            scores=score_predictions(gold, ours, groups, resamples=self._config.gate.resamples),
            parity=Parity(1.0, 0.0),
            difference=compare_accuracy(gold, ours, theirs, groups, self._config.gate) if theirs is not None else None,
        )
        decision = decide_promotion(evidence, self._config.gate)
        return decision.promote, decision.summary

    def _check(
        self, champion: Champion, window: Ints, votes: Sequence[Vote], now: datetime
    ) -> tuple[WindowCheck, float | None]:
        test = self._rows.iloc[champion.test]
        probabilities = champion.model.probabilities
        reference = build_reference(
            test,
            probabilities[champion.test],
            self._n_tokens[champion.test],
            self._vectors[champion.test],
            self._config.labels,
        ).assign(text=test["text"].to_numpy())
        found = check(
            current=self._as_logged_window(champion, window, now),
            reference=reference,
            judged=reference,
            earlier=votes,
            rules=self._config.monitoring,
            labels=self._config.labels,
            version=str(champion.number),
            now=now,
            embed=lambda texts: self._vectors[[self._number_of[text] for text in texts]],
            describe=describer(self._config.training.base_model),
        )
        expected = float((reference["label"] == reference["predicted"]).mean()) if len(reference) else None
        return found, expected

    def _as_logged_window(self, champion: Champion, window: Ints, now: datetime) -> pd.DataFrame:
        """Return rows of the timeline as the prediction log reads them, with the labels that had come by then."""
        rows = self._rows.iloc[window].reset_index(drop=True)
        probabilities = champion.model.probabilities[window]
        labels = self._config.labels
        is_known = (rows["label"].notna() & (rows["known_at"] < now)).to_numpy(dtype=bool)
        columns: dict[str, Any] = {
            "prediction_id": rows["row_id"],
            "version": str(champion.number),
            "label": [labels[place] for place in probabilities.argmax(1)],
            "score": as_logged(probabilities.max(1)),
            "n_tokens": self._n_tokens[window],
            "truncated": self._n_tokens[window] >= self._config.training.max_tokens,
            "gold": rows["label"].where(is_known, None).astype(object),
            "gold_at": rows["known_at"].where(is_known, pd.NaT),
            "picked": rows["picked"].where(is_known, None).astype(object),
            "asked": None,
        }
        shares = {f"p_{label}": as_logged(probabilities[:, place]) for place, label in enumerate(labels)}
        return rows.assign(**columns, **shares)

    def _fit(self, rows: Ints) -> Any:
        """Return the answers of the model that these rows make to every row of the timeline, float32 [N, C]."""
        split = self._rows["split"].to_numpy(dtype=object)[rows]
        train, validation = rows[split == "train"], rows[split == "validation"]
        lacking = [label for place, label in enumerate(self._config.labels) if place not in self.gold[train]]
        if lacking:
            raise DataError(
                f"backtest: the {len(train)} training rows known at that time have no row labelled "
                f"{', '.join(lacking)}; begin later (--start), so that the first champion has rows to learn from"
            )
        self._tell(f"training on {len(train)} rows")
        if self._kind == "head":
            return _fit_head(self._vectors, self.gold, train, len(self._config.labels))
        return self._fine_tune(train, validation)

    def _fine_tune(self, train: Ints, validation: Ints) -> Any:
        from tasks.core.export import checkpoint_logits
        from tasks.core.fine_tuning import fine_tune
        from tasks.core.predictor import softmax

        if not len(validation):
            raise DataError("backtest: no validation row is known at that time; begin later (--start)")
        with tempfile.TemporaryDirectory(prefix="evertune-") as folder:
            known, watched = self._rows.iloc[train], self._rows.iloc[validation]
            tuned = fine_tune(
                known, watched, self._config.labels, self._config.training, self._base_model, Path(folder), _say_nothing
            )
        logits = checkpoint_logits(tuned.classifier, tuned.tokenizer, self._texts)
        return softmax(logits).astype(np.float32)

    def _embed_all(self) -> Any:
        from tasks.core.embedding import embed

        chunks = []
        for start in range(0, len(self._texts), CHUNK):
            texts = self._texts[start : start + CHUNK]
            self._tell(f"embedding {start + len(texts)} of {len(self._texts)} texts")
            chunks.append(
                self._files.array(
                    f"vectors/{start:08d}-{digest([self._base_model, len(texts)])}",
                    lambda texts=texts: embed(texts, self._base_model),  # type: ignore[misc]
                )
            )
        return np.concatenate(chunks)

    def _count_tokens(self) -> Ints:
        from tasks.core.classifier import load_tokenizer

        limit = self._config.training.max_tokens
        ids = load_tokenizer(self._base_model)(self._texts, truncation=True, max_length=limit)["input_ids"]
        return np.array([len(row) for row in ids], dtype=np.int64)


def _fit_head(vectors: Floats, gold: Ints, train: Ints, num_classes: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    head = LogisticRegression(C=HEAD_STRENGTH, max_iter=1000).fit(vectors[train], gold[train])
    assert len(head.classes_) == num_classes
    return head.predict_proba(vectors).astype(np.float32)


def _tell_seen(found: WindowCheck, expected: float | None) -> dict[str, Any]:
    """Return what a replay needs of a checked window, as JSON's own types."""
    measured, estimated = found.measured, found.estimated
    vote = None
    if found.verdict.word != "too few" and found.newest is not None:
        vote = [found.at.isoformat(), found.newest.isoformat(), found.fires]
    return {
        "verdict": found.verdict.word,
        "vote": vote,
        "is_new_vote": found.is_vote,
        "expected": expected,
        "measured": _accuracy(measured.accuracy, measured.low, measured.high, measured.n) if measured else None,
        "estimated": _accuracy(estimated.accuracy, estimated.low, estimated.high, estimated.n) if estimated else None,
    }


def _accuracy(value: float, low: float, high: float, n: int) -> dict[str, float]:
    return {"value": value, "low": low, "high": high, "n": n}


def _say_nothing(_progress: object) -> None:
    """Report no progress: a training is a part of a replay."""
