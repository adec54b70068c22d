"""How do the engine's rules fare with the labels of many LLMs? ``python -m benchmarks.labelings FILE.csv.gz ...``, minutes for a dozen files.

Several files hold the answers of a dozen LLMs to the same texts, in columns ``llm__NAME`` beside ``llm_label``. Each column is a corpus of its own: the
views that need no training (embeddings, words, label names, neighbours) learn from it, and Bayes judges its labels, with and without what is
known about an LLM's habits. Rules can be chosen on some LLMs (``--part even``) and reported on the others (``--part odd``).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from benchmarks.dataset import Dataset, Record, read_dataset, records_of
from benchmarks.figures import auroc, calibration_error, found_at, share
from coral_backend.exceptions import InputError
from coral_backend.slm.corpus import WIDTH, SLMConfig
from coral_backend.slm.encoder import EMBEDDED, Encoder
from coral_backend.slm.training import divide, given_losses
from coral_backend.slm.views import pool
from coral_backend.types import UNLABELED, Floats, Ints
from strategies.distillation.frozen import frozen_view
from strategies.distillation.label_names import label_name_view
from strategies.distillation.lexical import lexical_view
from strategies.distillation.neighbours import neighbour_view
from strategies.distillation.posterior import bayes, combine, noise_rates

WORST = 0.3
"""A column that is right less often is no annotator; nobody would review its labels."""

Row: TypeAlias = dict[str, float | None]


@dataclass(frozen=True)
class Labeling:
    """What one LLM said about the texts of one file.

    Attributes
    ----------
    labels, gold : ndarray
        Shape (N,); ``UNLABELED`` where it said nothing usable.
    """

    name: str
    labels: Ints
    gold: Ints


def labelings(data: Dataset, records: Sequence[Record]) -> Iterator[Labeling]:
    """Go through the distinct columns of a file that were asked about most of its texts and are right often enough."""
    index, gold = {label: i for i, label in enumerate(data.labels)}, data.gold.corpus
    seen: set[bytes] = set()
    for column in ("llm_label", *sorted(name for name in records[0] if name.startswith("llm__"))):
        labels = np.array([index.get(record[column], UNLABELED) for record in records], dtype=np.int64)
        answered = labels != UNLABELED
        fits = (
            answered.mean() >= 0.5
            and (labels == gold)[answered].mean() >= WORST
            and len(np.unique(labels[answered])) > 1
        )
        if fits and labels.tobytes() not in seen:
            seen.add(labels.tobytes())
            yield Labeling(column, labels, gold)


def judge(labeling: Labeling, views: Sequence[Floats]) -> Row:
    """Return what is found among one LLM's labels; gold is looked at afterwards."""
    llm, gold, nobody = labeling.labels, labeling.gold, np.full(len(labeling.labels), UNLABELED)
    _, log_probs = pool([], list(views), llm, named=True)
    probs, rows = np.exp(log_probs), np.flatnonzero(llm != UNLABELED)
    losses = given_losses(log_probs, llm)
    p_clean, _ = divide(losses, np.zeros(len(llm), dtype=bool), SLMConfig().plan(len(rows), WIDTH))
    posterior, verdict = combine(llm, None, probs, p_clean, nobody)
    even = bayes(llm, probs, noise_rates(llm, None, probs, nobody))
    score, wrong = posterior[np.arange(len(llm)), verdict], (llm != gold)[rows]
    return {
        "auroc": auroc(1.0 - posterior[rows, llm[rows]], wrong),
        "auroc_even": auroc(1.0 - even[rows, llm[rows]], wrong),
        "gain": 100.0 * float((verdict == gold).mean() - (llm == gold).mean()),
        "found_at_10": found_at(verdict != gold, np.argsort(score, kind="stable"), 10),
        "ece": calibration_error(score, verdict == gold),
        "llm": share(llm == gold),
    }


def run_file(path: Path, encoder: Encoder, part: slice, told: Callable[[str], None]) -> list[Row]:
    """Judge every labeling of `part` of a file."""
    data, records = read_dataset(path), [r for r in records_of(path) if r["split"] == "train" and r["llm_name"]]
    texts, n_classes = data.task.corpus.texts, len(data.labels)
    embeddings = encoder.embed(texts)
    names, _ = label_name_view(embeddings, [encoder.embed(sentences) for sentences in data.task.corpus.label_sentences])
    rows = []
    for labeling in list(labelings(data, records))[part]:
        frozen, _ = frozen_view(embeddings, labeling.labels, n_classes)
        lexical, _ = lexical_view(texts, labeling.labels, n_classes, rng=np.random.default_rng([0, 1]))
        near, _ = neighbour_view(embeddings, labeling.labels, n_classes, rng=np.random.default_rng([0, 2]))
        rows.append(judge(labeling, (frozen, lexical, names, near)))
        told(
            f"{data.task.name}, {labeling.name}: "
            + ", ".join(f"{k} {v:.3f}" for k, v in rows[-1].items() if v is not None)
        )
    return rows


COLUMNS = ("auroc", "auroc_even", "gain", "found_at_10", "ece", "llm")
HEAD = "| file | LLMs | AUROC | errors spread evenly | verdicts, points over the LLM | the worst of them | found in first 10 % | ECE | LLM right |"


def table(found: dict[str, list[Row]]) -> str:
    """Return the means of each file, and the mean over files, as Markdown."""
    lines = [HEAD, "|---" * 9 + "|"]
    means: list[list[float]] = []
    for name, rows in found.items():
        mean = [float(np.mean([row[c] for row in rows if row[c] is not None])) for c in COLUMNS]
        means.append([*mean[:3], min(float(row["gain"] or 0.0) for row in rows), *mean[3:]])
        lines.append(_line(name, len(rows), means[-1]))
    total = [float(np.mean(column)) for column in zip(*means, strict=True)]
    total[3] = min(mean[3] for mean in means)
    return "\n".join([*lines, _line("mean over files", sum(map(len, found.values())), total)])


def _line(name: str, count: int, values: Sequence[float]) -> str:
    auc, even, gain, worst, found, ece, llm = values
    return f"| {name} | {count} | {auc:.3f} | {even:.3f} | {gain:+.1f} | {worst:+.1f} | {found:.3f} | {ece:.3f} | {llm:.3f} |"


PARTS = {"all": slice(None), "even": slice(0, None, 2), "odd": slice(1, None, 2)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print the table; files without LLM labels are told of and left out."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.labelings", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--slm", default=EMBEDDED, metavar="MODEL")
    parser.add_argument("--part", choices=list(PARTS), default="all", help="every second LLM of a file, or the others")
    options = parser.parse_args(argv)
    encoder, found = Encoder.load(options.slm, 128), {}
    for path in options.files:
        try:
            rows = run_file(path, encoder, PARTS[options.part], lambda line: print(line, file=sys.stderr, flush=True))
        except InputError as error:
            print(f"{path.name}: left out. {error}", file=sys.stderr)
            continue
        if rows:
            found[path.name.removesuffix(".csv.gz")] = rows
    if not found:
        print("No file can be used.", file=sys.stderr)
        return 1
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
