"""Does the benchmark run every method on what it may see, and on nothing else?"""

from __future__ import annotations

import csv
import gzip
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import quality
from benchmarks.baselines import METHODS, Workbench, judged, regress
from benchmarks.dataset import COLUMNS, Dataset, Task, read_dataset
from benchmarks.figures import METRICS, Outcome
from benchmarks.memory import CLEAR_REFS, peak_memory
from benchmarks.quality import main, run_file
from benchmarks.report import markdown
from coral_backend.exceptions import InputError
from coral_backend.slm import engine
from coral_backend.slm.engine import SLMConfig
from coral_backend.slm.training import make_folds
from tests.slm.tiny import make_encoder, quiet, tiny_config

GOOD, BAD = ("good", "fine", "great"), ("bad", "poor", "awful")
HAS_CLEANLAB = importlib.util.find_spec("cleanlab") is not None


def write_file(path: Path, gold: Sequence[str], *, extra: Sequence[dict[str, str]] = (), n_test: int = 6) -> Path:
    """Write a corpus of reviews, every seventh label wrong and every eleventh missing, and some test rows."""
    rows = []
    for i, truth in enumerate(gold):
        said = "good" if i % 2 else "bad"
        words = GOOD if i % 2 else BAD
        label = "" if i % 11 == 5 else {"good": "bad", "bad": "good"}[said] if i % 7 == 3 else said
        rows.append(
            dict(zip(COLUMNS, (str(i), f"the {words[i % 3]} film {i}", truth, label, "gpt", "train"), strict=True))
        )
    test = [(f"t{i}", f"{GOOD[0]} plot {i}", "good", "", "", "test") for i in range(n_test)]
    rows += [dict(zip(COLUMNS, row, strict=True)) for row in test]
    rows += extra
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(key for row in rows for key in row)), restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def truth(n: int = 44) -> list[str]:
    return ["good" if i % 2 else "bad" for i in range(n)]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> SLMConfig:
    return tiny_config(make_encoder(tmp_path_factory.mktemp("encoder")))


def outcomes(path: Path, config: SLMConfig, methods: Sequence[str]) -> dict[str, Outcome]:
    bench = Workbench(read_dataset(path).task, config, quiet)
    return {name: METHODS[name](bench, 0) for name in methods}


def test_gold_changes_nothing_but_the_score(tmp_path: Path, config: SLMConfig) -> None:
    """The same corpus with gold in another order: every method says exactly the same, and is scored otherwise."""
    methods = [name for name in METHODS if name != "cleanlab" or HAS_CLEANLAB]
    shuffled = np.random.default_rng(0).permutation(truth()).tolist()
    first = outcomes(write_file(tmp_path / "a.csv.gz", truth()), config, methods)
    second = outcomes(write_file(tmp_path / "b.csv.gz", shuffled), config, methods)
    for name in methods:
        for part in (f.name for f in fields(Outcome) if f.name != "seconds"):
            np.testing.assert_array_equal(getattr(first[name], part), getattr(second[name], part), err_msg=name)
    golds = [read_dataset(tmp_path / name).gold.corpus for name in ("a.csv.gz", "b.csv.gz")]
    assert (golds[0] != golds[1]).any()


def test_what_methods_see_has_no_place_for_gold() -> None:
    assert {f.name for f in fields(Task)} == {"name", "corpus", "llm_confidence", "test_texts"}
    labels = {"llm_labels", "human_labels", "n_classes", "label_sentences"}
    assert {f.name for f in fields(engine.Corpus)} == {"texts", *labels, "family", "columns"}


def test_nobody_has_labelled_the_corpus_that_the_engine_gets(
    tmp_path: Path, config: SLMConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[engine.Corpus] = []

    def spy(corpus: engine.Corpus, *args: Any, **options: Any) -> engine.Distilled:
        seen.append(corpus)
        return engine.distil(corpus, *args, **options)

    monkeypatch.setattr("benchmarks.baselines.distil", spy)
    path = write_file(tmp_path / "a.csv.gz", truth())
    outcomes(path, config, ["ours"])
    (corpus,) = seen
    assert (corpus.human_labels == -1).all()
    assert len(corpus.texts) == 44
    assert (corpus.llm_labels == -1).sum() == 4


def test_the_folds_are_the_engines(tmp_path: Path, config: SLMConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def spy(*args: Any) -> Any:
        made.append(make_folds(*args))
        return made[-1]

    monkeypatch.setattr("coral_backend.slm.views.make_folds", spy)
    bench = Workbench(read_dataset(write_file(tmp_path / "a.csv.gz", truth())).task, config, quiet)
    METHODS["ours"](bench, 3)
    np.testing.assert_array_equal(made[0], bench.folds(3))


def test_the_report_has_the_agreed_shape(tmp_path: Path, config: SLMConfig) -> None:
    path, out = write_file(tmp_path / "tiny.csv.gz", truth()), tmp_path / "out.json"
    table = tmp_path / "out.md"
    options = ["--slm", config.model, "--seeds", "2", "--methods", "llm,frozen,random"]
    assert main([str(path), *options, "--json", str(out), "--markdown", str(table)]) == 0
    report = json.loads(out.read_text())
    assert set(report) >= {"files", "seeds", "slm", "machine"}
    assert report["seeds"] == [0, 1]
    file = report["files"]["tiny"]
    assert list(file["methods"]) == ["llm", "frozen", "random"]
    for figures in file["methods"].values():
        assert {name + end for name in METRICS for end in ("", "_std")} <= set(figures)
    assert file["rows"] == 44
    assert file["test_rows"] == 6
    assert file["llm"]["coverage"] == pytest.approx(40 / 44)
    assert (
        file["llm"]["accuracy"] == file["methods"]["llm"]["verdict_accuracy"] == pytest.approx(35 / 44)
    )  # 4 abstentions, 5 wrong
    assert file["methods"]["llm"]["auroc"] is None
    assert set(file["methods"]["frozen"]["found_at"]) == {"5", "10", "20"}
    assert file["methods"]["frozen"]["seconds"] > 0
    assert file["methods"]["frozen"]["seconds_by_stage"].keys() == {"embedding", "training"}
    assert file["methods"]["random"]["auroc_std"] > 0
    assert "| tiny | frozen |" in " ".join(table.read_text().split())


def test_an_interrupted_run_goes_on(
    tmp_path: Path, config: SLMConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (write_file(tmp_path / f"{name}.csv.gz", truth()) for name in ("one", "two"))
    out = tmp_path / "out.json"
    options = ["--slm", config.model, "--seeds", "1", "--methods", "llm,frozen", "--json", str(out), "--resume"]
    assert main([str(one), *options]) == 0
    first = json.loads(out.read_text())["files"]["one"]
    ran: list[str] = []

    def run_one(data: Dataset, *_: object, **__: object) -> dict[str, Any]:
        ran.append(data.task.name)
        return dict(first)

    monkeypatch.setattr(quality, "run_file", run_one)
    assert main([str(two), str(one), *options]) == 0
    assert ran == ["two"]
    assert set(json.loads(out.read_text())["files"]) == {"one", "two"}
    fewer = ["llm" if option == "llm,frozen" else option for option in options]
    assert main([str(one), *fewer]) == 1
    assert "another run" in capsys.readouterr().err
    for content, message in (
        ("{}", "no report"),
        (out.read_text().replace('"seeds": [', '"seeds": [7, '), "another run"),
    ):
        out.write_text(content)
        assert main([str(one), *options]) == 1
        assert message in capsys.readouterr().err
        assert out.read_text() == content, "nothing is lost"
    with pytest.raises(SystemExit):
        main([str(one), "--resume"])


def test_all_methods_run_side_by_side(tmp_path: Path, config: SLMConfig) -> None:
    data = read_dataset(write_file(tmp_path / "a.csv.gz", truth(60)))
    found = run_file(data, list(METHODS), [0], config, quiet=True)
    assert list(found["methods"]) == list(METHODS)
    assert set(found["errors"]) == (set() if HAS_CLEANLAB else {"cleanlab"})
    ours, plain, crossval = (found["methods"][name] for name in ("ours", "plain", "crossval"))
    for figures in (ours, plain, crossval):
        for name in ("verdict_accuracy", "slm_accuracy", "test_accuracy", "auroc", "average_precision", "ece"):
            assert 0 <= figures[name] <= 1
        assert figures["peak_mb"] > 50
    assert {"embedding", "warm-up", "training", "scoring"} <= set(ours["seconds_by_stage"])
    assert 0 <= ours["demo_purity"] <= 1
    assert plain["clean_purity"] is None


def test_without_cleanlab_its_entries_are_null_and_the_table_says_so(
    tmp_path: Path, config: SLMConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr("benchmarks.baselines.importlib.import_module", missing)
    path = write_file(tmp_path / "a.csv.gz", truth())
    report = quality.run(
        [path], config=config, methods=["llm", "cleanlab"], seeds=[0], rows=None, date="2026-01-01", quiet=True
    )
    figures = report["files"]["a"]["methods"]["cleanlab"]
    assert {*figures.values()} == {None}
    assert "a, cleanlab: ModuleNotFoundError" in markdown(report)


def test_rows_takes_a_random_part_and_keeps_all_classes_of_the_file(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.csv.gz", [*truth(60), "rare"])
    part = read_dataset(path, 10)
    assert len(part.task.corpus.texts) == len(part.gold.corpus) == 10
    assert part.labels == ("bad", "good", "rare")
    assert part.task.corpus.texts == read_dataset(path, 10).task.corpus.texts
    everything = read_dataset(path)
    place = {text: i for i, text in enumerate(everything.task.corpus.texts)}
    positions = [place[text] for text in part.task.corpus.texts]
    assert positions == sorted(positions) != list(range(10))
    np.testing.assert_array_equal(part.gold.corpus, everything.gold.corpus[positions])


def test_only_what_an_llm_was_asked_is_the_corpus(tmp_path: Path) -> None:
    pool = dict(zip(COLUMNS, ("p", "not asked", "good", "", "", "gold_pool"), strict=True))
    unasked = dict(zip(COLUMNS, ("q", "not asked", "good", "", "", "train"), strict=True))
    data = read_dataset(write_file(tmp_path / "a.csv.gz", truth(), extra=[pool, unasked]))
    assert "not asked" not in [*data.task.corpus.texts, *data.task.test_texts]
    assert data.llm_name == "gpt"
    assert data.task.llm_confidence is None


def test_the_llms_confidence_is_read_where_it_gave_one(tmp_path: Path) -> None:
    sure = dict(zip(COLUMNS, ("s", "sure", "good", "good", "gpt", "train"), strict=True)) | {"llm_confidence": "0.75"}
    confidence = read_dataset(write_file(tmp_path / "a.csv.gz", truth(), extra=[sure])).task.llm_confidence
    assert confidence is not None
    assert np.isnan(confidence[:-1]).all()
    assert confidence[-1] == 0.75


def test_files_without_llm_labels_are_left_out_with_a_reason(tmp_path: Path, config: SLMConfig) -> None:
    good, bad = write_file(tmp_path / "good.csv.gz", truth()), tmp_path / "bad.csv"
    bad.write_text(",".join(COLUMNS) + "\n1,x,y,,,train\n")
    options: dict[str, Any] = {
        "config": config,
        "methods": ["llm"],
        "seeds": [0],
        "rows": None,
        "date": "",
        "quiet": True,
    }
    report = quality.run([good, bad], **options)
    assert list(report["files"]) == ["good"]
    assert "no LLM labels" in report["skipped"]["bad"]
    with pytest.raises(InputError, match="No file can be used"):
        quality.run([bad], **options)
    with pytest.raises(InputError, match="more than one file"):
        quality.run([good, good], **options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,text\n1,x\n", "no column gold, llm_label, llm_name, split"),
        (",".join(COLUMNS) + "\n1,x,,a,gpt,train\n", "1 of 1 rows without gold"),
        (",".join(COLUMNS) + '\n1,x,"[""O""]","[""O""]",gpt,train\n', "tokens"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_dataset(path)


def test_a_corpus_the_engine_refuses_does_not_stop_the_others(tmp_path: Path, config: SLMConfig) -> None:
    data = read_dataset(write_file(tmp_path / "a.csv.gz", truth()))
    silent = replace(data.task, corpus=replace(data.task.corpus, llm_labels=np.full(44, -1)))
    found = run_file(replace(data, task=silent), ["ours", "llm"], [0], config, quiet=True)
    assert "TrainingError" in found["errors"]["ours"]
    assert found["methods"]["ours"]["auroc"] is None
    assert found["methods"]["llm"]["verdict_accuracy"] == 0.0


def test_abstentions_are_filled_and_doubtful_verdicts_come_first() -> None:
    probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]])
    found = judged(np.array([0, 0, -1]), probs)
    assert found.verdict.tolist() == [0, 0, 1]
    assert found.order is not None
    assert found.order.tolist() == [1, 2, 0]
    assert found.suspicion is not None
    np.testing.assert_allclose(found.suspicion, [0.1, 0.8, 0.4])


def test_a_regression_on_few_classes_gives_the_others_nothing() -> None:
    features = np.array([[0.0], [1.0], [0.1], [0.9]])
    (probs,) = regress(features, np.array([0, 2, 0, 2]), [features], 3)
    assert probs[:, 1].tolist() == [0.0] * 4
    assert probs.argmax(axis=1).tolist() == [0, 2, 0, 2]
    (alone,) = regress(features, np.array([1, 1, 1, 1]), [features[:2]], 3)
    assert alone.tolist() == [[0.0, 1.0, 0.0]] * 2


@pytest.mark.skipif(not CLEAR_REFS.exists(), reason="this system's kernel cannot set a peak of memory back")
def test_peak_memory_is_that_of_the_block() -> None:
    with peak_memory() as large:
        np.ones(30_000_000).sum()
    with peak_memory() as small:
        pass
    assert large.mb - small.mb > 200


@pytest.mark.parametrize("argument", [["--methods", "best"], ["--seeds", "0"], ["--rows", "1"]])
def test_wrong_arguments_are_refused(tmp_path: Path, argument: list[str]) -> None:
    path = write_file(tmp_path / "a.csv.gz", truth(4))
    with pytest.raises(SystemExit):
        main([str(path), *argument])
