"""How well are wrong sets of labels found? ``python -m benchmarks.multilabel FILE.csv.gz ...``: composed texts, real LLM errors.

No recorded answers of an LLM with several labels a text are at hand. So tasks are composed: one to three texts of a file with one label
each are joined into one text, and its set is what the LLM said of each of them (the gold set is the union of the golds). The errors are
an LLM's own; that it erred on each part alone, and that parts have nothing to do with each other, is not like real tasks. Every text is
used once, so that no error is seen twice.

Beside the engine run: one logistic regression on TF-IDF for each label, out of fold, which doubts what it gives a low probability
(self-confidence); and cleanlab's ranking of multi-label tasks on the same probabilities, where cleanlab is installed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold

from benchmarks.dataset import Record, dataset_name, records_of
from coral_backend.exceptions import InputError
from coral_backend.slm.corpus import SLMConfig
from coral_backend.slm.sets import SetCorpus, distil_sets, micro_f1
from coral_backend.types import UNLABELED, Floats, Ints
from strategies.distillation.label_names import label_sentences
from strategies.review.sets import decide_sets

SIZES = (0.4, 0.4, 0.2)
"""Shares of tasks that are composed of one, two, three texts."""

FOLDS = 5
FIRST = 0.1
"""Share of the review queue that is looked at."""


@dataclass(frozen=True)
class Composed:
    """N composed tasks with K labels: the LLM's sets and the true ones, shape (N, K); -1 where the LLM said nothing at all."""

    texts: list[str]
    llm: Ints
    gold: Ints
    labels: tuple[str, ...]

    @property
    def answered(self) -> Ints:
        """Rows where the LLM said something."""
        return np.flatnonzero(self.llm[:, 0] != UNLABELED)


@dataclass(frozen=True)
class Found:
    """What a method says: sets (N, K) or None, a score of each answer (N, K), larger = more surely right, and of each task (N,)."""

    sets: Ints | None
    answers: Floats | None
    tasks: Floats
    slm: Ints | None = None
    flagged: Ints | None = None


def compose(records: Sequence[Record], seed: int, column: str = "llm_label") -> Composed:
    """Join the texts that an LLM was asked about into tasks with sets of labels.

    Parameters
    ----------
    column : str
        Whose labels: ``llm_label``, or a file's ``llm__<model>``.

    Raises
    ------
    InputError
        If nothing was asked, or there is no such column.
    """
    asked = [r for r in records if r["split"] == "train" and r["llm_name"] and r["gold"]]
    if not asked or column not in asked[0]:
        raise InputError(f"No row of split=train was shown to an LLM, or there is no column {column!r}.")
    labels = tuple(sorted({r[c] for r in asked for c in ("gold", column)} - {""}))
    index = {label: k for k, label in enumerate(labels)}
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(asked))
    texts, llm, gold, at = [], [], [], 0
    while at < len(order):
        group = [asked[i] for i in order[at : at + 1 + rng.choice(len(SIZES), p=SIZES)]]
        at += len(group)
        texts.append("\n".join(r["text"] for r in group))
        gold.append(_row({index[r["gold"]] for r in group}, len(labels)))
        said = {index[r[column]] for r in group if r[column]}
        llm.append(_row(said, len(labels)) if said else np.full(len(labels), UNLABELED))
    return Composed(texts, np.array(llm), np.array(gold), labels)


def _row(chosen: set[int], k: int) -> Ints:
    row = np.zeros(k, dtype=np.int64)
    row[sorted(chosen)] = 1
    return row


def ours(data: Composed, seed: int, config: SLMConfig) -> Found:
    """Run the engine: views, posterior, verdicts, order of review."""
    from dataclasses import replace

    corpus = SetCorpus(
        data.texts, data.llm, np.full_like(data.llm, UNLABELED), [label_sentences(label) for label in data.labels]
    )
    with tempfile.TemporaryDirectory() as folder:
        found = distil_sets(
            corpus, replace(config, seed=seed), progress=lambda *_: None, save_to=Path(folder) / "model"
        )
    decision = decide_sets(data.llm, found.probs, found.p_clean, corpus.human)
    yes = np.where(decision.label == 1, decision.label_score, 1.0 - decision.label_score)
    right = np.where(data.llm == 1, yes, 1.0 - yes)  # of the LLM's answers, by the posterior
    return Found(
        decision.label, right, decision.rank.astype(float), decision.slm_label, (decision.flag != "clean").astype(int)
    )


def one_vs_rest(data: Composed, seed: int) -> Found:
    """Doubt what logistic regressions on TF-IDF, one a label, give a low probability, out of fold."""
    probs = out_of_fold(data, seed)
    right = np.where(data.llm == 1, probs, 1.0 - probs)
    slm = (probs >= 0.5).astype(int)
    return Found(data.llm.clip(0), right, right.min(axis=1), slm)


def cleanlab(data: Composed, seed: int) -> Found:
    """Rank tasks by cleanlab's multi-label score (exponential moving average of the self-confidences) on the same probabilities."""
    rank = importlib.import_module("cleanlab.multilabel_classification")
    probs, rows = out_of_fold(data, seed), data.answered
    said = [np.flatnonzero(row).tolist() for row in data.llm[rows]]
    tasks = np.full(len(data.texts), -1.0)
    tasks[rows] = rank.get_label_quality_scores(labels=said, pred_probs=probs[rows])
    return Found(None, None, tasks)


def out_of_fold(data: Composed, seed: int) -> Floats:
    """Return probabilities (N, K) of one logistic regression a label; tasks without a set are scored by the last fold's."""
    features = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2).fit_transform(data.texts)
    rows, probs = data.answered, np.zeros(data.gold.shape)
    rest = np.setdiff1d(np.arange(len(data.texts)), rows)
    for train, test in KFold(FOLDS, shuffle=True, random_state=seed).split(rows):
        scored = np.concatenate([rows[test], rest])
        for k in range(len(data.labels)):
            answers = data.llm[rows[train], k]
            if answers.min() == answers.max():
                probs[scored, k] = float(answers[0])
                continue
            model = LogisticRegression(C=10.0, class_weight="balanced", max_iter=300).fit(
                features[rows[train]], answers
            )
            probs[scored, k] = model.predict_proba(features[scored])[:, 1]
    return probs


METHODS: Mapping[str, Callable[[Composed, int, SLMConfig], Found]] = {
    "ours": ours,
    "one_vs_rest": lambda data, seed, _: one_vs_rest(data, seed),
    "cleanlab": lambda data, seed, _: cleanlab(data, seed),
}


def figures(data: Composed, found: Found) -> dict[str, float | None]:
    """Score a method by gold: micro-F1 of its verdicts and of its SLM, AUROC of the LLM's wrong answers, wrong sets found first."""
    rows = data.answered
    wrong_set = (data.llm != data.gold).any(axis=1)
    order = np.argsort(found.tasks, kind="stable")
    looked = order[: max(1, round(FIRST * len(order)))]
    report: dict[str, float | None] = {
        "wrong_sets": float(wrong_set.mean()),
        "llm_f1": micro_f1(np.maximum(data.llm, 0), data.gold),
        "found_first": float(wrong_set[looked].sum() / wrong_set.sum()),
        "wrong_of_first": float(wrong_set[looked].mean()),
        "auroc_sets": float(roc_auc_score(wrong_set[rows], -found.tasks[rows])),
        "slm_f1": None if found.slm is None else micro_f1(found.slm, data.gold),
        "verdict_f1": None if found.sets is None else micro_f1(found.sets, data.gold),
        "verdict_exact": None if found.sets is None else float((found.sets == data.gold).all(axis=1).mean()),
    }
    if found.answers is not None:
        for name, said in (("yes", 1), ("no", 0)):
            kind = data.llm[rows] == said
            wrong = (data.llm != data.gold)[rows][kind]
            report[f"auroc_{name}"] = float(roc_auc_score(wrong, -found.answers[rows][kind]))
        wrong = (data.llm != data.gold)[rows]
        report["auroc_answers"] = float(roc_auc_score(wrong.ravel(), -found.answers[rows].ravel()))
    if found.flagged is not None:
        report["flagged"] = float(found.flagged.mean())
        report["wrong_among_clean"] = (
            float(wrong_set[found.flagged == 0].mean()) if (found.flagged == 0).any() else None
        )
    return report


def run(
    paths: Sequence[Path], *, seeds: Sequence[int], methods: Sequence[str], column: str, config: SLMConfig
) -> dict[str, Any]:
    """Return ``{file: {method: figures}}``, means over the seeds of composing and training."""
    report: dict[str, Any] = {}
    for path in paths:
        records, name = records_of(path), dataset_name(path)
        report[name] = {}
        for method in methods:
            runs = []
            for seed in seeds:
                data, began = compose(records, seed, column), time.perf_counter()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    found = METHODS[method](data, seed, config)
                seconds = time.perf_counter() - began
                about: dict[str, float | None] = {
                    "tasks": float(len(data.texts)),
                    "labels": float(len(data.labels)),
                    "seconds": seconds,
                }
                runs.append(about | figures(data, found))
                print(name, method, seed, _brief(runs[-1]), file=sys.stderr, flush=True)
            report[name][method] = {key: _mean([one[key] for one in runs]) for key in runs[0]}
    return report


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 4) if known else None


def _brief(figures: Mapping[str, float | None]) -> str:
    return ", ".join(f"{key} {value:.3f}" for key, value in figures.items() if value is not None)


def main(argv: Sequence[str] | None = None) -> int:
    """Run, and print the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.multilabel", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="CSV, may be gzipped; one label a text")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="compose and run with seeds 0 to N - 1")
    parser.add_argument("--methods", default=",".join(METHODS), help="default: %(default)s")
    parser.add_argument("--column", default="llm_label", help="whose labels, for example llm__deepseek-chat")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args(argv)
    methods = options.methods.split(",")
    if unknown := [name for name in methods if name not in METHODS]:
        parser.error(f"--methods: {', '.join(unknown)}; there are {', '.join(METHODS)}")
    try:
        report = run(
            options.files, seeds=range(options.seeds), methods=methods, column=options.column, config=SLMConfig()
        )
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    text = json.dumps(report, indent=2, allow_nan=False)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
