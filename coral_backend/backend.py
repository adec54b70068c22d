"""What does Label Studio ask of us, and what do we answer? ``predict`` and ``fit``, thin, for both lines of label-studio-ml.

Both only read and record: labels come from the database, human labels go into it, and whatever takes longer is left to a
worker (``coral_backend.jobs``). So they answer in milliseconds, also while a model is trained.
"""

from __future__ import annotations

import functools
import json
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from coral_backend.exceptions import (
    ConflictError,
    InputError,
    NotFoundError,
    QueueUnavailableError,
    SettingsError,
    StoreUnavailableError,
)
from coral_backend.labelstudio.control_tags import parse_config, space_hash
from coral_backend.labelstudio.predictions import prediction_row
from coral_backend.labelstudio.tasks import human_label_from_annotation, sample_from_task
from coral_backend.settings import Settings
from coral_backend.store import Store, option_versions
from coral_backend.types import HumanLabel, Project, RoundStatus, Sample, Verdict

log = logging.getLogger(__name__)

Json: TypeAlias = dict[str, Any]
Nudge: TypeAlias = Callable[[int], None]

MAX_ID = 2**31 - 1
"""The largest id that Label Studio and both databases can hold."""

ANNOTATORS = ("auto", "openai", "embedded", "recorded")
"""What ``CORAL_ANNOTATOR`` may be."""

PATH_OPTIONS = frozenset({"task_strategy", "slm_model"})
"""Options whose value may also be a path, or a name to download: not for Label Studio to choose."""

SHOWN_PROBLEMS = 10
"""How many bad items of a request its answer describes; the others are counted."""


@contextmanager
def without_torch() -> Iterator[None]:
    """Hide torch from the imports inside, unless it is loaded already.

    ``label_studio_ml.model`` imports ``torch.multiprocessing`` for training processes that we never start, and sets the
    start method of the whole process; without torch it falls back on ``multiprocessing``. That saves the web process
    200 MB and a second and a half. Only for imports at start: another thread could not import torch meanwhile.
    """
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # documented: it makes the import fail
    try:
        yield
    finally:
        del sys.modules["torch"]


with without_torch():
    from label_studio_ml.model import LabelStudioMLBase


class CoralBackend(LabelStudioMLBase):  # type: ignore[misc]  # it ships no types
    """CORAL as Label Studio's ML backend.

    Works as label-studio-ml 1.0.9 calls it (a keyword ``label_config``, ``predict(tasks, **params)``, ``fit((), event=...,
    data=...)``) and as 2.x does (``project_id`` first, ``predict(tasks, context=...)``, ``fit(event, data)``).
    An object is cheap and holds no state: everything is in the store, so that any number of processes agree.

    Parameters
    ----------
    project_id : int or str, optional
        Label Studio's project; where it is missing (1.0.9), the tasks and events say it.
    label_config : str, optional
        The config that Label Studio sent with the request; a changed one updates the project.
    settings, store : optional
        Default: from the environment, shared by all objects of the process.
    nudge : callable, optional
        Called with a project id when tasks wait for a label. Default: ask the queue, at once.
    """

    def __init__(
        self,
        project_id: int | str | None = None,
        label_config: str | None = None,
        *,
        settings: Settings | None = None,
        store: Store | None = None,
        nudge: Nudge | None = None,
        **kwargs: Any,
    ) -> None:
        # Neither line's constructor runs: 1.0.9's parses the config without a guard, 2.x's writes a cache.db.
        self.settings = settings if settings is not None else _default_settings()
        self.store = store if store is not None else _default_store(self.settings.store_url)
        self.project_id = str(parse_project_id(project_id)) if project_id not in (None, "") else ""
        self.train_output: Json = {}
        self.hostname = str(kwargs.get("hostname") or "")
        self.access_token = ""  # what /setup sends is a key of a person; it is neither used nor kept
        self._label_studio_client = None  # 2.x's get_local_path looks here
        self._label_config = label_config
        self._nudge = nudge if nudge is not None else functools.partial(nudge_worker, self.settings)

    # --- state, as 2.x names it -------------------------------------------------------------------------------

    @property
    def label_config(self) -> str | None:
        """The label config of the request, or the stored one."""
        return self._label_config if self._label_config is not None else self.get("label_config")

    @property
    def model_version(self) -> str | None:
        """The version that serves now; None for a project that is not connected."""
        return self.get("model_version")

    def get(self, key: str) -> str | None:
        """Return ``model_version``, ``label_config`` or ``extra_params`` of the project; None for anything unknown."""
        if not self.project_id:
            return None
        try:
            project = self.store.project(int(self.project_id))
        except NotFoundError:
            return None
        values = {"model_version": project.model_version, "label_config": project.label_config}
        return json.dumps(dict(project.options)) if key == "extra_params" else values.get(key)

    def has(self, key: str) -> bool:
        """Say whether ``get`` knows `key`."""
        return self.get(key) is not None

    def set(self, key: str, value: str) -> None:
        """Refuse: what a project's state is follows from its rounds.

        Raises
        ------
        InputError
            Always.
        """
        raise InputError(f"{key!r} cannot be set to {value!r:.40}; CORAL's state follows from its rounds.")

    def set_extra_params(self, extra_params: Any) -> None:
        """Take the project's options from Label Studio's ``extra_params``; see ``connect_project``."""
        project = self.store.project(self._only_project(()))
        connect_project(self.store, self.settings, project.id, project.label_config, options=options_from(extra_params))

    def setup(self) -> None:
        """Do nothing: an object is made for each request."""

    # --- predict ----------------------------------------------------------------------------------------------

    def predict(self, tasks: Sequence[Any], context: Mapping[str, Any] | None = None, **kwargs: Any) -> list[Any]:  # noqa: ARG002
        """Return the stored label of each task.

        Tasks without one, and tasks whose text has changed since, are noted for the worker, which labels and pushes them.

        Parameters
        ----------
        tasks : sequence
            Tasks as Label Studio sends them; what is no task gets the answer ``[]``.
        context : mapping, optional
            Of interactive pre-annotation; the answer is the same.

        Returns
        -------
        list
            Exactly one entry a task, in their order: ``{"result": [...], "score": float, "model_version": str}``, or
            ``[]`` (which Label Studio does not store) where no label is known yet.

        Raises
        ------
        NotFoundError
            If the project is not connected.
        """
        project = self._project_of_request(tasks)
        samples = [self._sample(project, task) for task in tasks]
        known = [sample for sample in samples if sample is not None]
        serving = self._serving_round(project)
        predictions = self._predictions(project, serving, known) if serving is not None and known else {}
        unknown = [sample for sample in known if (sample.task_id, sample.content_hash) not in predictions]
        # After a change of the config only a round can label anything.
        wanted = project.active_round is None or self._will_be_labelled(project, serving)
        self._note_quietly(project, unknown, wanted=wanted)
        return [predictions.get((s.task_id, s.content_hash), []) if s is not None else [] for s in samples]

    def _sample(self, project: Project, task: Any) -> Sample | None:
        if not isinstance(task, Mapping) or _id_of(task) is None:
            return None
        options = _with_options(self.settings, json.dumps(dict(project.options), sort_keys=True))
        return sample_from_task(
            project.label_space,
            task,
            recorded_key=options.recorded_key,
            max_chars=options.max_text_chars,
            slice_key=options.slice_key,
        )

    def _serving_round(self, project: Project) -> int | None:
        """Return the id of the round whose labels can be shown: they were given under the project's present config."""
        if project.active_round is None:
            return None
        same = self.store.round(project.active_round).config_hash == project.config_hash
        return project.active_round if same else None

    def _will_be_labelled(self, project: Project, serving: int | None) -> bool:
        """Say whether noting a task as wanted gets it a label: from the round that serves, or after the one under way.

        A round under way may have read the tasks already, so that it does not take this one along.
        """
        return serving is not None or self.store.active_round(project.id) is not None

    def _predictions(self, project: Project, round_id: int, samples: Sequence[Sample]) -> dict[tuple[int, str], Json]:
        """Return the predictions by task id and the hash of the text that was judged, which may be an older one."""
        verdicts = self.store.verdicts(project.id, round_id, {sample.task_id for sample in samples})
        return {(v.task_id, v.content_hash): _prediction(project, v) for v in verdicts if v.content_hash is not None}

    def _note_quietly(self, project: Project, samples: Sequence[Sample], *, wanted: bool) -> None:
        """Note samples for the worker; if the database refuses, the predictions that we have are answered all the same."""
        try:
            self._note(project, samples, wanted=wanted)
        except StoreUnavailableError as error:
            log.error("project %d: %d tasks could not be noted (%s)", project.id, len(samples), type(error).__name__)

    def _note(self, project: Project, samples: Sequence[Sample], *, wanted: bool) -> int:
        """Store samples, wake the worker for those that can be labelled if they are wanted, and return how many are new."""
        usable = [sample for sample in samples if sample.problem is None]
        new = self.store.put_samples(project.id, [sample for sample in samples if sample.problem is not None])
        new += self.store.put_samples(project.id, usable, wanted=wanted)
        if wanted and usable:
            self._nudge(project.id)
        return new

    def _project_of_request(self, tasks: Sequence[Any]) -> Project:
        """Return the project of a prediction, updated when the request carries a newer label config."""
        project = self.store.project(self._only_project(tasks))
        if self._label_config is None or self._label_config == project.label_config:
            return project
        return connect_project(self.store, self.settings, project.id, self._label_config)

    def _only_project(self, tasks: Any) -> int:
        """Find the project's id: given (2.x), in the tasks, or the only one there is (1.0.9 names none)."""
        if self.project_id:
            return int(self.project_id)
        for task in tasks if isinstance(tasks, Sequence) else ():
            if isinstance(task, Mapping) and task.get("project") is not None:
                return parse_project_id(task["project"])
        connected = [project.id for project in self.store.projects()]
        if len(connected) != 1:
            raise InputError(
                f"Which project? The request names none, and {len(connected)} are connected ({connected or 'none'}). "
                "Send tasks with their project, or use `coral serve`, which reads it from the request."
            )
        return connected[0]

    # --- fit --------------------------------------------------------------------------------------------------

    def fit(self, *args: Any, **kwargs: Any) -> Json:
        """Record what an event says; the worker learns from it later.

        Called as ``fit(event, data)`` (2.x), as ``fit((), event=..., data=...)``, or as ``fit(tasks)`` with annotated
        tasks (1.0.9). An event may come many times, late, or in a wrong order: the final state is the same.

        Returns
        -------
        dict
            JSON values: ``status`` (``ok`` or ``ignored``), ``event``, and what was done. Bad items of a list are
            described under ``problems``; the good ones beside them are recorded.

        Raises
        ------
        InputError
            If nothing in the event can be used.
        ConflictError
            For ``START_TRAINING`` while a round is under way.
        BudgetError, EndpointError, SettingsError
            For ``START_TRAINING`` where the round would pause at once: no price for its budget, no Batch API.
        """
        event, data = _event_of(args, kwargs)
        handle = self._HANDLERS.get(event)
        if handle is None:
            return {"status": "ignored", "event": event[:60], "known": sorted(self._HANDLERS)}
        # The config beside the event is not looked at: an old or unservable one must not cost a human label.
        named = data.get("project")
        project_id = parse_project_id(named) if named is not None else self._only_project(data.get("tasks"))
        return {"status": "ok", "event": event, **handle(self, self.store.project(project_id), data)}

    def _record(self, project: Project, data: Json) -> Json:
        labels, problems = self._human_labels(project, data)
        _refuse_if_all_bad(labels, problems)
        changed = self.store.put_annotations(project.id, labels)
        return {"received": len(labels), "changed": changed, **_problem_report(problems)}

    def _human_labels(self, project: Project, data: Json) -> tuple[list[HumanLabel], list[str]]:
        annotations = _items(data, "annotation", "annotations")
        tasks = _items(data, "task", "tasks", needed=False)
        labels, problems = [], []
        for position, annotation in enumerate(annotations):
            # Lists of both run side by side; a single task belongs to all.
            task = tasks[position] if len(tasks) == len(annotations) else tasks[0] if len(tasks) == 1 else None
            try:
                labels.append(_human_label(project, annotation, task))
            except InputError as error:
                problems.append(str(error))
        return labels, problems

    def _delete(self, project: Project, data: Json) -> Json:
        ids, problems = _ids(_items(data, "annotations", "annotation"), "annotation")
        changed = self.store.retire_annotations(project.id, ids)
        return {"received": len(ids), "changed": changed, **_problem_report(problems)}

    def _add_tasks(self, project: Project, data: Json) -> Json:
        tasks = _items(data, "tasks", "task")
        _, problems = _ids(tasks, "task")
        samples = [sample for task in tasks if (sample := self._sample(project, task)) is not None]
        _refuse_if_all_bad(samples, problems)
        # With no round at all there is no mark: the first one takes them along.
        new = self._note(project, samples, wanted=self._will_be_labelled(project, self._serving_round(project)))
        return {"received": len(samples), "changed": new, **_problem_report(problems)}

    def _drop_tasks(self, project: Project, data: Json) -> Json:
        ids, problems = _ids(_items(data, "tasks", "task"), "task")
        self.store.retire_samples(project.id, ids)
        return {"received": len(ids), **_problem_report(problems)}

    def _update_project(self, project: Project, data: Json) -> Json:
        news = data.get("project")
        news = news if isinstance(news, Mapping) else {}
        config, title = news.get("label_config"), news.get("title")
        updated = connect_project(
            self.store,
            self.settings,
            project.id,
            config if isinstance(config, str) else project.label_config,
            title=title if isinstance(title, str) else None,
        )
        return {"config_changed": updated.config_hash != project.config_hash}

    def _start_round(self, project: Project, data: Json) -> Json:  # noqa: ARG002
        from coral_backend import jobs
        from coral_backend.launch import begin_round

        done = any(begun.status is RoundStatus.DONE for begun in self.store.rounds(project.id))
        begun = begin_round(self.store, self.settings, project.id, retrain=done)
        jobs.request_advance(self.settings, begun.id, stage=begun.stage)
        return {"round": begun.name}

    _HANDLERS: dict[str, Callable[[CoralBackend, Project, Json], Json]] = {  # noqa: RUF012
        "ANNOTATION_CREATED": _record,
        "ANNOTATIONS_CREATED": _record,
        "ANNOTATION_UPDATED": _record,
        "ANNOTATION_DELETED": _delete,
        "ANNOTATIONS_DELETED": _delete,
        "TASKS_CREATED": _add_tasks,
        "TASKS_DELETED": _drop_tasks,
        "PROJECT_UPDATED": _update_project,
        "START_TRAINING": _start_round,
    }


def connect_project(
    store: Store,
    settings: Settings,
    project_id: int,
    label_config: str,
    *,
    title: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Project:
    """Make a project known, or bring it up to date; costs no write when nothing is new.

    When what can be labelled has changed, the round under way is marked as stale: its labels are of another config.

    Parameters
    ----------
    title : str or None
        None keeps the one it has.
    options : mapping or None
        All of the project's own settings, by field name, as Label Studio says them; None keeps those it has.

    Raises
    ------
    LabelConfigError
        If `label_config` has no control that CORAL serves; what was stored stays.
    InputError
        If an option does not exist, is a secret or out of range, or names a file or model that neither this process's
        settings nor the project's stored options name.
    """
    old = _known_project(store, project_id)
    if options is not None and old is not None and dict(options) != dict(old.options):
        # An older version of what the dashboard has changed since: Label Studio only repeats what it was told once.
        options = None if option_versions.is_superseded(store, project_id, options) else options
    if options is not None:
        _check_options(settings, options, old.options if old is not None else {})
    kept_title = old.title if old is not None else f"Project {project_id}"
    kept_options = old.options if old is not None else {}
    own = dict(options if options is not None else kept_options)
    space = parse_config(label_config, str(own.get("controls") or settings.controls))
    new = Project(
        id=project_id,
        title=title if title is not None else kept_title,
        label_config=label_config,
        config_hash=space_hash(space),
        label_space=space,
        options=own,
    )
    if old is not None and _same_project(old, new):
        return old
    store.save_project(new)
    if old is not None and old.config_hash != new.config_hash:
        _retire_round(store, project_id)
    return store.project(project_id)


def options_from(extra_params: Any) -> dict[str, Any] | None:
    """Return the options in Label Studio's ``extra_params``: an object, or one as a JSON text; None when it is empty.

    Raises
    ------
    InputError
        If it is anything else.
    """
    extra_params = extra_params.strip() if isinstance(extra_params, str) else extra_params
    if isinstance(extra_params, str) and extra_params:
        try:
            extra_params = json.loads(extra_params)
        except (ValueError, RecursionError):
            raise InputError("extra_params is no JSON. It must be an object of project options.") from None
    if not extra_params:
        return None
    if not isinstance(extra_params, dict):
        raise InputError(
            f"extra_params is a {type(extra_params).__name__}; it must be an object of project options, "
            'for example {"epochs": 5}.'
        )
    return extra_params


def parse_project_id(value: Any) -> int:
    """Return the id in what Label Studio sends for a project: ``7``, ``"7"``, ``"7.1795254486"`` or an object with ``id``.

    Raises
    ------
    InputError
        If it is none of these.
    """
    if isinstance(value, Mapping):
        value = value.get("id")
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_ID:
        return value
    if isinstance(value, str) and (match := re.fullmatch(r"([0-9]{1,10})(\.[0-9]{1,20})?", value, re.ASCII)):
        number = int(match[1])
        if 0 < number <= MAX_ID:
            return number
    raise InputError(
        f'The project is {_shown(value)}; it must be a number like 7, or "7.1795254486" as Label Studio sends it.'
    )


def nudge_worker(settings: Settings, project_id: int) -> None:
    """Ask a worker to label the tasks that wait; without a queue they keep waiting in the database."""
    from coral_backend import jobs

    try:
        jobs.request_catch_up(settings, project_id)
    except QueueUnavailableError as error:
        log.warning("project %d: tasks wait until the queue is back (%s)", project_id, error)


def _prediction(project: Project, verdict: Verdict) -> Json:
    # The same row that is pushed, so that Label Studio sees one prediction, whichever way it comes.
    _, result, score, version = prediction_row(project.label_space, project.model_version, verdict)
    prediction: Json = {"result": result, "model_version": version}
    return prediction if score is None else {**prediction, "score": score}


# --- inside -----------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _default_settings() -> Settings:
    return Settings.load()


@functools.lru_cache(maxsize=4)
def _default_store(url: str) -> Store:
    return Store(url)


@functools.lru_cache(maxsize=256)
def _with_options(settings: Settings, options: str) -> Settings:
    return settings.with_options(json.loads(options))


def _known_project(store: Store, project_id: int) -> Project | None:
    try:
        return store.project(project_id)
    except NotFoundError:
        return None


def _check_options(settings: Settings, options: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """Refuse options that a round would fail on, and paths: whoever may edit the backend in Label Studio writes them.

    A path in `stored` was named by whoever runs CORAL (``coral connect``), and comes back through Label Studio.
    """
    try:
        settings.with_options(options)
    except SettingsError as error:  # the caller's mistake here, not this process's
        raise InputError(str(error)) from None
    for name, known in _known_names(settings, options).items():
        value, variable = options[name], Settings.model_fields[name].alias
        trusted = (getattr(settings, name), stored.get(name)) if name in PATH_OPTIONS else ()
        if value in known or value in trusted:
            continue
        cure = (
            f" For a file or model of your own set {variable} in CORAL's environment." if name in PATH_OPTIONS else ""
        )
        raise InputError(f"Project option {name} is {_shown(value)}. Allowed: {', '.join(known)}.{cure}")


def _known_names(settings: Settings, options: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """Return, for each of `options` that is a name, the names that exist."""
    from coral_backend.task_prompt import task_names
    from strategies.annotation import ANNOTATION
    from strategies.demonstration import DEMONSTRATIONS

    known: dict[str, Sequence[str]] = {
        "annotator": ANNOTATORS,
        "annotation": ANNOTATION.names(),
        "task_strategy": ("auto", *task_names(settings)) if "task_strategy" in options else (),
        "first_demonstration": DEMONSTRATIONS.names(),
        "demonstration": DEMONSTRATIONS.names(),
        "slm_model": ("embedded",),
    }
    return {name: names for name, names in known.items() if name in options}


def _same_project(old: Project, new: Project) -> bool:
    return all(getattr(old, name) == getattr(new, name) for name in ("title", "label_config", "config_hash", "options"))


def _retire_round(store: Store, project_id: int) -> None:
    active = store.active_round(project_id)
    log.info("project %d: the label config changed%s", project_id, f"; round {active.name} is stale" if active else "")
    if active is None:
        return
    reason = "The label config of the project changed under way. Start a new round: coral round."
    try:
        store.set_round_status(active.id, RoundStatus.STALE, reason)
    except ConflictError:  # it ended meanwhile
        log.info("project %d: round %s was over before it became stale", project_id, active.name)


def _event_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, Json]:
    """Return event and data of a call in either line's manner."""
    event: Any
    if args and isinstance(args[0], str):
        event, data = args[0], args[1] if len(args) > 1 else kwargs.get("data")
    elif kwargs.get("event") is not None:
        event, data = kwargs["event"], kwargs.get("data")
    else:
        event, data = "ANNOTATIONS_CREATED", _annotated(args[0] if args else kwargs.get("tasks", ()))
    if not isinstance(event, str) or not isinstance(data, Mapping):
        raise InputError(
            f"fit got the event {_shown(event)} with a {type(data).__name__}; it takes a name and an object."
        )
    return event, dict(data)


def _annotated(tasks: Iterable[Any]) -> Json:
    """Turn tasks with their annotations inside (1.0.9's training data) into one event."""
    tasks = [task for task in tasks if isinstance(task, Mapping)]
    pairs = [(annotation, task) for task in tasks for annotation in task.get("annotations") or ()]
    project = next((task["project"] for task in tasks if task.get("project") is not None), None)
    event: Json = {"annotation": [annotation for annotation, _ in pairs], "task": [task for _, task in pairs]}
    return event if project is None else {**event, "project": project}


def _items(data: Json, *names: str, needed: bool = True) -> list[Any]:
    """Return the list under the first of `names` that is there; a single object counts as a list of one."""
    for name in names:
        value = data.get(name)
        if isinstance(value, Mapping):
            return [value]
        if isinstance(value, list):
            return value
    if not needed:
        return []
    raise InputError(f"The event has no {' or '.join(map(repr, names))}; it must be an object or a list of objects.")


def _human_label(project: Project, annotation: Any, task: Any) -> HumanLabel:
    if not isinstance(annotation, Mapping):
        raise InputError(f"An annotation is {_shown(annotation)}; it must be an object.")
    if _id_of(annotation) is None:
        raise InputError(f"An annotation has the id {_shown(annotation.get('id'))}; it must be a whole number.")
    task_id = _whole(annotation.get("task"))
    if task_id is None:
        task_id = _id_of(task) if isinstance(task, Mapping) else None
    if task_id is None:
        raise InputError(f"Annotation {_id_of(annotation)} names no task; it must have 'task', the task's id.")
    return human_label_from_annotation(project.label_space, annotation, task_id)


def _ids(items: Sequence[Any], kind: str) -> tuple[set[int], list[str]]:
    ids, problems = set(), []
    for item in items:
        found = _id_of(item) if isinstance(item, Mapping) else None
        if found is None:
            problems.append(f"A {kind} is {_shown(item)}; it must be an object with a whole number as id.")
        else:
            ids.add(found)
    _refuse_if_all_bad(ids, problems)
    return ids, problems


def _id_of(item: Mapping[str, Any]) -> int | None:
    return _whole(item.get("id"))


def _whole(value: Any) -> int | None:
    if isinstance(value, str) and re.fullmatch("[0-9]{1,10}", value, re.ASCII):
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_ID else None


def _refuse_if_all_bad(good: Sequence[Any] | set[Any], problems: Sequence[str]) -> None:
    if problems and not good:
        raise InputError(problems[0])


def _problem_report(problems: Sequence[str]) -> Json:
    return {"refused": len(problems), "problems": list(problems[:SHOWN_PROBLEMS])} if problems else {}


def _shown(value: Any) -> str:
    """Return a short repr of something foreign; of objects and lists only the kind: they may hold a secret."""
    return f"a {type(value).__name__}" if isinstance(value, Mapping | list) else f"{value!r:.60}"
