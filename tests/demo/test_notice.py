"""Is it said, before anything is sent, that an LLM will get the texts?"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from coral_backend.demo.notice import endpoint_of, warn
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.types import RoundStatus, Sample, Stage
from tests import filled_store as filled
from tests.web_parts import store_in

KEY = "sk-canary-0123456789"
RECORDED = {"annotator": "recorded", "recorded_key": "said"}


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds: list[float] = []
    monkeypatch.setattr("coral_backend.demo.notice.time.sleep", seconds.append)
    return seconds


def said(settings: Settings, project_id: int | None = None, **how: Any) -> str:
    out = io.StringIO()
    told: dict[str, Any] = {"rows": 700, "options": {}, "wait": True, **how}
    warn(settings, Console(file=out, width=300), project_id=project_id, **told)
    return out.getvalue()


def test_an_exported_key_is_said_with_host_model_and_number_and_time_to_stop(
    tmp_path: Path, slept: list[float]
) -> None:
    line = said(filled.settings_in(tmp_path, openai_api_key=KEY))
    assert "700 texts to api.openai.com (model gpt-4o-mini)" in line
    assert "Ctrl-C within 5 seconds" in line
    assert line.count("\n") == 1
    assert KEY not in line
    assert slept == [5.0]


def test_once_says_it_and_does_not_wait(tmp_path: Path, slept: list[float]) -> None:
    settings = filled.settings_in(tmp_path, openai_base_url="http://127.0.0.1:8000/v1", llm_model="mine")
    line = said(settings, wait=False)
    assert "127.0.0.1:8000 (model mine)" in line
    assert "Ctrl-C" not in line
    assert slept == []


def test_nothing_is_said_when_nothing_is_sent(tmp_path: Path, slept: list[float]) -> None:
    assert said(filled.settings_in(tmp_path / "none")) == ""
    with_key = filled.settings_in(tmp_path / "key", openai_api_key=KEY)
    assert said(with_key, options=RECORDED) == ""
    assert endpoint_of(with_key.with_options({"annotator": "embedded"})) is None
    assert slept == []


def test_what_is_annotated_already_is_not_counted(tmp_path: Path, slept: list[float]) -> None:
    settings = filled.settings_in(tmp_path, openai_api_key=KEY)
    store = store_in(settings)
    assert "700 texts" in said(settings, 1), "no round yet"
    current = store.create_round(1, settings.public())
    assert "700 texts" in said(settings, 1), "it will be resumed"
    lease = store.take_lease("round")
    assert lease is not None
    store.update_round(current.id, lease, stage=Stage.DISTIL)
    assert said(settings, 1) == "", "only training is left"
    store.close()


def test_an_interrupted_round_of_another_corpus_is_counted(tmp_path: Path, slept: list[float]) -> None:
    settings = filled.settings_in(tmp_path, openai_api_key=KEY)
    store: Store = store_in(settings)
    store.put_samples(1, [Sample(1, "a"), Sample(2, "b")])
    assert "2 texts" not in said(settings, options=RECORDED)
    current = store.create_round(1, settings.public())
    assert "up to 2 texts" in said(settings, options=RECORDED)
    assert "up to 702 texts" in said(settings)
    store.set_round_status(current.id, RoundStatus.PAUSED)
    assert said(settings, options=RECORDED) == "", "nobody resumes that one"
    store.close()
