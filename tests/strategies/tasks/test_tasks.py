"""Are task strategies read in full, chosen by their labels, and refused before they cost anything?"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from strategies.tasks import FOLDER, MAX_FILE_BYTES, TaskStrategyError, choose, load, names


def write(folder: Path, **changes: object) -> str:
    """Write sentiment.yaml with `changes` (None leaves a key out) and return its path."""
    data = yaml.safe_load((FOLDER / "sentiment.yaml").read_text())
    data.update(changes)
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in data.items() if value is not None}))
    return str(path)


@pytest.mark.parametrize("name", names())
def test_shipped_strategies_are_whole(name: str) -> None:
    strategy = load(name)
    assert strategy.name == name
    assert strategy.tags
    assert strategy.slm == "text"
    assert "{query}" in strategy.output_control
    assert "{demonstrations}" in strategy.demonstration
    assert set(strategy.anchors) <= set(strategy.aliases)


def test_sentiment_and_topic_are_shipped() -> None:
    assert {"sentiment", "topic"} <= set(names())


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        (["positive", "negative"], "sentiment"),
        (["Negative", "Neutral", "Positive"], "sentiment"),
        (["neg", "pos"], "sentiment"),
        (["very_negative", "negative", "neutral", "positive", "very-positive"], "sentiment"),
        (["billing", "delivery"], "topic"),
        (["positive", "billing"], "topic"),
        (["positive"], "topic"),
        (["positive", "pos"], "topic"),
    ],
)
def test_auto_chooses_by_the_labels(labels: list[str], name: str) -> None:
    assert choose("Choices", labels).name == name


@pytest.mark.parametrize(("tag", "name"), [("Taxonomy", "topic"), ("Rating", "rating"), ("Pairwise", "pairwise")])
def test_auto_chooses_by_the_tag(tag: str, name: str) -> None:
    assert choose(tag, ["1", "2"]).name == name


def test_auto_without_a_strategy_for_the_tag() -> None:
    with pytest.raises(TaskStrategyError, match="No task strategy serves KeyPoint"):
        choose("KeyPoint", ["a", "b"])


def test_labels_are_known_by_their_other_spellings() -> None:
    strategy = load("sentiment")
    assert strategy.canonical("POS") == "positive"
    assert strategy.canonical("Very_Negative") == "very negative"
    assert strategy.canonical("billing") == "billing"
    assert strategy.definition("Pos") == strategy.definitions["positive"]
    assert strategy.definition("billing") == ""


def test_a_file_of_the_users_is_loaded_by_its_path(tmp_path: Path) -> None:
    strategy = load(write(tmp_path, title="Reviews"))
    assert (strategy.name, strategy.title) == ("mine", "Reviews")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"output_control": "Label it as {choices}."}, "lacks the placeholder {query}"),
        ({"output_control": "{query} {choises}"}, "unknown placeholder {choises}"),
        ({"output_control": '{query} {choices} {"label": 1}'}, "write {{ and }}"),
        ({"output_control": "{query} {choices} {"}, "wrong braces"),
        ({"output_control": "{query.__class__} {choices}"}, "unknown placeholder {query.__class__}"),
        ({"output_control": "{query!r} {choices}"}, "unknown placeholder {query!r}"),
        ({"output_control": "{query} {}"}, "unknown placeholder {}"),
        ({"demonstration": "Some samples."}, "lacks the placeholder {demonstrations}"),
        ({"output_control": "{query}", "task_description": "Label it."}, "no part of the prompt names the labels"),
        ({"output_control": None}, "output_control is missing"),
        ({"output_control": "   "}, "must be a text that is not empty"),
        ({"titel": "x"}, "unknown key titel"),
        ({"tags": []}, "must be a list of texts"),
        ({"tags": "Choices"}, "must be a list of texts"),
        ({"definitions": ["positive"]}, "must be a mapping from labels"),
        ({"aliases": {"positive": [True]}}, "quote numbers, yes and no"),
        ({"hypotheses": ["It is good."]}, "names no label"),
        ({"hypotheses": ["{query}"]}, "unknown placeholder {query}"),
    ],
)
def test_wrong_files_say_what_is_wrong(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(TaskStrategyError) as caught:
        load(write(tmp_path, **changes))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "- a", "a: [", "a: !!python/object/apply:os.getcwd []", "\x00", "x" * (MAX_FILE_BYTES + 1)]
)
def test_files_that_are_no_strategy(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(TaskStrategyError, match=r"broken\.yaml"):
        load(str(path))


@pytest.mark.parametrize("name", ["nothing", "../sentiment", "sentiment.yaml", "/etc/passwd", ""])
def test_unknown_names_list_what_there_is(name: str) -> None:
    with pytest.raises(TaskStrategyError, match="There are: pairwise, rating, sentiment, topic"):
        load(name)
