"""How good are the spans that come out, and are the wrong ones found? One command, one table, one JSON.

``python -m benchmarks.entities ner_biodiv.csv.gz wnut17_gold.csv.gz --out entities.json``

Files are CSV (gzipped or not) with JSON lists of tokens in ``text`` and of BIO tags in ``gold``; columns ``llm_label`` and
``llm__<model>`` are answers of real LLMs. A file without any gets simulated ones, seeded, and says so: of a seeded choice of gold
spans a third each is dropped, moved by a token at one end, or given another type, and as many as were dropped are invented.

The gold is never seen by anything but the figures: the SLM learns from the LLM's spans alone, every one is scored out of sample, and
no person has corrected anything. A span counts as right only if both ends and the type are.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coral_backend.labels import Span
from coral_backend.slm.corpus import SLMConfig
from coral_backend.slm.span_engine import Seen, SpanCorpus, distil_spans
from strategies.review.spans import Candidates, decide_spans

REVIEWED = 100
"""Spans that people look at, the most doubtful first."""

KINDS = ("dropped", "moved", "other type")


@dataclass(frozen=True)
class File:
    """A corpus with its gold and what each LLM said about it."""

    name: str
    texts: list[str]
    gold: list[tuple[Span, ...]]
    llms: dict[str, list[tuple[Span, ...]]]
    simulated: bool


@dataclass(frozen=True)
class Result:
    """What came out for one LLM on one file; P, R, F1 are of exact spans.

    Attributes
    ----------
    auroc, average_precision : float
        Of the doubt in the LLM's spans against whether they are wrong.
    wrong_found : float
        Wrong spans among the `REVIEWED` most doubtful, missing ones included; `wrong_random` is what chance would find among
        the LLM's spans.
    """

    file: str
    llm: str
    texts: int
    spans: int
    llm_scores: tuple[float, float, float]
    slm_scores: tuple[float, float, float]
    verdict_scores: tuple[float, float, float]
    auroc: float
    average_precision: float
    wrong_share: float
    wrong_found: float
    wrong_random: float
    seconds: float


def read(path: Path, *, noise: float, seed: int, limit: int) -> File:
    """Return the training rows of a file, the first `limit` of them, with simulated answers where it has no real ones."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    lines = io.StringIO(content.decode("utf-8"), newline="")
    rows = [row for row in csv.DictReader(lines) if row.get("split", "train") == "train"][:limit]
    parsed = [_parsed(json.loads(row["text"])) for row in rows]
    texts = [text for text, _ in parsed]
    gold = [tuple(_spans(json.loads(row["gold"]), places)) for row, (_, places) in zip(rows, parsed, strict=True)]
    names = [name for name in rows[0] if name.startswith("llm__") and any(row[name] for row in rows)]
    llms = {
        name.removeprefix("llm__"): [
            tuple(_spans(json.loads(row[name] or "[]"), places)) for row, (_, places) in zip(rows, parsed, strict=True)
        ]
        for name in names
    }
    name = path.name.split(".")[0]
    if llms:
        return File(name, texts, gold, llms, simulated=False)
    noisy = simulated(gold, [places for _, places in parsed], noise, np.random.default_rng(seed))
    return File(name, texts, gold, {f"simulated {noise:.0%}": noisy}, simulated=True)


def simulated(
    gold: Sequence[tuple[Span, ...]], places: Sequence[list[tuple[int, int]]], noise: float, rng: np.random.Generator
) -> list[tuple[Span, ...]]:
    """Return gold spans of which a share of `noise` is wrong, in equal parts dropped, moved and of another type, and some invented."""
    labels = sorted({span.label for spans in gold for span in spans})
    found = []
    for spans, tokens in zip(gold, places, strict=True):
        said: list[Span] = []
        for span in spans:
            kind = KINDS[int(rng.integers(3))] if rng.random() < noise else ""
            if kind == "moved":
                said.append(_moved(span, tokens, rng))
            elif kind == "other type":
                said.append(span._replace(label=str(rng.choice([x for x in labels if x != span.label]))))
            elif not kind:
                said.append(span)
            elif tokens:
                place = tokens[int(rng.integers(len(tokens)))]
                said.append(Span(*place, str(rng.choice(labels))))
        found.append(tuple(sorted(set(said))))
    return found


def run(file: File, llm: str, config: SLMConfig) -> Result:
    """Distil one LLM's spans and compare what comes out with the gold."""
    began = time.perf_counter()
    said, gold = file.llms[llm], [set(spans) for spans in file.gold]
    labels = tuple(sorted({span.label for spans in (*file.gold, *said) for span in spans}))
    corpus = SpanCorpus(file.texts, said, [None] * len(said), labels)
    with tempfile.TemporaryDirectory() as folder:
        distilled = distil_spans(corpus, config, progress=lambda *_: None, save_to=Path(folder) / "model")
    seen = distilled.seen
    losses = np.array([one.loss for one in seen])
    p_clean = np.ones(len(seen)) if distilled.split is None else distilled.split.posterior(losses)
    found = candidates(seen, said, p_clean, labels)
    decision = decide_spans(found)
    verdicts: list[set[Span]] = [set() for _ in said]
    slm: list[set[Span]] = [set() for _ in said]
    for i, one in enumerate(seen):
        if decision.kept[i]:
            verdicts[one.row].add(one.span)
        if one.decoded:
            slm[one.row].add(one.span)
    wrong = np.array([(one.span in gold[one.row]) != bool(s) for one, s in zip(seen, found.said, strict=True)])
    doubt = np.where(found.said, 1.0 - decision.p_right, decision.p_right)
    marked = found.said
    queue = np.argsort(-doubt, kind="stable")[:REVIEWED]
    from sklearn.metrics import average_precision_score, roc_auc_score

    return Result(
        file=file.name,
        llm=llm,
        texts=len(said),
        spans=int(sum(map(len, said))),
        llm_scores=scores(map(set, said), gold),
        slm_scores=scores(slm, gold),
        verdict_scores=scores(verdicts, gold),
        auroc=float(roc_auc_score(wrong[marked], doubt[marked])),
        average_precision=float(average_precision_score(wrong[marked], doubt[marked])),
        wrong_share=float(wrong[marked].mean()),
        wrong_found=float(wrong[queue].sum()) * REVIEWED / len(queue),
        wrong_random=float(wrong[marked].mean()) * REVIEWED,
        seconds=round(time.perf_counter() - began, 1),
    )


def candidates(
    seen: Sequence[Seen], said: Sequence[Sequence[Span]], p_clean: np.ndarray[Any, Any], labels: Sequence[str]
) -> Candidates:
    """Return what was seen as candidates that nobody has checked."""
    marked = np.array([one.span in said[one.row] for one in seen], dtype=bool)
    none = np.zeros(len(seen), dtype=bool)
    return Candidates(
        task=np.array([one.row for one in seen], dtype=np.int64),
        start=np.array([one.span.start for one in seen], dtype=np.int64),
        end=np.array([one.span.end for one in seen], dtype=np.int64),
        kind=np.array([labels.index(one.span.label) for one in seen], dtype=np.int64),
        p=np.array([one.p for one in seen], dtype=float),
        said=marked,
        asked=~none,
        p_clean=np.where(marked, p_clean, np.nan),
        checked=none,
        right=none,
    )


def scores(found: Iterable[set[Span]], gold: Sequence[set[Span]]) -> tuple[float, float, float]:
    """Return precision, recall and F1 of exact spans."""
    sets = list(found)
    both = sum(len(a & b) for a, b in zip(sets, gold, strict=True))
    precision, recall = both / max(1, sum(map(len, sets))), both / max(1, sum(map(len, gold)))
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-12)


def table(results: Sequence[Result]) -> str:
    """Return the results as a Markdown table."""
    lines = [
        "| file | LLM | spans | LLM P / R / F1 | SLM | verdicts | AUROC | AP (wrong) | wrong of 100 most doubtful | of 100 at random |",
        "|---|---|--:|---|---|---|--:|--:|--:|--:|",
    ]
    for one in results:
        three = [" / ".join(f"{100 * v:.1f}" for v in s) for s in (one.llm_scores, one.slm_scores, one.verdict_scores)]
        facts = f"{one.auroc:.3f} | {one.average_precision:.3f} ({one.wrong_share:.3f}) | {one.wrong_found:.0f} | {one.wrong_random:.0f}"
        lines.append(f"| {one.file} | {one.llm} | {one.spans} | {' | '.join(three)} | {facts} |")
    return "\n".join(lines)


def _parsed(tokens: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Return tokens with blanks between them, and where each stands."""
    places, at = [], 0
    for token in tokens:
        places.append((at, at + len(token)))
        at += len(token) + 1
    return " ".join(tokens), places


def _spans(tags: Sequence[str], places: Sequence[tuple[int, int]]) -> Iterable[Span]:
    """Yield the spans of BIO tags; an I without its B begins one."""
    current: tuple[int, int, str] | None = None
    for tag, (start, end) in zip(tags, places, strict=False):
        kind = tag[2:] if tag != "O" else ""
        if current is not None and kind == current[2] and tag.startswith("I"):
            current = (current[0], end, kind)
            continue
        if current is not None:
            yield Span(*current)
        current = (start, end, kind) if kind else None
    if current is not None:
        yield Span(*current)


def _moved(span: Span, tokens: Sequence[tuple[int, int]], rng: np.random.Generator) -> Span:
    """Return a span one token longer or shorter at one end; of a span at the ends of its text that cannot be moved, the span."""
    first = next(i for i, (start, _) in enumerate(tokens) if start == span.start)
    last = next(i for i, (_, end) in enumerate(tokens) if end == span.end)
    choices = [(first - 1, last), (first, last + 1), (first + 1, last), (first, last - 1)]
    allowed = [(a, b) for a, b in choices if 0 <= a <= b < len(tokens)]
    if not allowed:
        return span
    first, last = allowed[int(rng.integers(len(allowed)))]
    return Span(tokens[first][0], tokens[last][1], span.label)


def main() -> None:
    """Read the command line, run, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument(
        "--llm", action="append", default=[], help="only LLMs whose name contains this; may be repeated"
    )
    parser.add_argument("--limit", type=int, default=1_000_000, help="rows of a file that are used, from its beginning")
    parser.add_argument("--noise", type=float, default=0.3, help="share of simulated spans that are wrong")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=SLMConfig.epochs)
    parser.add_argument("--out", type=Path, help="where to write the results as JSON")
    given = parser.parse_args()
    results: list[Result] = []
    for path in given.files:
        file = read(path, noise=given.noise, seed=given.seed, limit=given.limit)
        for llm in file.llms:
            if not given.llm or any(part in llm for part in given.llm):
                results.append(run(file, llm, SLMConfig(seed=given.seed, epochs=given.epochs)))
                print(table(results[-1:]).splitlines()[-1], f"{results[-1].seconds:.0f} s", flush=True)
                if given.out:
                    given.out.write_text(json.dumps([asdict(one) for one in results], indent=1))
    print(table(results))


if __name__ == "__main__":
    main()
