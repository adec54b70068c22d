"""What is each part of the engine worth? ``python -m benchmarks.ablation FILE.csv.gz ...`` takes one part away at a time.

The views are learned once a file and seed, with the networks' training twice (with and without split and FixMatch); each variant blends what
it has of them and decides as a round decides. Gold is looked at afterwards.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from benchmarks.baselines import suspicion_of
from benchmarks.dataset import Dataset, usable
from benchmarks.figures import Figures, Outcome, figures_of, over_seeds
from coral_backend.exceptions import InputError
from coral_backend.slm.corpus import WIDTH, SLMConfig
from coral_backend.slm.encoder import Encoder
from coral_backend.slm.training import Ticker, divide, given_losses
from coral_backend.slm.views import CHEAP, Learned, Stopwatch, learn, pool
from coral_backend.types import Floats
from strategies.review.verdict import decide

Views: TypeAlias = Mapping[str, Learned]
"""``"ours"``: the paper's loop; ``"plain"``: the same number of epochs without split and FixMatch."""

Report: TypeAlias = dict[str, dict[str, Figures]]
"""File -> variant -> figures."""

SHOWN = ("auroc", "verdict_accuracy", "slm_accuracy", "found_at", "ece")


def blended(learned: Learned, networks: Sequence[Floats], names: Sequence[str], data: Dataset) -> Floats:
    """Return the log-probabilities (N, K) of networks and of the named cheap views, as the engine pools them."""
    cheap = [learned.cheap[name] for name in names]
    return pool(networks, cheap, data.task.corpus.given, named=learned.named and "names" in names)[1]


def unshifted(learned: Learned, data: Dataset) -> Floats:
    """Return the blend of everything without taking back what the LLM says too often."""
    cheap = list(learned.cheap.values())
    return pool(learned.trained.views, cheap, data.task.corpus.given, named=learned.named, shifted=False)[1]


def without(name: str) -> Callable[[Views, Dataset], Floats]:
    """Return the variant that does without one of the cheap views."""
    kept = [view for view in CHEAP if view != name]
    return lambda views, data: blended(views["ours"], views["ours"].trained.views, kept, data)


VARIANTS: dict[str, Callable[[Views, Dataset], Floats]] = {
    "all": lambda v, d: blended(v["ours"], v["ours"].trained.views, CHEAP, d),
    "without networks": lambda v, d: blended(v["ours"], [], CHEAP, d),
    "without frozen embeddings": without("frozen"),
    "without words": without("lexical"),
    "without label names": without("names"),
    "without neighbours": without("neighbours"),
    "without class shares taken back": lambda v, d: unshifted(v["ours"], d),
    "without split and FixMatch": lambda v, d: blended(v["plain"], v["plain"].trained.views, CHEAP, d),
    "last epoch only": lambda v, d: blended(v["ours"], v["ours"].trained.views[-1:], CHEAP, d),
    "networks only": lambda v, d: blended(v["ours"], v["ours"].trained.views, (), d),
    "plain networks, by self-confidence": lambda v, _: v["plain"].trained.views[-1],
}
"""Name -> log-probabilities (N, K). The last is what cleanlab ranks by, on the same folds, encoder and epochs."""


CEILING = "learned from gold (a ceiling, no method)"
CEILING_NETWORKS = "networks only, learned from gold (a ceiling, no method)"


def ceiling(data: Dataset, config: SLMConfig) -> dict[str, Figures]:
    """Return what the views would find if there were no noise to learn: trained on gold, each sample scored by what has not seen it."""
    true = replace(data.task.corpus, llm_labels=data.gold.corpus)
    task = replace(data, task=replace(data.task, corpus=true))
    encoder = Encoder.load(config.model, config.max_length)
    learned = learn(true, config, encoder, Ticker(_untold, 1), Stopwatch())
    networks = learned.trained.views
    return {
        CEILING: judge(blended(learned, networks, CHEAP, task), data, config),
        CEILING_NETWORKS: judge(blended(learned, networks, (), task), data, config),
    }


def learn_views(data: Dataset, config: SLMConfig) -> Views:
    """Learn all views of a file; the plain networks have as many epochs as the paper's loop."""
    encoder = Encoder.load(config.model, config.max_length)
    plan = config.plan(data.task.corpus.n_labelled, encoder.width)
    plain = replace(config, warmup_epochs=plan.warmup_epochs + plan.epochs, epochs=0)
    configs = {"ours": config, "plain": plain}
    return {name: learn(data.task.corpus, c, encoder, Ticker(_untold, 1), Stopwatch()) for name, c in configs.items()}


def judge(log_probs: Floats, data: Dataset, config: SLMConfig) -> Figures:
    """Decide as a round does, and score it."""
    corpus = data.task.corpus
    losses = given_losses(log_probs, corpus.llm_labels)
    plan = config.plan(corpus.n_labelled, WIDTH)  # the splitter's settings, which no encoder changes
    p_clean, _ = divide(losses, np.zeros(len(losses), dtype=bool), plan)
    found = decide(corpus.llm_labels, np.exp(log_probs), p_clean, corpus.human_labels, data.task.llm_confidence)
    order, suspicion = np.argsort(found.rank, kind="stable"), suspicion_of(found, corpus.llm_labels)
    outcome = Outcome(found.label, found.score, order, suspicion, found.slm_label)
    return figures_of(outcome, corpus.llm_labels, data.gold)


def run(
    paths: Sequence[Path],
    seeds: Sequence[int],
    rows: int | None,
    model: str,
    keep: Callable[[Report], None],
    *,
    with_ceiling: bool = False,
) -> Report:
    """Return the figures of each file and variant, means over seeds; files that cannot be used are told of and left out.

    `keep` is called with what there is after each file.
    """
    report: Report = {}
    for data in usable(paths, rows):
        found: dict[str, list[Figures]] = {
            name: [] for name in (*VARIANTS, *((CEILING, CEILING_NETWORKS) if with_ceiling else ()))
        }
        for seed in seeds:
            config = SLMConfig(model=model, seed=seed)
            views = learn_views(data, config)
            for name, variant in VARIANTS.items():
                found[name].append(judge(variant(views, data), data, config))
            for name, figures in (ceiling(data, config) if with_ceiling else {}).items():
                found[name].append(figures)
        report[data.task.name] = {name: over_seeds(runs) for name, runs in found.items()}
        keep(report)
    return report


def table(report: Report) -> str:
    """Return the mean over all files, and each file's AUROC, as Markdown."""
    head = ["variant", "AUROC", "verdicts right", "SLM right", "found in first 10 %", "ECE", *report]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name in next(iter(report.values())):
        cells = [_mean([_figure(of[name], shown) for of in report.values()]) for shown in SHOWN]
        cells += [_mean([of[name]["auroc"]]) for of in report.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _figure(figures: Figures, name: str) -> float | None:
    found: Any = figures[name]
    value: float | None = found["10"] if isinstance(found, dict) else found
    return value


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{float(np.mean(known)):.3f}" if known else "-"


def _untold(_done: int, _total: int, _detail: Mapping[str, Any]) -> None:
    """Nobody reads along."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print the table, write the figures if asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--slm", default="embedded", metavar="MODEL")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="run with seeds 0 to N - 1 (default 1)")
    parser.add_argument("--rows", type=int, metavar="N", help="a random part of each file")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument(
        "--ceiling", action="store_true", help="also train on gold, to see what the encoder can see at all"
    )
    options = parser.parse_args(argv)

    def keep(report: Report) -> None:
        if options.json is not None:
            options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")

    try:
        seeds = range(options.seeds)
        report = run(options.files, seeds, options.rows, options.slm, keep, with_ceiling=options.ceiling)
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    print(table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
