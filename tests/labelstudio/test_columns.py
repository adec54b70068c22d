"""Do LLM label, SLM label, confidence, clean probability, rank and flag stand in columns, cheaply, and beside the users' own data?"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as some

from coral_backend.exceptions import LabelStudioError
from coral_backend.labels import SPANS
from coral_backend.labelstudio import columns
from coral_backend.labelstudio.client import LabelStudioClient
from coral_backend.labelstudio.columns import MARKS, Value, fields, write
from coral_backend.labelstudio.hint import LINE
from coral_backend.types import Detail, Flag, LabelSpace, Source, Verdict
from tests.label_studio_fixture import CONFIG, LabelStudioUnderTest
from tests.stand_ins import FakeLabelStudio


def verdict(task_id: int, llm: str | None, slm: str | None, **more: Any) -> Verdict:
    given = {"flag": Flag.NOISY, "rank": task_id, "slm_score": 0.834, "p_clean": 0.25, "prediction_score": 0.1, **more}
    label = given.pop("label", llm)
    return Verdict(task_id, label, 0.5, Source.LLM, llm_label=llm, slm_label=slm, **given)


def studio(n: int) -> FakeLabelStudio:
    return FakeLabelStudio({i: {"text": f"text {i}", "mine": i} for i in range(1, n + 1)})


def put(fake: FakeLabelStudio, wanted: columns.Fields, **options: Any) -> columns.Written:
    return write(cast("LabelStudioClient", fake), 1, wanted, **options)


def test_each_fact_stands_under_its_key_and_the_users_data_stay() -> None:
    fake = studio(2)
    found = put(fake, fields([verdict(1, "pos", "neg", rank=12), verdict(2, None, None, slm_score=None, p_clean=None)]))
    assert found.problem is None
    assert fake.tasks[1] == {
        "text": "text 1", "mine": 1, "coral_llm": "pos", "coral_slm": "neg", "coral_conf": "0.83", "coral_p_clean": "0.25",
        "coral_rank": "000012", "coral_flag": "noisy",
    }  # fmt: skip
    assert fake.tasks[2] == {"text": "text 2", "mine": 2, "coral_rank": "000002", "coral_flag": "noisy"}


def test_ten_thousand_tasks_take_few_requests_and_a_second_time_none() -> None:
    rng, labels = random.Random(0), ["a", "b", "c"]
    fake = studio(10_000)
    verdicts = [
        verdict(i, rng.choice(labels), rng.choice(labels), slm_score=rng.random(), p_clean=rng.random(), rank=i)
        for i in range(1, 10_001)
    ]
    found = put(fake, fields(verdicts))
    assert (found.cells, found.requests) == (60_000, fake.actions)
    assert found.requests < 400
    assert [fake.tasks[i]["coral_rank"] for i in (1, 99, 100, 10_000)] == ["000001", "000099", "000100", "010000"]
    assert all(fake.tasks[v.task_id]["coral_conf"] == f"{v.slm_score:.2f}" for v in verdicts)
    assert put(fake, fields(verdicts)).requests == 0


def test_what_was_left_half_written_is_written_again() -> None:
    fake = studio(1)
    fake.tasks[1]["coral_rank"] = f"0000{MARKS[0]}"
    put(fake, fields([verdict(1, "a", "a")]))
    assert fake.tasks[1]["coral_rank"] == "000001"


def test_a_label_studio_without_the_action_costs_the_columns_only() -> None:
    fake = studio(2)
    fake.refuse_actions = True
    found = put(fake, fields([verdict(1, "a", "b")]))
    assert "does not take columns" in str(found.problem)
    assert fake.actions == 1, "it is not asked again and again"


def test_label_studio_away_is_no_refusal() -> None:
    fake = studio(1)
    fake.down = True
    with pytest.raises(LabelStudioError):
        put(fake, fields([verdict(1, "a", "b")]))


def test_a_key_that_the_project_labels_is_left_alone() -> None:
    fake = studio(1)
    fake.tasks[1]["coral_llm"] = "theirs"
    put(fake, fields([verdict(1, "a", "b")]), keep=["coral_llm"])
    assert (fake.tasks[1]["coral_llm"], fake.tasks[1]["coral_slm"]) == ("theirs", "b")


def hint(one: Verdict) -> str:
    return columns._text(fields([one], hint=True)[columns.HINT][one.task_id])


def test_the_hint_of_a_routed_task_takes_the_llms_share_from_its_loss() -> None:
    routed = verdict(1, "pos", "neg", label="neg", prediction_label="neg", prediction_score=0.834, loss=2.0)
    assert hint(routed) == "**SLM:** neg (83 %) · **LLM:** pos (14 %)"


def test_the_hint_shows_both_candidates_the_better_one_first() -> None:
    assert hint(verdict(1, "pos", "neg")) == "**LLM:** pos (10 %) · **SLM:** neg (83 %)"
    assert hint(verdict(1, "pos", "neg", label="neg")) == "**SLM:** neg (83 %) · **LLM:** pos (10 %)"
    assert hint(verdict(1, "pos", "pos")) == "**LLM and SLM:** pos (83 %)"
    assert hint(verdict(1, None, "neg")) == "**SLM:** neg (83 %) · **LLM:** no answer"
    assert hint(verdict(1, "pos", "neg", flag=Flag.CLEAN)) == ""
    assert hint(verdict(1, "pos", None, slm_score=None)) == ""
    assert hint(verdict(1, "<b>*x*</b>", f"a{MARKS[0]}(b)", label="z")).startswith(
        "**LLM:** \\<b\\>\\*x\\*\\</b\\> (10 %)"
    )
    assert fields([verdict(1, "pos", "neg")])[columns.HINT] == {1: ""}


@given(
    some.dictionaries(
        some.integers(1, 30),
        some.text(max_size=4)
        | some.tuples(
            some.just(f"x{MARKS[0]}y{MARKS[1]}"), some.sampled_from("123"), some.sampled_from(["a b", "9 %", ""])
        ),
    ),
    some.sampled_from([columns.RANK, columns.LLM]),
)
def test_every_way_writes_the_same_texts(values: dict[int, Value], key: str) -> None:
    fake = studio(30)
    put(fake, {key: values})
    for task, value in values.items():
        assert fake.tasks[task].get(key, "") == columns._text(value)


LABELS = ["it's, [really] (good)", 'say "no"', "ünï…‥"]


def test_strange_labels_survive_on_a_real_label_studio(label_studio: LabelStudioUnderTest) -> None:
    client, (project, ids) = label_studio.client, label_studio.new_project([f"text {i}" for i in range(6)])
    verdicts = [
        verdict(task, LABELS[i % 3], LABELS[i // 2], rank=i + 1, slm_score=i / 7, prediction_score=i / 9)
        for i, task in enumerate(ids)
    ]
    wanted = fields(verdicts, hint=True)
    found = write(client, project, wanted)
    assert found.problem is None
    for task in client.iter_tasks(project):
        expected = {key: columns._text(values[task["id"]]) for key, values in wanted.items()}
        assert task["data"] == {"text": task["data"]["text"], **expected}
    assert write(client, project, wanted).requests == 0
    order = [str(column["id"]) for column in client.columns(project) if column.get("parent") == "data"]
    assert order == ["text", *columns.COLUMNS, columns.HINT]


def test_half_of_the_columns_can_be_new(label_studio: LabelStudioUnderTest) -> None:
    client, (project, [task]) = label_studio.client, label_studio.new_project(["text"])
    client.update_project(project, label_config=CONFIG.replace("<View>", f"<View>{LINE}"))
    write(client, project, {columns.HINT: {task: "**LLM:** a"}}, unseen=True)
    assert client.request("GET", f"api/tasks/{task}/")["data"] == {"text": "text", columns.HINT: "**LLM:** a"}
    client.import_tasks(project, [{"data": {"text": "without the key"}}])


def test_the_hint_names_doubtful_spans_by_their_words_the_least_sure_first() -> None:

    details = (
        Detail("0:3", "PER", 0.95, Flag.CLEAN, llm_label="PER", words="Bob"),
        Detail("4:8", "LOC", 0.41, Flag.NOISY, llm_label="LOC", words="Rome"),
        Detail("9:13", None, 0.7, Flag.NOISY, slm_label="LOC", words="*Oslo*"),
    )
    verdict = Verdict(
        7, '[[4, 8, "LOC"]]', 0.41, Source.LLM, Flag.NOISY, 1, llm_label='[[4, 8, "LOC"]]', details=details
    )
    space = LabelSpace("Labels", "names", "text", "text", ("PER", "LOC"), kind=SPANS)
    found = fields([verdict], space=space, hint=True)
    assert found["coral_hint"][7] == "**Doubtful:** LOC “Rome” 41 % · missing? LOC “\\*Oslo\\*” 30 %"
    assert found["coral_llm"][7] == "LOC", "few different values: each one is a request"
    odd = Detail("4:8", "no", 0.41, Flag.NOISY, llm_label="no", words="Rome")
    assert columns.hint_line(replace(verdict, details=(odd,))) == "**Doubtful:** no “Rome” 41 %", "a label of that name"
