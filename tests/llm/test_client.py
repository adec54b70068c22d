"""What is known of an endpoint, and how does one request travel?"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from coral_backend.llm import transport
from coral_backend.llm.base import Question
from coral_backend.llm.prompt import Prompt
from coral_backend.llm.shape import Known, Shape
from coral_backend.llm.transport import BrokenError, Response, Transport
from coral_backend.types import LabelSpace, Sample
from strategies.tasks import load
from tests.scripted_openai import Reply, ScriptedOpenAI, label, reset, status, truncated

SPACE = LabelSpace("Choices", "sentiment", "text", "text", ("positive", "negative"))
PLAIN = Question(Sample(0, "text"), Prompt.build(load("sentiment"), SPACE, []))
WITH_LOGPROBS = replace(PLAIN, logprobs=True)


@pytest.fixture
def server() -> Iterator[ScriptedOpenAI]:
    with ScriptedOpenAI() as scripted:
        yield scripted


def post(base_url: str, body: bytes = b'{"messages": []}') -> Response:
    async def story() -> Response:
        async with Transport.connected(base_url, "k", 2) as connection:
            return await connection.post(body)

    return asyncio.run(story())


# --- transport -----------------------------------------------------------------------------------------------------


def test_response_is_returned_whatever_its_status(server: ScriptedOpenAI) -> None:
    server.script += [label("positive"), status(429, {"Retry-After": "3"}, message="slow down")]
    good, refused = post(server.base_url), post(server.base_url + "/")
    assert (good.status, good.headers["content-type"]) == (200, "application/json")
    assert (refused.status, refused.headers["retry-after"]) == (429, "3")
    assert "slow down" in refused.text
    assert [call.path for call in server.history] == ["/v1/chat/completions"] * 2
    assert server.history[0].headers["content-type"] == "application/json"


@pytest.mark.parametrize("reply", [reset(), truncated(label("positive"))])
def test_broken_connection_was_a_connection(server: ScriptedOpenAI, reply: Reply) -> None:
    server.script.append(reply)
    with pytest.raises(BrokenError) as caught:
        post(server.base_url)
    assert caught.value.found


def test_nobody_there_is_told_apart_from_a_broken_connection() -> None:
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        with pytest.raises(BrokenError) as caught:
            post(f"http://127.0.0.1:{placeholder.getsockname()[1]}/v1")
    assert not caught.value.found


def test_endless_reply_is_cut_off(server: ScriptedOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "LONGEST_BODY", 1_000)
    server.script.append(Reply(body=b"x" * 5_000))
    with pytest.raises(BrokenError, match="longer than 1000 bytes"):
        post(server.base_url)


def test_proxy_of_the_machine_is_used_for_others_and_not_for_those_it_excepts(
    server: ScriptedOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.base_url.removesuffix("/v1"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert post("http://an.endpoint.invalid/v1").status == 200  # answered by the proxy: nobody has that name
    assert server.history[0].path == "http://an.endpoint.invalid/v1/chat/completions"
    post(server.base_url)
    assert server.history[1].path == "/v1/chat/completions"


# --- shape ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("complaint", "question", "expected"),
    [
        ("use max_completion_tokens instead", PLAIN, Shape(tokens_name="max_completion_tokens")),
        ("Temperature must be 1", PLAIN, Shape(temperature=False)),
        ("logprobs are not supported", WITH_LOGPROBS, Shape(logprobs=False)),
        ("logprobs are not supported", PLAIN, Shape(schema=False)),
        ("bad request", WITH_LOGPROBS, Shape(schema=False)),
    ],
)
def test_shape_drops_what_is_complained_about(complaint: str, question: Question, expected: Shape) -> None:
    assert Shape().adapted(complaint, question) == expected


def test_shape_ends_with_nothing_to_drop() -> None:
    shape: Shape | None = Shape()
    seen = []
    while shape is not None:
        seen.append(shape)
        shape = shape.adapted("bad request", WITH_LOGPROBS)
    assert seen == [Shape(), Shape(schema=False), Shape(schema=False, logprobs=False)]


def test_parameters_hold_what_is_accepted_and_wanted() -> None:
    warm = replace(WITH_LOGPROBS, temperature=0.7)
    full = Shape().parameters(warm, 9)
    assert (full["max_tokens"], full["temperature"], full["logprobs"], full["top_logprobs"]) == (9, 0.7, True, 20)
    bare = Shape(schema=False, temperature=False, logprobs=False, tokens_name="max_completion_tokens")
    assert bare.parameters(warm, 9) == {"max_completion_tokens": 9}
    assert "logprobs" not in Shape().parameters(PLAIN, 9)


def test_shape_is_read_back_and_strange_values_are_left_out() -> None:
    shape = Shape(schema=False, tokens_name="max_completion_tokens")
    assert Shape.from_json(shape.to_json()) == shape
    assert Shape.from_json({"schema": "yes", "temperature": None, "more": 1, "logprobs": False}) == Shape(
        logprobs=False
    )


def test_slots_that_find_out_together_change_the_shape_once() -> None:
    known = Known()
    sent = known.shape
    assert known.refused(sent, "bad request", PLAIN)
    assert known.refused(sent, "bad request", PLAIN)
    assert known.shape == Shape(schema=False)
    assert known.accepted(known.shape, PLAIN)
    assert not known.accepted(known.shape, PLAIN), "no news"
    assert not known.refused(known.shape, "bad request", PLAIN), "what is refused now is refused for its text"


def test_confirming_what_was_remembered_is_no_news() -> None:
    known = Known(Shape(schema=False))
    assert known.settled
    assert not known.accepted(Shape(schema=False), PLAIN)
