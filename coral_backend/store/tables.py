"""Which tables are there? Plain SQLAlchemy Core; every row belongs to a Label Studio project."""

from sqlalchemy import (
    JSON,
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
)

llm_labels = Table(
    "llm_labels",
    metadata,
    Column("project_id", Integer, primary_key=True),
    Column("task_id", Integer, primary_key=True, autoincrement=False),
    Column("round_number", Integer, primary_key=True, autoincrement=False),
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
