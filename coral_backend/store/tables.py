"""Which tables are there? Plain SQLAlchemy Core; every row belongs to a Label Studio project."""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

metadata = MetaData()

migrations = Table("migrations", metadata, Column("name", String(100), primary_key=True), Column("applied_at", Float))

projects = Table(
    "projects",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("title", Text, nullable=False),
    Column("label_config", Text, nullable=False),
    Column("config_hash", String(64), nullable=False),
    Column("label_space", JSON, nullable=False),
    Column("options", JSON, nullable=False),
    Column("model_version", String(100), nullable=False),
    Column("active_round", Integer),
    # Counts changes of human labels; a round remembers up to where it has read (rounds.through_change).
    Column("changes", Integer, nullable=False, default=0),
    Column("changed_at", Float),
    Column("reconciled_at", Float),
    Column("catch_up_after", Float),
    Column("catch_up_error", Text),
    # Up to which change the tabs' counts in Label Studio are true; and whether annotators were told about the tabs.
    Column("tidied_change", Integer, nullable=False, server_default=text("0")),
    Column("instructed", Boolean, nullable=False, server_default=false()),
)

samples = Table(
    "samples",
    metadata,
    Column("project_id", Integer, ForeignKey("projects.id"), primary_key=True),
    Column("task_id", Integer, primary_key=True, autoincrement=False),
    Column("text", Text, nullable=False),
    Column("problem", Text),
    Column("recorded", Text),
    Column("content_hash", String(64), nullable=False),
    # A task that Label Studio asked for before we knew its label; catch_up answers it.
    Column("wanted", Boolean, nullable=False, default=False),
    # Deleted in Label Studio; kept because its labels are history.
    Column("retired", Boolean, nullable=False, default=False),
    # The part of the corpus that it belongs to: a language, a source ...
    Column("slice", Text),
)


def _answer() -> list[Column[Any]]:
    """Return the columns of what an annotator said."""
    return [
        Column("content_hash", String(64), nullable=False),
        Column("label", Text),
        Column("raw", Text, nullable=False),
        Column("reason", Text),
        Column("confidence", Float),
        Column("annotator", Text, nullable=False),
        Column("prompt_version", String(64), nullable=False),
        Column("prompt_tokens", Integer, nullable=False),
        Column("completion_tokens", Integer, nullable=False),
        Column("seconds", Float, nullable=False),
        Column("created_at", Float, nullable=False),
    ]


llm_labels = Table(
    "llm_labels",
    metadata,
    Column("project_id", Integer, primary_key=True),
    Column("task_id", Integer, primary_key=True, autoincrement=False),
    Column("round_number", Integer, primary_key=True, autoincrement=False),
    *_answer(),
)

# The same of each control, in a project with several; llm_labels then keeps what they say together.
control_labels = Table(
    "control_labels",
    metadata,
    Column("project_id", Integer, primary_key=True),
    Column("task_id", Integer, primary_key=True, autoincrement=False),
    Column("round_number", Integer, primary_key=True, autoincrement=False),
    Column("control", Text, primary_key=True),
    *_answer(),
)

# What was asked of the endpoints, kept by the request and not by the label: a label may have taken several requests, or a
# request brought none, and an answer that is replaced was paid for all the same.
spend = Table(
    "spend",
    metadata,
    Column("project_id", Integer, primary_key=True, autoincrement=False),
    # 0: between rounds.
    Column("round_id", Integer, primary_key=True, autoincrement=False),
    Column("annotator", String(300), primary_key=True),
    Column("batch", Boolean, primary_key=True),
    Column("requests", Integer, nullable=False),
    Column("unsettled", Integer, nullable=False),
    Column("characters", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cost", Float, nullable=False),
    Column("unpriced", Integer, nullable=False),
)

batches = Table(
    "batches",
    metadata,
    Column("key", String(40), primary_key=True),
    Column("project_id", Integer, nullable=False),
    Column("round_id", Integer, ForeignKey("rounds.id"), nullable=False),
    Column("batch_id", String(200)),
    Column("file_id", String(200)),
    Column("status", String(40), nullable=False),
    Column("open", Boolean, nullable=False),
    Column("annotator", String(300), nullable=False),
    # The beginnings of the keys of its requests, under which ``replies`` keeps what it brings.
    Column("asked", JSON, nullable=False),
    # Those of them that are asked live, because it brought nothing.
    Column("again", JSON, nullable=False),
    Column("characters", BigInteger, nullable=False),
    Column("reserved", Float, nullable=False),
    Column("requests", Integer, nullable=False),
    Column("done", Integer, nullable=False),
    Column("error", Text),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Index("batches_by_round", "round_id"),
)

opinions = Table(
    "opinions",
    metadata,
    Column("project_id", Integer, primary_key=True),
    Column("task_id", Integer, primary_key=True, autoincrement=False),
    Column("round_number", Integer, primary_key=True, autoincrement=False),
    # 0 for the first question about a task in a round, 1 for the second ...; llm_labels keeps what was decided from them.
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("content_hash", String(64), nullable=False),
    Column("annotator", Text, nullable=False),
    Column("label", Text),
    Column("confidence", Float),
    # Probability that the model gave to answers that are no label.
    Column("missing_mass", Float),
    # Which control it was about, in a project with several.
    Column("control", Text),
    # The labels that the question listed, where these were not all of them.
    Column("candidates", JSON),
    Column("raw", Text, nullable=False),
    Column("reason", Text),
    Column("prompt_version", String(64), nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("created_at", Float, nullable=False),
)

annotations = Table(
    "annotations",
    metadata,
    Column("project_id", Integer, primary_key=True),
    Column("annotation_id", Integer, primary_key=True, autoincrement=False),
    Column("task_id", Integer),
    Column("label", Text),
    Column("user_id", Integer),
    Column("updated_at", String(40), nullable=False),
    Column("skipped", Boolean, nullable=False),
    Column("ground_truth", Boolean, nullable=False),
    Column("lead_time", Float),
    Column("prediction_version", Text),
    Column("prediction_label", Text),
    # A tombstone: a late "created" event must not bring a deleted annotation back.
    Column("deleted", Boolean, nullable=False, default=False),
    Index("annotations_by_task", "project_id", "task_id"),
)

rounds = Table(
    "rounds",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("project_id", Integer, ForeignKey("projects.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("status", String(20), nullable=False),
    Column("stage", String(20), nullable=False),
    Column("config_hash", String(64), nullable=False),
    Column("settings", JSON, nullable=False),
    Column("progress", JSON, nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("demos", JSON, nullable=False),
    Column("model_version", String(100)),
    Column("error", Text),
    Column("through_change", Integer, nullable=False, default=0),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("finished_at", Float),
    # The round that served when this one began: what it was built on.
    Column("parent_id", Integer),
    # A rollback went behind it: its answers no longer count.
    Column("set_aside", Boolean, nullable=False, server_default=false()),
    # The project's id while the round is active, else NULL: the database itself allows one active round a project.
    Column("active", Integer, unique=True),
    UniqueConstraint("project_id", "number", "revision"),
)

verdicts = Table(
    "verdicts",
    metadata,
    Column("project_id", Integer, primary_key=True),
    Column("round_id", Integer, ForeignKey("rounds.id"), primary_key=True),
    Column("task_id", Integer, primary_key=True, autoincrement=False),
    Column("label", Text),
    Column("score", Float),
    Column("source", String(10)),
    Column("flag", String(20), nullable=False),
    Column("rank", Integer, nullable=False),
    Column("prediction_label", Text),
    Column("prediction_score", Float),
    Column("llm_label", Text),
    Column("slm_label", Text),
    Column("slm_score", Float),
    Column("p_clean", Float),
    Column("loss", Float),
    Column("content_hash", String(64)),
    # What was decided about each part, of a task that has several: a list of objects; NULL for one label.
    Column("details", JSON(none_as_null=True)),
    # What the label would be without a person's word about the task.
    Column("machine_label", Text),
)

# Tasks that were drawn at random for people to check, so that what they find is true of the whole slice.
checks = Table(
    "checks",
    metadata,
    Column("project_id", Integer, ForeignKey("projects.id"), primary_key=True),
    Column("task_id", Integer, primary_key=True, autoincrement=False),
    # The slice that it was drawn from, and its place in the order of the drawing, from 1.
    Column("slice", Text, nullable=False),
    Column("place", Integer, nullable=False),
    Column("drawn_at", Float, nullable=False),
)

second_looks = Table(
    "second_looks",
    metadata,
    Column("project_id", Integer, primary_key=True),
    Column("task_id", Integer, primary_key=True, autoincrement=False),
    # A person is asked once about one label of a task.
    Column("label", Text, primary_key=True),
    Column("annotation_id", Integer, nullable=False),
    Column("updated_at", String(40), nullable=False),
    Column("machine_label", Text, nullable=False),
    Column("score", Float, nullable=False),
    Column("asked_at", Float, nullable=False),
    Column("looked_at", Float),
)

events = Table(
    "events",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("project_id", Integer, nullable=False),
    Column("action", String(60), nullable=False),
    Column("received_at", Float, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("token", Integer, nullable=False),
    Column("holder", String(200), nullable=False),
    Column("expires_at", Float, nullable=False),
)

option_versions = Table(
    "option_versions",
    metadata,
    Column("project_id", Integer, ForeignKey("projects.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("options", JSON, nullable=False),
    Column("who", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("created_at", Float, nullable=False),
)

# What LLM endpoints answered, by the request: an answer is paid once, whoever asks again.
replies = Table(
    "replies",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("body", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("created_at", Float, nullable=False),
    Index("replies_by_age", "created_at"),
)

# What an LLM endpoint accepts in a request, found out by asking it.
endpoints = Table(
    "endpoints",
    metadata,
    Column("base_url", String(500), primary_key=True),
    Column("model", String(200), primary_key=True),
    Column("accepts", JSON, nullable=False),
    Column("probed_at", Float, nullable=False),
)
