"""Does a database of an older CORAL become today's, with everything that was in it?"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from sqlalchemy import inspect, select, text

from coral_backend.labelstudio.control_tags import parse_config
from coral_backend.store import Store, checks, option_versions, tables
from coral_backend.store.migrations import MIGRATIONS
from coral_backend.types import Detail, Flag, Project, Source
from tests import filled_store as filled

ADDED = {"projects": ("tidied_change", "instructed"), "rounds": ("parent_id", "set_aside")}


def test_a_database_before_review_is_upgraded(tmp_path: Path) -> None:
    path = tmp_path / "coral.sqlite3"
    filled.fill(store := Store(f"sqlite:///{path}"))
    labels = store.llm_labels(filled.PROJECT)
    store.close()
    with closing(sqlite3.connect(path)) as old, old:
        for table, columns in ADDED.items():
            for column in columns:
                old.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        old.execute("DROP TABLE second_looks")
        old.execute("DELETE FROM migrations WHERE name = 'm005_review'")
    store = Store(f"sqlite:///{path}")
    project = store.project(filled.PROJECT)
    assert (project.tidied_change, project.instructed, project.title) == (0, False, "Film reviews")
    [one] = store.rounds(filled.PROJECT)
    assert (one.parent_id, one.set_aside, one.name) == (None, False, "1")
    assert store.llm_labels(filled.PROJECT) == labels
    assert store.second_looks(filled.PROJECT) == []
    store.close()
    Store(f"sqlite:///{path}").close()  # once more: nothing is left to do


def test_a_database_before_details_is_upgraded(tmp_path: Path) -> None:
    path = tmp_path / "coral.sqlite3"
    filled.fill(store := Store(f"sqlite:///{path}"))
    [round_id] = [one.id for one in store.rounds(filled.PROJECT)]
    before = store.verdicts(filled.PROJECT, round_id)
    store.close()
    with closing(sqlite3.connect(path)) as old, old:
        old.execute("ALTER TABLE verdicts DROP COLUMN details")
        old.execute("DELETE FROM migrations WHERE name = 'm007_details'")
    store = Store(f"sqlite:///{path}")
    assert store.verdicts(filled.PROJECT, round_id) == before
    parts = (
        Detail("a", "yes", 0.9, Flag.CLEAN, Source.LLM, "yes", "no", 0.4, 0.8),
        Detail("b", None, None, Flag.NOISY),
    )
    store.put_verdicts(filled.PROJECT, round_id, [replace(before[0], details=parts)], None)
    assert store.verdicts(filled.PROJECT, round_id, [before[0].task_id])[0].details == parts
    store.close()


def test_a_database_before_slices_is_upgraded(tmp_path: Path) -> None:
    path = tmp_path / "coral.sqlite3"
    filled.fill(store := Store(f"sqlite:///{path}"))
    verdicts, samples = store.verdicts(filled.PROJECT, 1), store.samples(filled.PROJECT)
    store.close()
    with closing(sqlite3.connect(path)) as old, old:
        old.execute("ALTER TABLE samples DROP COLUMN slice")
        old.execute("ALTER TABLE verdicts DROP COLUMN machine_label")
        old.execute("DROP TABLE checks")
        old.execute("DELETE FROM migrations WHERE name = 'm008_slices'")
    store = Store(f"sqlite:///{path}")
    assert store.samples(filled.PROJECT) == samples, "in no slice"
    assert store.verdicts(filled.PROJECT, 1) == verdicts
    assert checks.draw(store, filled.PROJECT, {1: ""}) == checks.drawn(store, filled.PROJECT)
    found = checks.found_in_slices(store, filled.PROJECT, 1)
    assert [(one.slice, one.tasks, one.checked, one.drawn_checked) for one in found] == [("", 5, 2, 0)]
    store.close()


def test_a_project_of_an_older_coral_goes_on_with_the_one_control_it_had(tmp_path: Path) -> None:
    path = tmp_path / "coral.sqlite3"
    filled.fill(store := Store(f"sqlite:///{path}"))
    two = filled.CONFIG.replace("</View>", '<Rating name="stars" toName="text"/></View>')
    store.save_project(Project(2, "Two", two, "hash", filled.SPACE, options={"epochs": 5}))
    spans = '<Labels name="who" toName="text"><Label value="PER"/></Labels>'
    store.save_project(Project(3, "Three", two.replace("<Choices", f"{spans}<Choices"), "hash", filled.SPACE))
    said = store.opinions.of_round(filled.PROJECT, 1)
    store.close()
    with closing(sqlite3.connect(path)) as old, old:
        old.execute("DROP TABLE control_labels")
        old.execute("ALTER TABLE opinions DROP COLUMN control")
        old.execute("DELETE FROM migrations WHERE name = 'm009_controls'")
    store = Store(f"sqlite:///{path}")
    assert store.project(2).options == {"epochs": 5, "controls": "label"}
    assert store.project(filled.PROJECT).options == {}, "it has one control, and nothing to decide"
    third = store.project(3)
    goes_on = parse_config(third.label_config, third.options["controls"])
    assert goes_on.from_name == "label", "spans, which stand before it, were not served"
    newest, before = option_versions.history(store, 2)
    assert (newest.options, before.options) == ({"epochs": 5, "controls": "label"}, {"epochs": 5})
    assert option_versions.is_superseded(store, 2, {"epochs": 5}), "Label Studio repeats it; that is no wish to go back"
    assert store.opinions.of_round(filled.PROJECT, 1) == said
    store.close()
    Store(f"sqlite:///{path}").close()


def test_a_database_before_details_becomes_todays_step_by_step(url: str) -> None:
    """As it was before sets, slices and several controls, in SQLite and in PostgreSQL."""
    filled.fill(store := Store(url))
    round_id = store.rounds(filled.PROJECT)[0].id
    before = (store.llm_labels(filled.PROJECT), store.samples(filled.PROJECT), store.verdicts(filled.PROJECT, round_id))
    newer = {"verdicts": ("details", "machine_label"), "samples": ("slice",), "opinions": ("control",)}
    with store.writing() as connection:
        for table, columns in newer.items():
            for column in columns:
                connection.execute(text(f"ALTER TABLE {table} DROP COLUMN {column}"))
        for table in ("checks", "control_labels"):
            connection.execute(text(f"DROP TABLE {table}"))
        connection.execute(text("DELETE FROM migrations WHERE name > 'm006_dashboard'"))
    store.close()
    store = Store(url)
    after = (store.llm_labels(filled.PROJECT), store.samples(filled.PROJECT), store.verdicts(filled.PROJECT, round_id))
    assert after == before
    with store.reading() as connection:
        for made in tables.metadata.sorted_tables:
            there = {column["name"] for column in inspect(connection).get_columns(made.name)}
            assert there == {column.name for column in made.columns}, made.name
        applied = list(connection.scalars(select(tables.migrations.c.name).order_by(tables.migrations.c.name)))
    assert applied == [step.__name__ for step in MIGRATIONS]
    store.close()
