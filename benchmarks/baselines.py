"""What do others find on the same corpus? Our engine and six ways to do without it, on one encoder and the same folds.

Every method takes a ``Workbench`` and a seed and returns an ``Outcome``. None of them sees gold labels: a ``Workbench`` has none.
What baselines share (tokens, hidden states of the frozen layers, embeddings, cross-validated networks) is computed once; its
seconds are counted for each method that uses it.
"""

from __future__ import annotations

import importlib
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from benchmarks.dataset import Task
from benchmarks.figures import Outcome
from coral_backend.slm.corpus import WIDTH
from coral_backend.slm.encoder import Encoder, Halves
from coral_backend.slm.engine import Model, SLMConfig, distil
from coral_backend.slm.learnable import score
from coral_backend.slm.network import TextInputs, TextNetwork
from coral_backend.slm.training import batches, make_folds
from coral_backend.slm.views import frozen_layers
from coral_backend.types import UNLABELED, Floats, Ints, Progress
from strategies.demonstration.distilled_selection import distilled_selection
from strategies.review.flags import CLEAN
from strategies.review.verdict import Decision, decide

EPOCHS = 3
"""Epochs of plain fine-tuning, as in the figures that today's best is known by.

This and the next constants are the baselines' own: tuning the engine must not move the bar."""

FROZEN_SHARE = 0.34
"""Share of the encoder's layers that plain fine-tuning leaves as they are; their hidden states are computed once."""

BATCH, LEARNING_RATE, HEAD_LEARNING_RATE, WEIGHT_DECAY, DROPOUT, RISE = 32, 1e-4, 1e-3, 0.01, 0.1, 0.1
"""Of plain fine-tuning with AdamW; the rate rises over ``RISE`` of the steps, then falls to 0. The encoder's is for MiniLM's width."""

DEMONSTRATIONS = 100
"""How many demonstrations are selected to see how pure they are."""


class Stopwatch:
    """Seconds of each stage: ``lap`` ends one."""

    def __init__(self, **seconds: float) -> None:
        self.seconds = dict(seconds)
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Add the time since the last lap to `stage`."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now


class Workbench:
    """A task, and what the baselines share of it, made when it is first asked for.

    Parameters
    ----------
    task : Task
        Without gold.
    config : SLMConfig
        Its encoder, rates and folds serve the baselines too; the seed is set for each run.
    progress : callable
        Told how far the engine is.
    """

    def __init__(self, task: Task, config: SLMConfig, progress: Progress) -> None:
        self.task, self.config, self.progress = task, config, progress
        self.corpus, self.llm = task.corpus, task.corpus.llm_labels
        self._crossval: dict[int, tuple[Floats, list[TextNetwork], dict[str, float]]] = {}

    @property
    def labelled(self) -> Ints:
        """Positions that the LLM labelled."""
        return np.flatnonzero(self.llm != UNLABELED)

    def folds(self, seed: int) -> Ints:
        """Return the engine's folds, shape (N,)."""
        n_folds = self.config.plan(len(self.labelled), self.encoder.width).n_folds
        return make_folds(self.corpus.given, n_folds, np.random.default_rng(seed))

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder of the engine."""
        return Encoder.load(self.config.model, self.config.max_length)

    @cached_property
    def halves(self) -> Halves:
        """The encoder, cut into what is shared and what is trained."""
        return self.encoder.halves(frozen_layers(self.encoder, FROZEN_SHARE))

    @cached_property
    def inputs(self) -> tuple[TextInputs, float]:
        """The texts as networks take them, and the seconds it took."""
        began = time.perf_counter()
        return TextInputs(self.encoder, self.halves, self.corpus.texts), time.perf_counter() - began

    @cached_property
    def test_inputs(self) -> TextInputs:
        """The test texts as networks take them."""
        return TextInputs(self.encoder, self.halves, self.task.test_texts)

    @cached_property
    def embeddings(self) -> tuple[Floats, float]:
        """Sentence embeddings of the corpus, shape (N, D), and the seconds it took."""
        began = time.perf_counter()
        return self.encoder.embed(self.corpus.texts), time.perf_counter() - began

    @cached_property
    def test_embeddings(self) -> Floats:
        """Sentence embeddings of the test texts, shape (M, D)."""
        return self.encoder.embed(self.task.test_texts)

    def cross_validated(self, seed: int) -> tuple[Floats, list[TextNetwork], dict[str, float]]:
        """Return probabilities (N, K) that no network has seen the label of, the fold's networks, and seconds by stage."""
        if seed not in self._crossval:
            self._crossval[seed] = self._cross_validate(seed)
        return self._crossval[seed]

    def _cross_validate(self, seed: int) -> tuple[Floats, list[TextNetwork], dict[str, float]]:
        folds, (inputs, embedding) = self.folds(seed), self.inputs
        watch = Stopwatch(embedding=embedding)
        probs, networks = np.zeros((len(folds), self.corpus.n_classes)), []
        for fold in np.unique(folds).tolist():
            rows = self.labelled[folds[self.labelled] != fold]
            networks.append(
                fine_tune(inputs, self.halves, rows, self.llm[rows], self.corpus.n_classes, seed=seed + fold)
            )
            watch.lap("training")
            held_out = np.flatnonzero(folds == fold)
            probs[held_out] = np.exp(score(networks[-1], inputs, held_out.tolist())[0])
            watch.lap("scoring")
        return probs, networks, watch.seconds

    def say(self, networks: Sequence[TextNetwork]) -> Ints | None:
        """Return what networks together say about the test texts, shape (M,); None when there are none."""
        if not self.task.test_texts:
            return None
        rows = range(len(self.test_inputs))
        mean = np.mean([score(network, self.test_inputs, rows)[0] for network in networks], axis=0)
        return np.asarray(mean.argmax(axis=1))


Method: TypeAlias = Callable[[Workbench, int], Outcome]


def fine_tune(
    inputs: TextInputs, halves: Halves, rows: Ints, labels: Ints, n_classes: int, *, seed: int
) -> TextNetwork:
    """Train one network plainly on `rows` (R,) of the inputs and their `labels` (R,): cross-entropy and nothing else."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = TextNetwork(halves, n_classes, DROPOUT).to(inputs.encoder.device)
    size = max(8, min(BATCH, len(rows) // 50))
    optimizer = torch.optim.AdamW(_groups(network, halves.width), weight_decay=WEIGHT_DECAY)
    rate = rise_and_fall(EPOCHS * math.ceil(len(rows) / size))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    target = np.full(len(inputs), UNLABELED)
    target[rows] = labels
    network.train()
    for _ in range(EPOCHS):
        for batch in batches(rows, inputs.lengths, size, rng):
            hidden, mask = inputs.batch(batch.tolist())
            with inputs.encoder.autocast():
                logits, _ = network(hidden, mask)
            wanted = torch.as_tensor(target[batch], device=logits.device)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(nn.functional.cross_entropy(logits, wanted))
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    optimizer.zero_grad(set_to_none=True)  # a kept network must not keep its gradients
    return network.eval()


def _groups(network: TextNetwork, width: int) -> list[dict[str, Any]]:
    """Return the parameters with their rates: wider encoders learn more slowly, the new head faster."""
    return [
        {"params": list(network.upper.parameters()), "lr": LEARNING_RATE * min(1.0, WIDTH / width)},
        {"params": list(network.head.parameters()), "lr": HEAD_LEARNING_RATE},
    ]


def rise_and_fall(n_steps: int) -> Callable[[int], float]:
    """Return the usual schedule over `n_steps`: a linear rise, then a linear fall to 0."""
    rise = max(1.0, RISE * n_steps)
    return lambda step: min((step + 1) / rise, max(0.0, (n_steps - step) / max(1.0, n_steps - rise)))


def judged(llm: Ints, probs: Floats, **more: Any) -> Outcome:
    """Return what a classifier's probabilities (N, K) make of the LLM's labels.

    The verdict is the LLM's label, filled with the classifier's where the LLM abstained; people look first where the
    classifier gives the verdict the least probability.
    """
    slm_label = probs.argmax(axis=1)
    verdict = np.where(llm != UNLABELED, llm, slm_label)
    confidence = probs[np.arange(len(llm)), verdict]
    found: dict[str, Any] = {"order": np.argsort(confidence, kind="stable"), "slm_label": slm_label}
    return Outcome(verdict, confidence, suspicion=1.0 - confidence, **(found | more))


def ours(bench: Workbench, seed: int) -> Outcome:
    """Run the engine, decide as a round decides, and select demonstrations as the next round would."""
    corpus, config = bench.corpus, replace(bench.config, seed=seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        watch = Stopwatch()
        found = distil(corpus, config, progress=bench.progress, save_to=folder)
        watch.lap("all")
        decision = decide(
            bench.llm, found.probs, found.p_clean, corpus.human_labels, bench.task.llm_confidence,
            p_threshold=config.p_threshold,
        )  # fmt: skip
        watch.lap("deciding")
        test = Model.load(folder).predict(bench.task.test_texts)[0] if bench.task.test_texts else None
    clean = decision.flag == CLEAN
    demonstrations = distilled_selection(
        texts=corpus.texts,
        labels=decision.label,
        eligible=clean,
        features=found.features,
        n=DEMONSTRATIONS,
        n_classes=corpus.n_classes,
        rng=np.random.default_rng(seed),
    )
    loading = max(0.0, watch.seconds.pop("all") - sum(found.seconds.values()))
    return Outcome(
        verdict=decision.label,
        confidence=decision.score,
        order=np.argsort(decision.rank, kind="stable"),
        suspicion=suspicion_of(decision, bench.llm),
        slm_label=decision.slm_label,
        test_label=None if test is None else test.argmax(axis=1),
        clean=clean,
        demonstrations=demonstrations,
        seconds={**found.seconds, **watch.seconds, "other": loading},
        notes=found.notes,
    )


def suspicion_of(decision: Decision, llm: Ints) -> Floats:
    """Return how likely the LLM's label is wrong, shape (N,): the doubt in a verdict that is the LLM's, else its certainty."""
    return np.where(decision.label == llm, 1.0 - decision.score, decision.score)


def as_they_are(bench: Workbench, _seed: int) -> Outcome:
    """Take the LLM's labels as they are."""
    return Outcome(bench.llm)


def plain(bench: Workbench, seed: int) -> Outcome:
    """Fine-tune on all labels and believe the confidence in the very labels that were learned."""
    inputs, embedding = bench.inputs
    watch, rows = Stopwatch(embedding=embedding), bench.labelled
    network = fine_tune(inputs, bench.halves, rows, bench.llm[rows], bench.corpus.n_classes, seed=seed)
    watch.lap("training")
    probs = np.exp(score(network, inputs, range(len(inputs)))[0])
    watch.lap("scoring")
    return judged(bench.llm, probs, test_label=bench.say([network]), seconds=watch.seconds)


def crossval(bench: Workbench, seed: int) -> Outcome:
    """Fine-tune one network a fold; each sample is judged by the network that has not seen it."""
    probs, networks, seconds = bench.cross_validated(seed)
    return judged(bench.llm, probs, test_label=bench.say(networks), seconds=seconds)


def cleanlab(bench: Workbench, seed: int) -> Outcome:
    """Let cleanlab find label issues by the probabilities of ``crossval``.

    The verdict stays the LLM's, filled where it abstained: cleanlab finds labels to look at, and on real LLM labels putting the
    classifier's in their place loses many right ones. The queue has the issues first, then the rest, both by self-confidence,
    which also is the ranking that AUROC and average precision score. What raises no issue counts as clean.

    Raises
    ------
    ModuleNotFoundError
        If cleanlab is not installed; it is a part of the extra ``bench``.

    References
    ----------
    Northcutt, Jiang, Chuang: Confident Learning, JAIR 2021.
    """
    finder, ranker = importlib.import_module("cleanlab.filter"), importlib.import_module("cleanlab.rank")
    probs, _, seconds = bench.cross_validated(seed)
    watch = Stopwatch(**seconds)
    rows, issue = bench.labelled, np.zeros(len(bench.llm), dtype=bool)
    filled = judged(bench.llm, probs)
    quality = np.max(probs, axis=1)
    quality[rows] = ranker.get_label_quality_scores(bench.llm[rows], probs[rows], method="self_confidence")
    issue[rows] = finder.find_label_issues(bench.llm[rows], probs[rows], n_jobs=1)
    watch.lap("cleanlab")
    return Outcome(
        verdict=filled.verdict,
        confidence=quality,
        order=np.lexsort((quality, ~issue)),
        suspicion=1.0 - quality,
        clean=~issue & (bench.llm != UNLABELED),
        seconds=watch.seconds,
    )


def frozen(bench: Workbench, seed: int) -> Outcome:
    """Do not train the encoder: logistic regression on its embeddings, cross-validated."""
    features, embedding = bench.embeddings
    folds, watch = bench.folds(seed), Stopwatch(embedding=embedding)
    probs = np.zeros((len(folds), bench.corpus.n_classes))
    for fold in np.unique(folds):
        rows, held_out = bench.labelled[folds[bench.labelled] != fold], np.flatnonzero(folds == fold)
        (probs[held_out],) = regress(features[rows], bench.llm[rows], [features[held_out]], bench.corpus.n_classes)
    watch.lap("training")
    test = None
    if bench.task.test_texts:
        labelled = bench.labelled
        (found,) = regress(features[labelled], bench.llm[labelled], [bench.test_embeddings], bench.corpus.n_classes)
        test = found.argmax(axis=1)
    return judged(bench.llm, probs, test_label=test, seconds=watch.seconds)


def regress(features: Floats, labels: Ints, parts: Sequence[Floats], n_classes: int) -> list[Floats]:
    """Fit a logistic regression and return the probabilities (P, K) of each of the `parts`; classes never seen get 0."""
    seen = np.unique(labels)
    if len(seen) == 1:
        return [np.tile(np.eye(n_classes)[seen[0]], (len(part), 1)) for part in parts]
    model = LogisticRegression(max_iter=1000).fit(features, labels)
    found: list[Floats] = []
    for part in parts:
        probs = np.zeros((len(part), n_classes))
        probs[:, seen] = model.predict_proba(part)
        found.append(probs)
    return found


def random_queue(bench: Workbench, seed: int) -> Outcome:
    """Take the LLM's labels, and let people look at them in random order."""
    order = np.random.default_rng([seed, 2]).permutation(len(bench.llm))
    place = np.empty(len(order))
    place[order] = np.arange(len(order))
    return Outcome(bench.llm, order=order, suspicion=-place)


METHODS: dict[str, Method] = {
    "ours": ours,
    "llm": as_they_are,
    "plain": plain,
    "crossval": crossval,
    "cleanlab": cleanlab,
    "frozen": frozen,
    "random": random_queue,
}
"""In the order they run: ours first, before anything shared lies in memory."""
