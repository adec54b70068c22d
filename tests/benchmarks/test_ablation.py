"""Does taking parts away work on any file, and does it change what it should?"""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import ablation
from benchmarks.dataset import read_dataset
from coral_backend.slm.corpus import Corpus, SLMConfig
from coral_backend.slm.views import CHEAP
from tests.benchmarks.test_quality import truth, write_file
from tests.slm.tiny import make_encoder


def test_every_variant_is_measured_and_the_table_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = make_encoder(tmp_path / "encoder")
    path, out = write_file(tmp_path / "tiny.csv.gz", truth()), tmp_path / "out.json"
    assert ablation.main([str(path), "--slm", encoder, "--json", str(out), "--ceiling"]) == 0
    found = json.loads(out.read_text())["tiny"]
    assert set(found) == {*ablation.VARIANTS, ablation.CEILING, ablation.CEILING_NETWORKS}
    assert all(0 <= figures["verdict_accuracy"] <= 1 for figures in found.values())
    table = capsys.readouterr().out
    assert all(f"| {name} |" in table for name in found)


def test_the_ceiling_learns_from_gold_and_judges_the_llms_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = read_dataset(write_file(tmp_path / "tiny.csv.gz", truth()))
    learned_from: list[Corpus] = []
    judged: list[object] = []

    def learn(corpus: Corpus, *_: object) -> _Learned:
        learned_from.append(corpus)
        return _Learned(len(corpus.texts))

    monkeypatch.setattr(ablation, "learn", learn)
    monkeypatch.setattr(ablation, "judge", lambda _, what, __: judged.append(what))
    ablation.ceiling(data, SLMConfig(model=make_encoder(tmp_path / "encoder")))
    np.testing.assert_array_equal(learned_from[0].llm_labels, data.gold.corpus)
    assert judged == [data, data]


class _Learned:
    """Views of two classes that know nothing."""

    named = False

    def __init__(self, n: int) -> None:
        self.trained = self
        self.views = [np.full((n, 2), np.log(0.5))]
        self.cheap = dict.fromkeys(CHEAP, self.views[0])


def test_all_is_what_the_engine_says(tmp_path: Path) -> None:
    from benchmarks.baselines import METHODS, Workbench
    from benchmarks.figures import figures_of

    data = read_dataset(write_file(tmp_path / "tiny.csv.gz", truth()))
    config = SLMConfig(model=make_encoder(tmp_path / "encoder"), epochs=1)
    views = ablation.learn_views(data, config)
    ours = figures_of(
        METHODS["ours"](Workbench(data.task, config, lambda *_: None), 0), data.task.corpus.llm_labels, data.gold
    )
    found = ablation.judge(ablation.VARIANTS["all"](views, data), data, config)
    assert found["auroc"] == pytest.approx(ours["auroc"])
    assert found["verdict_accuracy"] == ours["verdict_accuracy"]


def test_a_file_that_cannot_be_used_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("id,text\n1,a\n")
    assert ablation.main([str(tmp_path / "a.csv")]) == 1
    assert "No file can be used" in capsys.readouterr().err
