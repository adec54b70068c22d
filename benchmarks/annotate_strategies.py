"""What do several models' recorded answers make of each other: how accurate is a chain, a vote, small models first, and at what cost?

``BENCH_DATA=FOLDER python -m benchmarks.annotate_strategies [--json OUT]`` replays files in which several models labelled the same
texts (columns ``llm__<model>``). Nobody is asked and nothing is paid; the cost is simulated from list prices and the length of the
prompt that CORAL would send. Gold labels score the outcome and nothing else: the order of the models is that of their prices, all
thresholds and weights are the strategies' own, and the small model of ``chain`` and ``small_first`` learns from the first model's
answers alone. Without recorded log-probabilities it, and the agreement of the models, are all that says how sure an answer is.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.annotate_parts import at_least, at_most, figure
from benchmarks.dataset import Record, dataset_name, records_of
from coral_backend.annotate import small_opinions
from coral_backend.exceptions import CoralError
from coral_backend.llm.base import Embed
from coral_backend.llm.prompt import Prompt
from coral_backend.types import LabelSpace
from strategies.annotation import ANNOTATION, AnnotationStrategy, Ask, Decision, Opinion, Team
from strategies.annotation.first_look import first_look
from strategies.tasks import choose

FILES = ("toxicity_en", "policy_en", "technology_en", "banking77")
"""What is averaged."""

EXTRA = ("ddc_agnews_conf",)
"""Shown beside them: its models said how sure they are."""

MODEL, CONFIDENCE = "llm__", "conf__"

PRICES: Mapping[str, tuple[float, float]] = {
    "gemini-1.5-flash": (0.075, 0.30),
    "gemini-2.0-flash": (0.10, 0.40),
    "gpt-4o-mini": (0.15, 0.60),
    "gpt-4o-mini-2024-07-18": (0.15, 0.60),
    "deepseek-chat": (0.27, 1.10),
    "deepseek-v3": (0.27, 1.10),
    "gpt-3.5-turbo-0125": (0.50, 1.50),
    "claude-3-5-haiku-20241022": (0.80, 4.00),
    "gpt-4o-2024-08-06": (2.50, 10.00),
    "gpt-4-0613": (30.00, 60.00),
    "gpt-5-mini": (0.25, 2.00),
    "gpt-5.2": (1.75, 14.00),
    "gpt-5.2-2025-12-11": (1.75, 14.00),
    "claude-4.5-sonnet": (3.00, 15.00),
}
"""USD per million tokens, input and output: the providers' list prices of the time in which the answers were recorded (2024 and
2025), as price comparisons of that time repeat them. Models without one (they ran on their authors' own machines) and answers
under a second, longer prompt are no links."""

BYTES_PER_TOKEN = 4
"""Of English text; the same for all models, so that it hardly moves the shares of cost."""

ANSWER_TOKENS = 10
"""What ``{"label": "..."}`` takes."""

CHEAP = 3
"""How many of the cheapest models ``vote (cheapest 3)`` asks."""


@dataclass(frozen=True)
class Replay:
    """A file, read.

    Attributes
    ----------
    links : tuple of str
        The models with a price, cheapest first.
    answers, confidences : mapping
        By model, N answers (None: abstained) and what the model said of its sureness (None: nothing).
    gold : list of str
        Scores the outcome; nothing else reads it.
    tokens : float
        Of the mean prompt.
    """

    name: str
    texts: list[str]
    gold: list[str]
    labels: tuple[str, ...]
    models: tuple[str, ...]
    links: tuple[str, ...]
    answers: Mapping[str, list[str | None]]
    confidences: Mapping[str, list[float | None]]
    tokens: float

    def price(self, model: str) -> float:
        """Return USD for one answer of `model`."""
        given, said = PRICES[model]
        return (given * self.tokens + said * ANSWER_TOKENS) / 1e6

    def opinion(self, model: str, row: int) -> Opinion:
        """Return what `model` said about a text."""
        label = self.answers[model][row]
        reason = None if label else "The recorded answer names no label."
        return Opinion(label, self.confidences[model][row] if label else None, model, reason)


def read(path: Path) -> Replay:
    """Read a file of recorded answers.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    rows = [r for r in records_of(path) if r["split"] == "train" and r["llm_name"]]
    models = tuple(column.removeprefix(MODEL) for column in rows[0] if column.startswith(MODEL))
    labels = tuple(sorted({r["gold"] for r in rows} | {r[MODEL + m] for r in rows for m in models} - {""}))
    texts = [r["text"] for r in rows]
    tokens = _tokens(texts, labels)
    links = sorted(
        (m for m in models if m in PRICES), key=lambda m: PRICES[m][0] * tokens + PRICES[m][1] * ANSWER_TOKENS
    )
    return Replay(
        dataset_name(path),
        texts,
        [r["gold"] for r in rows],
        labels,
        models,
        tuple(links),
        {m: [r[MODEL + m] or None for r in rows] for m in models},
        {m: [_confidence(r, m) for r in rows] for m in models},
        tokens,
    )


def _confidence(record: Record, model: str) -> float | None:
    text = record.get(CONFIDENCE + model, "")
    return float(text) if text and 0.0 <= float(text) <= 1.0 else None


def _tokens(texts: Sequence[str], labels: tuple[str, ...]) -> float:
    """Return the mean length of the prompts that CORAL would send, in tokens."""
    space = LabelSpace("Choices", "label", "text", "text", labels)
    prompt = Prompt.build(choose(space.tag, labels), space)
    sizes = [sum(len(m["content"].encode()) for m in prompt.messages(text)) for text in texts]
    return float(np.mean(sizes)) / BYTES_PER_TOKEN


@dataclass(frozen=True)
class Outcome:
    """What a strategy made of a file."""

    labels: list[str | None]
    asked: Counter[str]
    decided: Counter[str]


def play(replay: Replay, name: str, links: Sequence[str], embeddings: Any = None) -> Outcome:
    """Run a strategy over the recorded answers, wave by wave as a round does.

    Parameters
    ----------
    links : sequence of str
        The models that may be asked, cheapest first.
    embeddings : ndarray or None
        Shape (N, D): what the small model reads; None to do without one.
    """
    strategy: AnnotationStrategy = ANNOTATION.get(name)(Team(len(links), 1, replay.labels))
    heard: list[list[Opinion]] = [[] for _ in replay.texts]
    known: list[list[Opinion]] = [[] for _ in replay.texts]
    decided: dict[int, Decision] = {}
    asked: Counter[str] = Counter()
    while len(decided) < len(heard):
        if embeddings is not None and strategy.uses_small_model and not known[0] and heard[0]:
            known = _looked(replay, [said[0].label for said in heard], embeddings)
        strategy = strategy.fit([[*k, *h] for k, h in zip(known, heard, strict=True)])
        steps = {i: strategy([*known[i], *heard[i]]) for i in range(len(heard)) if i not in decided}
        decided |= {i: step for i, step in steps.items() if isinstance(step, Decision)}
        for i, step in steps.items():
            if isinstance(step, Ask):
                heard[i].append(replay.opinion(links[step.annotator], i))
                asked[links[step.annotator]] += 1
    final = [decided[i] for i in range(len(heard))]
    return Outcome([d.label for d in final], asked, Counter(d.decided_by for d in final))


def _looked(replay: Replay, firsts: Sequence[str | None], embeddings: Any) -> list[list[Opinion]]:
    given = np.array([replay.labels.index(label) if label is not None else -1 for label in firsts], dtype=np.int64)
    probs = first_look(embeddings, given, len(replay.labels))
    return [[] for _ in firsts] if probs is None else [[o] for o in small_opinions(probs, replay.labels)]


def measure_file(replay: Replay, embed: Embed | None) -> dict[str, Any]:
    """Return accuracy and cost of every method on a file, the costs as shares of asking the last link about everything."""
    links, last = replay.links, replay.links[-1]
    embeddings = embed(replay.texts) if embed is not None else None
    methods: dict[str, Any] = {}
    for model in replay.models:
        everything = Counter({model: len(replay.texts)})
        methods[f"single {model}"] = _score(replay, replay.answers[model], everything, last)
    played = {
        "vote (all)": play(replay, "vote", links),
        "vote (cheapest 3)": play(replay, "vote", links[:CHEAP]),
        "chain": play(replay, "chain", links, embeddings),
        "chain, no small model": play(replay, "chain", links),
        "small_first": play(replay, "small_first", [links[0], last], embeddings),
    }
    for method, outcome in played.items():
        methods[method] = {
            **_score(replay, outcome.labels, outcome.asked, last),
            "asked": dict(outcome.asked.most_common()),
            "decided": dict(outcome.decided.most_common()),
        }
    shorter = play(replay, "chain", links[:-1], embeddings)
    second = links[-2]
    gain = _hits(replay, played["chain"].labels) - _hits(replay, replay.answers[last])
    return {
        "rows": len(replay.texts),
        "labels": len(replay.labels),
        "links": list(links),
        "prompt_tokens": round(replay.tokens, 1),
        "small_model": embeddings is not None,
        "best_single": max((m for m in replay.models), key=lambda m: methods[f"single {m}"]["accuracy"]),
        "last_link": last,
        "chain_minus_last": round(float(gain.mean()), 4),
        "chain_minus_last_error": round(float(gain.std() / np.sqrt(len(gain))), 4),
        "shorter_chain": {
            "last_link": second,
            "last_accuracy": methods[f"single {second}"]["accuracy"],
            **_score(replay, shorter.labels, shorter.asked, second),
        },
        "methods": methods,
    }


def _hits(replay: Replay, labels: Sequence[str | None]) -> Any:
    return np.array([label == gold for label, gold in zip(labels, replay.gold, strict=True)], dtype=float)


def _score(replay: Replay, labels: Sequence[str | None], asked: Mapping[str, int], last: str) -> dict[str, Any]:
    """Return the figures of one method; a missing label is wrong, the cost null where a model has no price."""
    n = len(replay.texts)
    priced = all(model in PRICES for model in asked)
    cost = sum(replay.price(model) * count for model, count in asked.items()) if priced else None
    return {
        "accuracy": round(float(_hits(replay, labels).mean()), 4),
        "abstained": round(sum(label is None for label in labels) / n, 4),
        "usd_per_1000": None if cost is None else round(cost / n * 1000, 4),
        "cost_of_last": None if cost is None else round(cost / (replay.price(last) * n), 4),
    }


def section(data_dir: Path, *, embed: Embed | None = None) -> dict[str, Any]:
    """Measure the files that are in `data_dir`; those missing are named.

    Parameters
    ----------
    embed : callable or None
        The frozen encoder of the small model; None to do without one.
    """
    paths = {name: data_dir / f"{name}.csv.gz" for name in (*FILES, *EXTRA)}
    found = {name: measure_file(read(path), embed) for name, path in paths.items() if path.is_file()}
    averaged = [found[name] for name in FILES if name in found]
    return {
        "prices": {model: list(pair) for model, pair in PRICES.items()},
        "missing": [name for name in FILES if name not in found],
        "files": found,
        "average": {
            method: {
                key: round(float(np.mean([one["methods"][of(one)][key] for one in averaged])), 4)
                for key in ("accuracy", "cost_of_last")
            }
            for method, of in METHODS.items()
        }
        if averaged
        else {},
        "average_shorter_chain": {
            key: round(float(np.mean([one["shorter_chain"][key] for one in averaged])), 4)
            for key in ("accuracy", "last_accuracy", "cost_of_last")
        }
        if averaged
        else {},
    }


METHODS: Mapping[str, Any] = {
    "last link": lambda one: f"single {one['last_link']}",
    "first link": lambda one: f"single {one['links'][0]}",
    "best single with a price (chosen by gold)": lambda one: max(
        (f"single {m}" for m in one["links"]), key=lambda m: one["methods"][m]["accuracy"]
    ),
    **{
        name: (lambda _, name=name: name)
        for name in ("chain", "chain, no small model", "small_first", "vote (all)", "vote (cheapest 3)")
    },
}
"""What is averaged over the files -> which method of a file it is."""


def measure(*, quick: bool = False) -> dict[str, Any]:
    """Return the figures with their targets, for ``benchmarks.annotate``; empty-handed when the files are not there."""
    folder = data_folder()
    report = section(folder, embed=None if quick else _encoder())
    if report["missing"]:
        return {"missing_files": figure(", ".join(report["missing"]), f"in {folder}", met=False)}
    figures: dict[str, Any] = {}
    for name in FILES:
        one = report["files"][name]
        chain, last = one["methods"]["chain"], one["methods"][f"single {one['last_link']}"]
        figures[f"{name} chain accuracy (last link {last['accuracy']})"] = figure(chain["accuracy"])
        figures[f"{name} chain cost, share of the last link's"] = figure(chain["cost_of_last"])
        figures[f"{name} vote accuracy"] = figure(one["methods"]["vote (all)"]["accuracy"])
    average = report["average"]
    for method, values in average.items():
        figures[f"average {method} accuracy"] = figure(values["accuracy"])
        figures[f"average {method} cost of last"] = figure(values["cost_of_last"])
    short = report["average_shorter_chain"]
    figures[f"average chain accuracy, one link shorter (last link {short['last_accuracy']})"] = figure(
        short["accuracy"]
    )
    figures["average chain cost of last, one link shorter"] = figure(short["cost_of_last"])
    figures["average chain accuracy"] = at_least(average["chain"]["accuracy"], average["last link"]["accuracy"])
    figures["average chain cost of last"] = at_most(average["chain"]["cost_of_last"], 0.5)
    return figures


def data_folder() -> Path:
    """Return where the files are: ``BENCH_DATA``, else beside this repository."""
    beside = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    return Path(os.environ.get("BENCH_DATA") or beside)


def _encoder() -> Embed:
    from coral_backend.slm.encoder import Encoder

    return Encoder.load("embedded", 128).embed


def markdown(report: Mapping[str, Any]) -> str:
    """Return one table a file, and the averages with what they were to reach."""
    lines = []
    for name, one in report["files"].items():
        lines += [
            f"### {name}: {one['rows']} texts, {one['labels']} labels, {one['prompt_tokens']:.0f} tokens a prompt",
            "",
            "| method | accuracy | no label | USD per 1,000 | cost, share of the last link's |",
            "|---|---|---|---|---|",
        ]
        for method, values in sorted(one["methods"].items(), key=lambda pair: -pair[1]["accuracy"]):
            mark = f" (last of {len(one['links'])} links)" if method == f"single {one['last_link']}" else ""
            cells = (values["accuracy"], values["abstained"], values["usd_per_1000"], values["cost_of_last"])
            shown = " | ".join("–" if cell is None else f"{cell:.4f}" for cell in cells)
            lines.append(f"| {method}{mark} | {shown} |")
        gain, error = one["chain_minus_last"], one["chain_minus_last_error"]
        lines += ["", f"chain against the last link: {gain:+.4f} ± {error:.4f} (one standard error).", ""]
    if report["average"]:
        lines += [
            "### average of the files",
            "",
            "| method | accuracy | cost, share of the last link's |",
            "|---|---|---|",
        ]
        for method, values in report["average"].items():
            lines.append(f"| {method} | {values['accuracy']:.4f} | {values['cost_of_last']:.4f} |")
        short = report["average_shorter_chain"]
        pair = f"{short['accuracy']:.4f} to {short['last_accuracy']:.4f} at {short['cost_of_last']:.4f} of the cost."
        lines += ["", f"How much hangs on the dearest model? The chain without it, against its own last link: {pair}"]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the tables, and write the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.annotate_strategies", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args(argv)
    try:
        report = section(data_folder(), embed=_encoder())
    except CoralError as error:
        print(error, file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(markdown(report))
    if report["missing"]:
        print(f"Not in {data_folder()}: {', '.join(report['missing'])}.", file=sys.stderr)
        return 1
    chain, last = report["average"]["chain"], report["average"]["last link"]
    met = chain["accuracy"] >= last["accuracy"] and chain["cost_of_last"] <= 0.5
    print(f"\nchain keeps the last link's accuracy at half its cost or less: {'met' if met else 'MISSED'}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
