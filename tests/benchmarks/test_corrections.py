"""Are people's corrections taken from gold only for what was looked at, and the rest scored alone?"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import corrections
from benchmarks.dataset import read_dataset
from coral_backend.slm.engine import Distilled
from tests.benchmarks.test_quality import truth, write_file
from tests.slm.tiny import make_encoder


def test_each_way_has_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = make_encoder(tmp_path / "encoder")
    path, out = write_file(tmp_path / "tiny.csv.gz", truth()), tmp_path / "out.json"
    assert corrections.main([str(path), "--slm", encoder, "--json", str(out), "--percent", "5"]) == 0
    ways = json.loads(out.read_text())["tiny"]["5"]
    assert tuple(ways) == corrections.WAYS
    assert all(0 <= figures["verdict_accuracy"] <= 1 for figures in ways.values())
    assert ways["features-only"]["seconds"] > 0
    assert "| tiny | 5 % | full |" in capsys.readouterr().out


def test_what_was_looked_at_is_not_scored(tmp_path: Path) -> None:
    data = read_dataset(write_file(tmp_path / "tiny.csv.gz", truth()))
    llm, gold = data.task.corpus.llm_labels, data.gold.corpus
    n, k = len(llm), data.task.corpus.n_classes
    wrong = llm != gold
    probs = np.full((n, k), 0.1 / (k - 1))
    probs[np.arange(n), gold] = 0.9  # an SLM that knows everything
    found = Distilled(probs, np.zeros(n), np.where(wrong, 0.0, 1.0), np.zeros((n, 2)), [], {}, {}, [])
    human = np.where(wrong, gold, -1)  # people have put right all that is wrong
    figures = corrections.figures_of(found, human, data)
    assert figures["verdict_accuracy"] == 1.0
    assert figures["auroc"] is None, "nothing wrong is left"
    none = np.full(n, -1)
    assert corrections.figures_of(found, none, data)["auroc"] == 1.0
    assert corrections.figures_of(found, none, data)["found_at_10"] is None or wrong.any()


@pytest.mark.parametrize("percent", ["0", "100"])
def test_a_share_that_is_none_is_refused(tmp_path: Path, percent: str) -> None:
    path = write_file(tmp_path / "tiny.csv.gz", truth())
    with pytest.raises(SystemExit):
        corrections.main([str(path), "--percent", percent])
