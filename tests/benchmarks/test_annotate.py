"""Does the benchmark of the LLM layer measure what it says, and is its scripted endpoint as strict as it says?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from benchmarks.annotate import SECTIONS, main
from benchmarks.annotate_parts import Endpoint, at_least, at_most, endpoint, figure, table
from coral_backend.llm.prompt import Prompt
from coral_backend.types import LabelSpace
from strategies.tasks import load
from tests.scripted_server import FAULTS

SPACE = LabelSpace("Choices", "sentiment", "text", "text", ("positive", "negative"))
PROMPT = Prompt.build(load("sentiment"), SPACE, [])

EXACT = {
    "throughput": {"labelled": 400, "requests": 400},
    "memory": {"labelled": 2_000},
    "limit": {"refused_429": 0, "labelled": 300, "workers": 2},
    "faults": {"lost": 0, "abstained_without_reason": 0},
    "kill": {"labelled": 200, "answers_without_cost": 0},
}
"""What does not depend on how busy the machine is."""


def post(server: Endpoint, text: str, **more: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": PROMPT.messages(text), **more}
    request = Request(f"{server.base_url}/chat/completions", json.dumps(body).encode())  # noqa: S310 - loopback
    with urlopen(request, timeout=30) as answer:  # noqa: S310
        return dict(json.load(answer))


def content(reply: Mapping[str, Any]) -> str:
    return str(reply["choices"][0]["message"]["content"])


# --- the benchmark -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_runs_in_small(section: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    main(["--quick", "--only", section, "--json", str(out)])
    figures = json.loads(out.read_text())[section]
    assert {name: figures[name]["value"] for name in EXACT[section]} == EXACT[section]
    assert section in capsys.readouterr().out
    if section == "kill":
        assert figures["requests_beyond_items"]["met"], figures
    if section == "faults":
        assert figures["paid_twice"]["met"], figures
        assert figures["labelled"]["value"] + figures["abstained"]["value"] == 300


def test_figures_know_whether_they_are_met() -> None:
    assert at_least(0.97, 0.97)["met"]
    assert not at_least(0.9, 0.97)["met"]
    assert at_most(0, 0)["met"]
    shown = table({"limit": {"share_used": at_least(0.5, 0.97), "workers": figure(2)}})
    assert shown.splitlines()[1].split() == ["limit", "share_used", "0.5", ">=", "0.97", "MISSED"]


def test_unknown_section_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "speed"])
    assert "no section speed" in capsys.readouterr().err


# --- the scripted endpoint -----------------------------------------------------------------------------------------


def test_limit_is_strict_and_says_when_it_opens() -> None:
    with endpoint("--rpm", "3", "--window-s", "60") as server:
        for i in range(3):
            post(server, f"text {i}")
        with pytest.raises(HTTPError) as caught:
            post(server, "one too many")
        assert caught.value.code == 429
        assert 50 < float(caught.value.headers["Retry-After"]) <= 60
        caught.value.close()
        assert server.stats()["kinds"] == {"ok": 3, "limited": 1}


def test_what_is_asked_and_paid_twice_is_counted() -> None:
    with endpoint() as server:
        for text in ("a", "b", "a", "a"):
            post(server, text)
        stats = server.stats()
        assert (stats["requests"], stats["distinct"], stats["asked_twice"], stats["paid_twice"]) == (4, 2, 2, 2)
        server.reset()
        assert server.stats()["requests"] == 0


def test_replay_answers_as_the_model_did(tmp_path: Path) -> None:
    recorded = tmp_path / "recorded.csv"
    recorded.write_text(
        "id,text,gold,llm_label,llm_name,split,llm__big\n"
        '1,"fine, thanks",positive,negative,small,train,positive\n'
        "2,fine again,positive,positive,other,train,negative\n"
    )
    with endpoint("--replay", str(recorded)) as server:
        said = {
            (model, text): content(post(server, text, model=model))
            for model, text in (("small", "fine, thanks"), ("big", "fine, thanks"), ("other", "fine again"))
        }
        unknown = content(post(server, "never seen", model="big"))
    assert list(said.values()) == ["negative", "positive", "positive"]
    assert "no answer was recorded" in unknown


@pytest.mark.parametrize(("kind", "distinct"), [("true", True), ("fake", False)])
def test_logprobs_are_real_or_fake_as_asked_for(kind: str, distinct: bool) -> None:
    with endpoint("--logprobs", kind) as server:
        replies = [post(server, f"text {i}", logprobs=True) for i in range(5)]
        without = post(server, "text")
    values = {reply["choices"][0]["logprobs"]["content"][0]["logprob"] for reply in replies}
    assert (len(values) > 1) is distinct
    assert without["choices"][0]["logprobs"] is None


@pytest.mark.parametrize(("kind", "status"), [("absent", 200), ("refused", 400)])
def test_logprobs_are_absent_or_refused_as_asked_for(kind: str, status: int) -> None:
    with endpoint("--logprobs", kind) as server:
        if status == 200:
            assert post(server, "text", logprobs=True)["choices"][0]["logprobs"] is None
        else:
            with pytest.raises(HTTPError, match="400") as caught:
                post(server, "text", logprobs=True)
            caught.value.close()


def test_every_kind_of_fault_comes() -> None:
    with endpoint("--faults", "1.0", "--drip-s", "0") as server:
        for i in range(150):
            try:
                post(server, f"text {i}")
            except HTTPError as refused:
                refused.close()
            except (OSError, ValueError, HTTPException):
                pass  # reset, truncated, no JSON
        kinds = server.stats()["kinds"]
    assert set(kinds) == set(FAULTS)
