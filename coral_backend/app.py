"""Which addresses does the web process answer? Label Studio's protocol, the numbers for Prometheus, and what is wrong now.

Routes are short: they read a bounded body, call ``CoralBackend``, and turn every error into JSON with a true status. A
traceback never leaves the process; the log has it, under the reference that the answer names.
"""

from __future__ import annotations

import hashlib
import json
import logging
import queue as threadsafe
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import Flask, Response, current_app, g, jsonify, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from coral_backend import __version__, dashboard
from coral_backend.auth import guard, secrets_for
from coral_backend.backend import (
    CoralBackend,
    Json,
    connect_project,
    nudge_worker,
    options_from,
    parse_project_id,
)
from coral_backend.exceptions import CoralError, InputError
from coral_backend.metrics import Metrics
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.types import Project, RoundStatus

log = logging.getLogger(__name__)

MB = 1_000_000


@dataclass(frozen=True)
class Context:
    """What the routes share."""

    settings: Settings
    store: Store
    metrics: Metrics
    nudger: Nudger


def create_app(settings: Settings | None = None, store: Store | None = None) -> Flask:
    """Return the web application.

    Parameters
    ----------
    settings : Settings, optional
        Default: from the environment.
    store : Store, optional
        Default: the one that the settings name.

    Raises
    ------
    SettingsError
        If a setting is wrong, or MODEL_DIR cannot be used.
    """
    settings = settings if settings is not None else Settings.load()
    store = store if store is not None else Store(settings.store_url)
    app = Flask("coral_backend", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_mb * MB
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # a redirect would lose the body
    app.extensions["coral"] = Context(settings, store, Metrics(store), Nudger(settings))
    known = secrets_for(settings)
    guard(app, settings.basic_auth_user, known)
    _add_routes(app)
    dashboard.register(app, settings, store, known.password)
    _add_errors(app)
    app.before_request_funcs[None].insert(0, _start_clock)
    app.after_request(_finish)
    return app


def context() -> Context:
    """Return what the routes of the current application share."""
    found: Context = current_app.extensions["coral"]
    return found


class Nudger:
    """Tells the queue that tasks wait, off the request's path: Redis may be slow, and the webhook has a second.

    What is lost with the process is asked for again by the worker's ticker, which reads the same database.
    """

    def __init__(self, settings: Settings, ask: Callable[[Settings, int], None] = nudge_worker) -> None:
        self._settings = settings
        self._ask = ask
        self._waiting: threadsafe.SimpleQueue[int] = threadsafe.SimpleQueue()
        self._noted: set[int] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def __call__(self, project_id: int) -> None:
        """Note a project; many notes before the queue was told become one."""
        with self._lock:
            if project_id not in self._noted:
                self._noted.add(project_id)
                self._waiting.put(project_id)
            if self._thread is None:  # made late: threads do not survive the fork of a web process
                self._thread = threading.Thread(target=self._run, name="coral-nudger", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            self.tell(self._waiting.get())

    def tell(self, project_id: int) -> None:
        """Ask the queue now; an error is logged, and the thread goes on."""
        with self._lock:
            self._noted.discard(project_id)
        try:
            self._ask(self._settings, project_id)
        except Exception:  # the thread must outlive whatever one call meets
            log.exception("project %d: the queue could not be told that tasks wait", project_id)


# --- routes -----------------------------------------------------------------------------------------------------------


def _add_routes(app: Flask) -> None:
    app.add_url_rule("/", "overview", overview, methods=["GET"])
    app.add_url_rule("/health", "health", health, methods=["GET"])
    app.add_url_rule("/setup", "setup", setup, methods=["POST"])
    app.add_url_rule("/predict", "predict", predict, methods=["POST"])
    app.add_url_rule("/webhook", "webhook", webhook, methods=["POST"])
    app.add_url_rule("/versions", "versions", versions, methods=["GET", "POST"])
    app.add_url_rule("/metrics", "metrics", metrics, methods=["GET"])


def health() -> Response:
    """Say that the process is there: no database, no queue, and nothing that a stranger could learn from."""
    return jsonify({"status": "UP", "model_class": CoralBackend.__name__})


def overview() -> Response:
    """Say how the parts are, and what each project is doing."""
    parts = {"database": _state(_look_at_database), "queue": _state(_look_at_queue)}
    projects = [] if parts["database"]["state"] == "down" else [_describe(p) for p in context().store.projects()]
    return jsonify(
        {"status": "UP", "model_class": CoralBackend.__name__, "version": __version__, **parts, "projects": projects}
    )


def setup() -> Response:
    """Take a project's label config and options; Label Studio calls this often, and it costs no write then."""
    body = _body()
    project_id = parse_project_id(body.get("project"))
    schema = body.get("schema")
    if not isinstance(schema, str):
        raise InputError(f"'schema' is {_kind(schema)}; it must be the label config as text.")
    options = options_from(body.get("extra_params"))
    project = connect_project(context().store, context().settings, project_id, schema, options=options)
    return jsonify({"model_version": project.model_version})


def predict() -> Response:
    """Return the stored labels of tasks: exactly one entry a task, in their order."""
    body = _body()
    tasks, params, config = body.get("tasks"), body.get("params"), body.get("label_config")
    if not isinstance(tasks, list):
        raise InputError(f"'tasks' is {_kind(tasks)}; it must be a list of tasks.")
    backend = _backend(parse_project_id(body.get("project")), config if isinstance(config, str) and config else None)
    asked = params.get("context") if isinstance(params, dict) else None
    results = backend.predict(tasks, context=asked)
    return jsonify({"results": results, "model_version": backend.model_version})


def webhook() -> Response:
    """Record an event of Label Studio. It is noted as taken only after that: what fails half-way may come again."""
    body = _body()
    action = body.get("action")
    if not isinstance(action, str) or not action:
        raise InputError(f"'action' is {_kind(action)}; it must name an event, for example ANNOTATION_CREATED.")
    if body.get("project") is None:
        raise InputError("The event names no project. Switch on 'Send payload' for this webhook in Label Studio.")
    project_id = parse_project_id(body["project"])
    done = _backend(project_id).fit(action, body)
    if done["status"] != "ignored":
        digest = hashlib.sha256(request.get_data()).hexdigest()
        again = not context().store.put_event(project_id, action, digest)
        context().metrics.took_event(action, again=again)
        done["again"] = again
    return jsonify(done)


def versions() -> Response:
    """Return the model versions of finished rounds, the newest first; of one project if the request names it."""
    named = request.args.get("project")
    if named is None and request.method == "POST":
        named = _body().get("project")
    store = context().store
    projects = [store.project(parse_project_id(named))] if named is not None else store.projects()
    found = [r.model_version for p in projects for r in store.rounds(p.id) if r.status is RoundStatus.DONE]
    return jsonify({"versions": list(dict.fromkeys(version for version in found if version))})


def metrics() -> Response:
    """Return the numbers in Prometheus' text format."""
    return Response(context().metrics.text(), content_type="text/plain; version=0.0.4; charset=utf-8")


# --- inside -----------------------------------------------------------------------------------------------------------


def _backend(project_id: int, label_config: str | None = None) -> CoralBackend:
    shared = context()
    return CoralBackend(project_id, label_config, settings=shared.settings, store=shared.store, nudge=shared.nudger)


def _body() -> Json:
    """Return the JSON object in the body, whatever the content type says."""
    try:
        value = json.loads(request.get_data())
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else "not JSON"
        raise InputError(f"The body is {reason}; it must be a JSON object.") from None
    if not isinstance(value, dict):
        raise InputError(f"The body is {_kind(value)}; it must be a JSON object.")
    return value


def _kind(value: Any) -> str:
    kinds = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return kinds.get(type(value), "missing")


def _describe(project: Project) -> Json:
    active = context().store.active_round(project.id)
    return {
        "id": project.id,
        "title": project.title,
        "model_version": project.model_version,
        "labels": list(project.label_space.named_labels),
        "waiting_tasks": len(context().store.wanted(project.id)),
        "round": None
        if active is None
        else {"name": active.name, "status": active.status, "stage": active.stage, "progress": dict(active.progress)},
    }


def _state(look: Callable[[], Json]) -> Json:
    try:
        return {"state": "up", **look()}
    except CoralError as error:
        return {"state": "down", "reason": str(error)}


def _look_at_database() -> Json:
    context().store.projects()
    return {}


def _look_at_queue() -> Json:
    from coral_backend import queue

    # The client is the process's own, and the nudger's thread may be using it now: it stays open.
    found = queue.workers(queue.connect(context().settings))
    return {"workers": [{"name": w.name, "queues": list(w.queues), "state": w.state} for w in found]}


# --- errors and what surrounds a request ------------------------------------------------------------------------------


def _add_errors(app: Flask) -> None:
    app.register_error_handler(CoralError, _answer_coral_error)
    app.register_error_handler(HTTPException, _answer_http_error)
    app.register_error_handler(Exception, _answer_unexpected)


def _error(status: int, kind: str, message: str, **more: Any) -> Response:
    answer = jsonify({"error": {"type": kind, "message": message, **more}})
    answer.status_code = status
    return answer


def _answer_coral_error(error: CoralError) -> Response:
    log.warning("%s %s: %s", request.method, request.path[:100], error)
    return _error(error.status, type(error).__name__, str(error))


def _answer_http_error(error: HTTPException) -> Response:
    message = error.description or error.name
    if isinstance(error, RequestEntityTooLarge):
        message = (
            f"The body is larger than {context().settings.max_body_mb} MB. Send fewer tasks at a time, "
            "or set CORAL_MAX_BODY_MB."
        )
    answer = _error(error.code or 500, error.name.replace(" ", ""), message)
    if error.code == 405:
        answer.headers["Allow"] = ", ".join(sorted(getattr(error, "valid_methods", None) or ()))
    return answer


def _answer_unexpected(error: Exception) -> Response:
    reference = _log_unexpected(error)
    message = f"Something unexpected happened. The log of the web process has it under {reference}."
    return _error(500, "InternalError", message, reference=reference)


def _log_unexpected(error: Exception) -> str:
    reference = uuid.uuid4().hex[:12]
    log.error("%s: %s %s failed", reference, request.method, request.path[:100], exc_info=error)
    return reference


def _start_clock() -> None:
    g.began = time.perf_counter()


def _finish(answer: Response) -> Response:
    answer.headers.setdefault("Cache-Control", "no-store")
    answer.headers.setdefault("X-Content-Type-Options", "nosniff")
    route = request.url_rule.rule if request.url_rule is not None else "other"
    method = request.method if request.url_rule is not None else "ANY"
    context().metrics.answered(method, route, answer.status_code, time.perf_counter() - g.began)
    return answer
