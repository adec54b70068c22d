"""Are task strategies read in full, chosen by their labels, and refused before they cost anything?"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from strategies.tasks import FOLDER, MAX_FILE_BYTES, TaskStrategyError, choose, load, mistakes, names
from strategies.tasks.files import read


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
    assert strategy.slm == ("tabular" if name == "tabular" else "text")
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
    with pytest.raises(
        TaskStrategyError, match="There are: entities, multilabel, pairwise, rating, sentiment, tabular, topic"
    ):
        load(name)


# --- the user's own folder ---------------------------------------------------------------------------------------------


def test_a_folder_of_the_users_adds_names(tmp_path: Path) -> None:
    write(tmp_path, title="Reviews")
    (tmp_path / ".hidden.yaml").write_text("[")
    (tmp_path / "notes.txt").write_text("[")
    assert names(tmp_path) == ["entities", "mine", "multilabel", "pairwise", "rating", "sentiment", "tabular", "topic"]
    assert load("mine", tmp_path).title == "Reviews"
    assert load("topic", tmp_path) == load("topic")


@pytest.mark.parametrize("name", ["sentiment.yaml", "topic.yml", "auto.yaml"])
def test_a_name_that_is_taken_is_refused(tmp_path: Path, name: str) -> None:
    Path(write(tmp_path)).rename(tmp_path / name)
    for use in (
        lambda: names(tmp_path),
        lambda: load("sentiment", tmp_path),
        lambda: choose("Choices", ["a", "b"], folder=tmp_path),
    ):
        with pytest.raises(TaskStrategyError, match=f"{name}.*give the file another name"):
            use()


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    Path(write(tmp_path)).rename(tmp_path / "mine.yml")
    write(tmp_path)
    with pytest.raises(TaskStrategyError, match="has the same name"):
        names(tmp_path)


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_that_is_none_is_told(tmp_path: Path, there: bool) -> None:
    folder = tmp_path / "x"
    if there:
        folder.write_text("")
    with pytest.raises(TaskStrategyError, match="set CORAL_STRATEGIES"):
        names(folder)


def test_auto_takes_the_users_strategy_for_its_labels_and_ours_for_any(tmp_path: Path) -> None:
    write(tmp_path)  # knows the labels that sentiment knows
    assert choose("Choices", ["positive", "negative"], folder=tmp_path).name == "mine"
    write(tmp_path, aliases=None, anchors=None)
    assert choose("Choices", ["positive", "negative"], folder=tmp_path).name == "sentiment"
    assert choose("Choices", ["a", "b"], folder=tmp_path).name == "topic"
    write(tmp_path, aliases=None, anchors=None, tags=["KeyPoint"])
    assert choose("KeyPoint", ["a", "b"], folder=tmp_path).name == "mine"


def test_auto_does_not_pass_over_a_wrong_file(tmp_path: Path) -> None:
    write(tmp_path, title=None)
    assert load("topic", tmp_path).name == "topic"
    with pytest.raises(TaskStrategyError, match=r"mine\.yaml, line 1: title is missing"):
        choose("Choices", ["a", "b"], folder=tmp_path)


# --- lines -------------------------------------------------------------------------------------------------------------

WRONG = """\
title: Urgency
tags: [Choices, Chois]
slm: image
task_description: |-
  How urgent is a ticket?

  {lables} {count}
demonstration: >-
  {demonstrations}
  {more}
output_control: "{query} {choices} {"
titel: x
hypotheses:
  - "{label}"
  - nothing
title: again
aliases:
  low: [minor]
  high: yes
  low: [small]
definitions:
  low: 1
"""


def test_every_mistake_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "urgency.yaml"
    path.write_text(WRONG)
    found = mistakes(path, {"Choices"})
    assert [(one.line, one.says.partition(".")[0]) for one in found] == [
        (2, "'tags' names 'Chois', which CORAL does not serve"),
        (3, "'slm' is 'image'; the small model may be: text, tabular"),
        (7, "'task_description' has the unknown placeholder {lables}"),
        (8, "'demonstration' has the unknown placeholder {more}"),
        (
            11,
            "'output_control' has wrong braces (Single '{' encountered in format string); write {{ and }} for a brace itself",
        ),
        (12, "unknown key titel"),
        (15, "the hypothesis 'nothing' names no label; write {label} in it"),
        (16, "'title' stands here a second time; keep one"),
        (19, "'aliases' of 'high' is True; it must be a list of texts"),
        (20, "'low' stands here a second time; keep one"),
        (22, "'definitions' of 'low' is 1; it must be a text that is not empty (quote numbers, yes and no)"),
    ]
    with pytest.raises(TaskStrategyError) as caught:
        load(str(path))
    assert "urgency.yaml, line 7: 'task_description' has" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [("a: 1\nb: [", 2), ("a: 1\n b: 2", 2), ("- a", 1), ("", None), ("\x00", None), ("a: &a [*a]", 1), ("[" * 5000, None), ("? [a]\n: b", 1)],
)  # fmt: skip
def test_what_is_no_strategy_has_a_line_where_one_is_to_blame(tmp_path: Path, text: str, line: int | None) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    assert mistakes(path)[0].line == line


def test_a_bomb_of_references_does_not_go_off(tmp_path: Path) -> None:
    path = tmp_path / "bomb.yaml"
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    path.write_text("\n".join([*rows, "title: *a29", "tags: *a29"]))
    assert len("".join(map(str, mistakes(path)))) < 10_000


@pytest.mark.parametrize("name", names())
def test_shipped_strategies_have_no_mistakes(name: str) -> None:
    assert mistakes(FOLDER / f"{name}.yaml", {"Choices", "Labels", "Pairwise", "Rating", "Taxonomy"}) == []


# --- columns -----------------------------------------------------------------------------------------------------------


def columns_file(folder: Path, columns: str) -> Path:
    """Write tabular.yaml with `columns` at its end, which begins in line 1 of what is written there."""
    path = folder / "patients.yaml"
    path.write_text((FOLDER / "tabular.yaml").read_text().rstrip() + "\n" + columns)
    return path


def test_rows_have_a_strategy_of_their_own() -> None:
    assert choose("Choices", ["positive", "negative"], slm="tabular").name == "tabular"
    assert choose("Rating", ["1", "2"], slm="tabular").name == "tabular"
    assert choose("Choices", ["positive", "negative"]).name == "sentiment"


def test_columns_are_told_with_description_and_unit(tmp_path: Path) -> None:
    text = """columns:
  age: {description: of the patient, unit: years, kind: numeric}
  ward:
    kind: categorical
  insurance: what pays
  note:
"""
    strategy = load(str(columns_file(tmp_path, text)))
    row = '{"ward": 7, "age": 41.5, "insurance": null, "id": 12, "note": "two\\nlines"}'
    assert strategy.shown(row).splitlines() == [
        "age (of the patient, in years): 41.5",
        "ward: 7",
        "insurance (what pays): missing",
        "note: two lines",
    ]
    assert load("tabular").shown(row).splitlines()[0] == "ward: 7"
    assert load("tabular").shown("no row") == "no row"
    assert load("topic").shown(row) == row


@pytest.mark.parametrize(
    ("columns", "line", "says"),
    [
        ("columns: [age]", 1, "'columns' is ['age']; it must be a mapping"),
        ("columns: {}", 1, "must be a mapping from columns"),
        (
            "columns:\n  age:\n    units: years",
            3,
            "column 'age' has the unknown key units. Allowed: description, unit, kind",
        ),
        (
            "columns:\n  age:\n    unit: years\n    kind: number",
            4,
            "kind of column 'age' is 'number'; it may be: numeric, cat",
        ),
        ("columns:\n  age: years\n  7: ward", 3, "a name in 'columns' is 7; it must be a text"),
        ("columns:\n  age: 3", 2, "column 'age' is 3; it must be a text"),
        ("columns:\n  age: x\n  age: y", 3, "'age' stands here a second time"),
    ],
)
def test_a_wrong_column_is_told_with_its_line(tmp_path: Path, columns: str, line: int, says: str) -> None:
    path = columns_file(tmp_path, columns)
    above = len((FOLDER / "tabular.yaml").read_text().rstrip().splitlines())
    found = mistakes(path)
    assert [mistake.line for mistake in found] == [above + line]
    assert says in found[0].says


def test_columns_are_for_the_small_model_of_tables(tmp_path: Path) -> None:
    path = columns_file(tmp_path, "columns: {age: years}")
    path.write_text(path.read_text().replace("slm: tabular", "slm: text"))
    assert "write slm: tabular" in mistakes(path)[0].says


def test_what_yaml_merges_in_may_be_written_over(tmp_path: Path) -> None:
    path = tmp_path / "merged.yaml"
    text = (FOLDER / "topic.yaml").read_text(encoding="utf-8")
    path.write_text(text + "definitions: {<<: {a: merged in, b: merged in}, a: written over}\n", encoding="utf-8")
    assert mistakes(path) == []
    assert dict(read(path).definitions) == {"a": "written over", "b": "merged in"}
