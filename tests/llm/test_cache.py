"""Is anything asked, or paid, twice? Equal requests, kept replies, crashes in the middle; and a stream that is read bit by bit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from coral_backend.exceptions import EndpointError, LeaseLostError, RoundStopped
from coral_backend.llm import replies as replies_module
from coral_backend.llm import stream
from coral_backend.llm.base import OnAnswer, Question, asked
from coral_backend.llm.client import Endpoint
from coral_backend.llm.openai import OpenAIAnnotator
from coral_backend.llm.prompt import Prompt
from coral_backend.llm.replies import Keys, MemoryReplies, Replies
from coral_backend.store import Store
from coral_backend.types import Answer, LabelSpace, Project, Reply, Sample
from strategies.tasks import load
from tests.scripted_openai import Call, ScriptedOpenAI, completion, html, label, status

SPACE = LabelSpace("Choices", "sentiment", "text", "text", ("positive", "negative"))
PROMPT = Prompt.build(load("sentiment"), SPACE, [])
KEY = "canary-7f3a91c2d4"


@pytest.fixture
def server() -> Iterator[ScriptedOpenAI]:
    with ScriptedOpenAI() as scripted:
        yield scripted


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(f"sqlite:///{tmp_path}/coral.sqlite3")
    opened.save_project(Project(1, "t", "<View/>", "h", SPACE))
    yield opened
    opened.close()


def annotator(
    server: ScriptedOpenAI, replies: Replies | None, *, concurrency: int = 1, model: str = "scripted"
) -> OpenAIAnnotator:
    return OpenAIAnnotator(Endpoint(server.base_url, KEY, model, concurrency=concurrency), replies=replies)


def samples(n: int) -> list[Sample]:
    return [Sample(i, f"review number {i}") for i in range(n)]


def ask(who: OpenAIAnnotator, questions: list[Question] | None = None, n: int = 5) -> dict[int, Answer]:
    answers: dict[int, Answer] = {}
    todo = questions if questions is not None else list(asked(samples(n), PROMPT))
    who.annotate(todo, lambda sample, answer: answers.update({sample.task_id: answer}), lambda: None)
    return answers


# --- kept replies --------------------------------------------------------------------------------------------------


def test_a_kept_reply_answers_a_later_run_and_costs_nothing(server: ScriptedOpenAI, store: Store) -> None:
    first = ask(annotator(server, store.replies, concurrency=3))
    second = ask(annotator(server, store.replies, concurrency=3))
    assert len(server.history) == 5
    assert all(answer.prompt_tokens == 40 and answer.seconds > 0 for answer in first.values())
    for i in range(5):
        assert (second[i].label, second[i].raw) == (first[i].label, first[i].raw)
        assert (second[i].prompt_tokens, second[i].completion_tokens, second[i].seconds) == (0, 0, 0.0)


@pytest.mark.parametrize(
    ("question", "model"),
    [
        (Question(Sample(0, "another text"), PROMPT), "scripted"),
        (Question(Sample(0, "review number 0"), Prompt.build(load("topic"), SPACE, [])), "scripted"),
        (Question(Sample(0, "review number 0"), PROMPT, draw=1), "scripted"),
        (Question(Sample(0, "review number 0"), PROMPT, temperature=0.7), "scripted"),
        (Question(Sample(0, "review number 0"), PROMPT, logprobs=True), "scripted"),
        (Question(Sample(0, "review number 0"), PROMPT), "another-model"),
    ],
)
def test_another_request_is_asked(server: ScriptedOpenAI, store: Store, question: Question, model: str) -> None:
    ask(annotator(server, store.replies), n=1)
    ask(annotator(server, store.replies, model=model), [question])
    assert len(server.history) == 2


def test_draws_of_one_question_are_separate_requests_and_each_is_kept(server: ScriptedOpenAI, store: Store) -> None:
    questions = [Question(Sample(i, "the same words"), PROMPT, draw=i, temperature=0.8) for i in range(3)]
    ask(annotator(server, store.replies, concurrency=3), questions)
    ask(annotator(server, store.replies, concurrency=3), questions)
    assert len(server.history) == 3
    assert [call.body["temperature"] for call in server.history] == [0.8] * 3


def test_a_failure_is_not_kept(server: ScriptedOpenAI, store: Store) -> None:
    server.script += [html(), html()]
    assert ask(annotator(server, store.replies), n=1)[0].label is None
    assert ask(annotator(server, store.replies), n=1)[0].label == "positive"
    assert len(server.history) == 3


@pytest.mark.parametrize(
    "reply",
    [
        completion(None, refusal="I cannot judge this."),
        completion("positive", finish_reason="length"),
        completion("positive", finish_reason="content_filter"),
    ],
)
def test_a_completion_without_a_label_was_paid_for_and_is_kept(
    server: ScriptedOpenAI, store: Store, reply: object
) -> None:
    server.script.append(reply)  # type: ignore[arg-type]
    first = ask(annotator(server, store.replies), n=1)[0]
    second = ask(annotator(server, store.replies), n=1)[0]
    assert len(server.history) == 1
    assert first.reason == second.reason is not None
    assert first.prompt_tokens == 40
    assert second.prompt_tokens == 0


def test_answer_and_its_repair_are_both_kept(server: ScriptedOpenAI, store: Store) -> None:
    server.script += [label("great"), label("positive")]
    first = ask(annotator(server, store.replies), n=1)[0]
    second = ask(annotator(server, store.replies), n=1)[0]
    assert len(server.history) == 2
    assert (first.label, first.prompt_tokens) == ("positive", 80)
    assert (second.label, second.prompt_tokens, second.raw) == ("positive", 0, first.raw)


def test_first_reply_is_kept_before_its_repair_is_asked_for(server: ScriptedOpenAI, store: Store) -> None:
    server.script += [label("great"), status(401)]
    with pytest.raises(EndpointError):
        ask(annotator(server, store.replies), n=1)
    answer = ask(annotator(server, store.replies), n=1)[0]
    assert [call.is_repair for call in server.history] == [False, True, True]
    assert (answer.label, answer.prompt_tokens) == ("positive", 40)


def test_key_is_not_in_what_is_kept(server: ScriptedOpenAI, store: Store, tmp_path: Path) -> None:
    server.script.append(completion(f"positive, says {KEY}"))
    ask(annotator(server, store.replies), n=2)
    store.close()
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"chatcmpl-scripted" in kept
    assert KEY.encode() not in kept


def test_what_another_version_kept_and_nobody_can_read_is_asked_again(server: ScriptedOpenAI, store: Store) -> None:
    who = annotator(server, store.replies)
    question = next(iter(asked(samples(1), PROMPT)))
    key = Keys(server.base_url, "scripted", 64).of(question, PROMPT.messages("review number 0"))
    store.replies.put([Reply(key, "not a completion")])
    assert ask(who, [question])[0].label == "positive"
    assert len(server.history) == 1


def test_memory_holds_the_newest_replies_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies_module, "IN_MEMORY", 3)
    kept = MemoryReplies()
    kept.put([Reply(str(i), "body") for i in range(5)])
    assert set(kept.find([str(i) for i in range(5)])) == {"2", "3", "4"}


# --- commits -------------------------------------------------------------------------------------------------------


def keep_in(store: Store, fail_at: int | None = None) -> OnAnswer:
    count = 0

    def keep(sample: Sample, answer: Answer) -> None:
        nonlocal count
        count += 1
        if count == fail_at:
            raise LeaseLostError("another worker owns this round")
        store.put_llm_label(1, 1, sample, answer, prompt_version="p")

    return keep


def test_a_label_is_committed_together_with_its_reply(server: ScriptedOpenAI, store: Store) -> None:
    seen: list[tuple[int, int]] = []
    other = Store(str(store._engine.url))

    def answer(call: Call) -> object:
        keys = [KEYS.of(q, PROMPT.messages(q.sample.text)) for q in asked(samples(5), PROMPT)]
        seen.append((len(other.replies.find(keys)), sum(of["answers"] for of in other.llm_usage(1).values())))
        return label("positive")

    KEYS = Keys(server.base_url, "scripted", 64)
    server.answer = answer  # type: ignore[assignment]
    store.put_samples(1, samples(5))
    annotator(server, store.replies).annotate(asked(samples(5), PROMPT), keep_in(store), lambda: None)
    other.close()
    # What another process sees when the n-th request arrives: everything before it.
    assert seen == [(n, n) for n in range(5)]


def test_a_refused_label_loses_no_paid_reply(server: ScriptedOpenAI, store: Store) -> None:
    store.put_samples(1, samples(5))
    with pytest.raises(LeaseLostError):
        annotator(server, store.replies).annotate(asked(samples(5), PROMPT), keep_in(store, fail_at=3), lambda: None)
    assert len(store.llm_labels(1)) == 2
    assert len(server.history) == 3
    assert len(ask(annotator(server, store.replies))) == 5
    assert len(server.history) == 5, "the third reply was kept, though its label was not"


def test_a_stop_keeps_what_was_answered(server: ScriptedOpenAI, store: Store) -> None:
    store.put_samples(1, samples(30))

    def check() -> None:
        if len(server.history) >= 7:
            raise RoundStopped("paused")

    with pytest.raises(RoundStopped):
        annotator(server, store.replies).annotate(asked(samples(30), PROMPT), keep_in(store), check)
    assert len(store.llm_labels(1)) == 7


# --- the stream ----------------------------------------------------------------------------------------------------


def test_questions_are_read_as_the_work_goes_on(server: ScriptedOpenAI) -> None:
    read = answered = 0
    ahead: list[int] = []

    def questions() -> Iterator[Question]:
        nonlocal read
        for sample in samples(1_000):
            read += 1
            ahead.append(read - answered)
            yield Question(sample, PROMPT)

    def on_answer(sample: Sample, answer: Answer) -> None:
        nonlocal answered
        answered += 1

    annotator(server, None, concurrency=8).annotate(questions(), on_answer, lambda: None)
    assert answered == 1_000
    assert max(ahead) <= stream.CHUNK + 8


def test_very_many_equal_texts_wait_for_one_request_and_are_not_all_read(
    server: ScriptedOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MOST_WAITING", 100)
    read = 0
    read_at_first_request: list[int] = []

    def questions() -> Iterator[Question]:
        nonlocal read
        for i in range(2_000):
            read += 1
            yield Question(Sample(i, "the same words"), PROMPT)

    def answer(call: Call) -> object:
        read_at_first_request.append(read)
        return label("positive", delay_s=0.2)

    server.answer = answer  # type: ignore[assignment]
    server.script.append(label("negative"))  # another text first, which settles the shape of a request
    who = annotator(server, None, concurrency=4)
    ask(who, n=1)
    answers: dict[int, Answer] = {}
    who.annotate(questions(), lambda s, a: answers.update({s.task_id: a}), lambda: None)
    assert len(answers) == 2_000
    assert len(server.history) == 2
    assert read_at_first_request[0] <= 100 + 2 * stream.CHUNK
    assert sum(a.prompt_tokens for a in answers.values()) == 40


def test_a_failing_generator_ends_the_work(server: ScriptedOpenAI) -> None:
    def questions() -> Iterator[Question]:
        yield from asked(samples(3), PROMPT)
        raise ConnectionError("the corpus is gone")

    with pytest.raises(ConnectionError, match="the corpus is gone"):
        annotator(server, None).annotate(questions(), lambda s, a: None, lambda: None)


# --- what an endpoint accepts --------------------------------------------------------------------------------------


def test_what_an_endpoint_accepts_is_remembered(server: ScriptedOpenAI, store: Store) -> None:
    server.answer = lambda call: (
        status(400, message="response_format is not supported")
        if "response_format" in call.body
        else completion("positive")
    )
    ask(annotator(server, store.replies, concurrency=4))
    assert len(server.history) == 6
    ask(annotator(server, store.replies, concurrency=4), list(asked([Sample(9, "another")], PROMPT)))
    assert len(server.history) == 7
    accepts = store.replies.accepts(server.base_url, "scripted", since=0.0)
    assert accepts == {"schema": False, "temperature": True, "logprobs": True, "tokens_name": "max_tokens"}
    assert store.replies.accepts(server.base_url, "scripted", since=4e9) is None


def test_what_was_remembered_and_is_no_longer_true_is_found_out_again(server: ScriptedOpenAI, store: Store) -> None:
    old = {"schema": True, "temperature": True, "logprobs": True, "tokens_name": "max_completion_tokens", "strange": 1}
    store.replies.put_accepts(server.base_url, "scripted", old)
    server.answer = lambda call: label("positive") if "max_tokens" in call.body else status(400, message="bad request")
    answers = ask(annotator(server, store.replies, concurrency=4), n=20)
    assert all(answer.label == "positive" for answer in answers.values())
    accepts = store.replies.accepts(server.base_url, "scripted", since=0.0)
    assert accepts is not None
    assert accepts["tokens_name"] == "max_tokens"


def test_logprobs_are_asked_for_where_wanted_and_dropped_where_refused(server: ScriptedOpenAI, store: Store) -> None:
    server.answer = lambda call: (
        status(400, message="Unknown parameter: logprobs") if "logprobs" in call.body else label("positive")
    )
    questions = [Question(sample, PROMPT, logprobs=True) for sample in samples(12)]
    answers = ask(annotator(server, store.replies, concurrency=4), questions)
    assert all(answer.label == "positive" for answer in answers.values())
    assert [("logprobs" in call.body, "response_format" in call.body) for call in server.history] == [
        (True, True),
        *[(False, True)] * 12,
    ]
    assert server.history[0].body["top_logprobs"] == 20


def test_logprobs_that_are_refused_after_plain_requests_went_well(server: ScriptedOpenAI, store: Store) -> None:
    server.answer = lambda call: status(400) if "logprobs" in call.body else label("positive")
    plain = list(asked(samples(4), PROMPT))
    wanting = [Question(Sample(100 + i, f"text {i}"), PROMPT, logprobs=True) for i in range(8)]
    answers = ask(annotator(server, store.replies, concurrency=2), [*plain, *wanting])
    assert all(answer.label == "positive" for answer in answers.values())
    assert len(answers) == 12
    accepts = store.replies.accepts(server.base_url, "scripted", since=0.0)
    assert accepts is not None
    assert (accepts["logprobs"], accepts["schema"]) == (False, True)


def test_the_store_is_tidied_while_answers_come_in(
    server: ScriptedOpenAI, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coral_backend.llm.openai.TIDY_EVERY_S", 0.01)
    tidied: list[int] = []
    monkeypatch.setattr(store, "tidy", lambda: tidied.append(threading.get_ident()))
    server.answer = lambda _: label("positive", delay_s=0.05)
    answers = ask(annotator(server, store.replies))
    assert {answer.label for answer in answers.values()} == {"positive"}
    assert tidied
    assert threading.get_ident() not in tidied, "the slots do not wait for it"
