"""Which pages are there? Each reads the store and renders a template; what a button does is in ``actions``."""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from flask import Blueprint, Flask, Response, abort, jsonify, redirect, render_template, request, send_file, url_for
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from coral_backend import export as exporting
from coral_backend.backend import connect_project
from coral_backend.dashboard import actions, by_control, charts, configuration, projection, safety, words
from coral_backend.dashboard.example import example, first_known
from coral_backend.dashboard.marks import marked
from coral_backend.dashboard.overview import overview_of
from coral_backend.dashboard.progress import live, stages
from coral_backend.dashboard.query import LABELLED, NO_LABEL, Asked
from coral_backend.dashboard.rounds import changed_by, prompt_of, round_named, serving_or
from coral_backend.dashboard.rows import excerpt, line_of
from coral_backend.dashboard.safety import shared
from coral_backend.exceptions import ConflictError, CoralError, EndpointError, InputError, SettingsError
from coral_backend.labels import MULTIPLE, SINGLE, read_controls
from coral_backend.settings import Settings
from coral_backend.slices import slice_lines, worth_showing
from coral_backend.store import Store, browse, figures, option_versions
from coral_backend.types import Project, Round, Sample
from strategies.tasks.columns import cells

HERE = Path(__file__).parent
POINT_TEXT = 400
"""Characters of a text that the map shows beside a point."""

FILE_ENDINGS: Mapping[str, str] = {"hf": "zip"}
"""Of formats whose file ends otherwise than they are called: a folder travels as one file."""

pages = Blueprint("dashboard", __name__, url_prefix="/dashboard", template_folder="templates", static_folder="static")


def register(app: Flask, settings: Settings, store: Store, password: str) -> None:
    """Add the pages to `app`, whose guard must stand before them."""
    app.extensions[safety.EXTENSION] = safety.Shared(settings, store, safety.form_key(password))
    words.add_filters(app)
    app.register_blueprint(pages)


pages.register_error_handler(CoralError, safety.coral_error)
pages.register_error_handler(HTTPException, safety.http_error)
pages.register_error_handler(Exception, safety.unexpected)
pages.after_request(safety.harden)


@pages.before_request
def check_form() -> None:
    """Let nothing be changed without a token of ours."""
    if request.method not in ("GET", "HEAD", "OPTIONS"):
        safety.check_form()


@pages.app_context_processor
def what_every_page_needs() -> dict[str, Any]:
    """Return what the templates use everywhere."""
    return {"form_token": safety.form_token, "token_field": safety.TOKEN_FIELD, "task_link": task_link}


def task_link(project_id: int, task_id: int | None = None) -> str | None:
    """Return the address of a project, or of one of its tasks, in Label Studio; None where we do not know Label Studio's."""
    settings = shared().settings
    base = settings.label_studio_public_url or settings.label_studio_url
    if not base or not base.lower().startswith(("http://", "https://")):
        return None
    return f"{base.rstrip('/')}/projects/{project_id}/data" + (f"?task={task_id}" if task_id is not None else "")


# --- projects and rounds ----------------------------------------------------------------------------------------------


@pages.get("/")
def projects() -> str:
    """List the projects."""
    store = shared().store
    rows = [
        (project, figures.counts(store, project.id, project.active_round), store.active_round(project.id))
        for project in store.projects()
    ]
    return render_template("dashboard/projects.html", rows=rows)


@pages.get("/projects/<int:project_id>")
def overview(project_id: int) -> str:
    """Show where a project stands, its rounds, and the buttons."""
    return _overview(project_id)


def _overview(project_id: int, notice: str | None = None) -> str:
    settings, store = shared().settings, shared().store
    project = store.project(project_id)
    seen = overview_of(settings, store, project)
    notice = notice or actions.NOTICES.get(request.args.get("said", ""))
    return render_template(
        "dashboard/overview.html", project=project, seen=seen, live=live(store, project_id), notice=notice,
        formats=exporting.FORMATS, tab="overview",
    )  # fmt: skip


@pages.post("/projects/<int:project_id>/rounds")
def press(project_id: int) -> AnyResponse | tuple[str, int]:
    """Do what a button says, and show the project again."""
    settings, store = shared().settings, shared().store
    store.project(project_id)
    action = request.form.get("action", "")
    try:
        woken = actions.act(settings, store, project_id, action)
    except (ConflictError, EndpointError, SettingsError) as error:
        return _too_late(project_id, error)
    said = action if woken else "later"
    return redirect(url_for("dashboard.overview", project_id=project_id, said=said), 303)


@pages.post("/projects/<int:project_id>/rounds/<name>/rollback")
def roll_back(project_id: int, name: str) -> AnyResponse | tuple[str, int]:
    """Let an older round serve again, and show the project."""
    settings, store = shared().settings, shared().store
    store.project(project_id)
    try:
        complete = actions.go_back(settings, store, project_id, round_named(store, project_id, name).name)
    except ConflictError as error:
        return _too_late(project_id, error)
    said = "back" if complete else "back-waits"
    return redirect(url_for("dashboard.overview", project_id=project_id, said=said), 303)


def _too_late(project_id: int, error: CoralError) -> tuple[str, int]:
    said = str(error).replace("cancel it: coral round --cancel.", "pause or cancel it below.")
    return _overview(project_id, said.replace(" See: coral status.", "")), 409


@pages.get("/projects/<int:project_id>/rounds")
@pages.get("/projects/<int:project_id>/rounds/<name>/rollback")
def rounds(project_id: int, name: str | None = None) -> AnyResponse:  # noqa: ARG001 - part of the address
    """Lead back to the project: the address of an answer to a button, loaded again."""
    return redirect(url_for("dashboard.overview", project_id=project_id), 302)


@pages.get("/projects/<int:project_id>/progress.json")
def progress(project_id: int) -> Response:
    """Say how far along the newest round is."""
    shared().store.project(project_id)
    return jsonify(live(shared().store, project_id))


@pages.get("/projects/<int:project_id>/rounds/<name>")
def one_round(project_id: int, name: str) -> str:
    """Show one round: its stages, training, what it changed, demonstrations, and the prompt as it was sent."""
    settings, store = shared().settings, shared().store
    project = store.project(project_id)
    current, asked = round_named(store, project_id, name), Asked.read(request.args)
    return render_template(
        "dashboard/round.html", project=project, shown=project.label_space.shown, round=current, stages=stages(current),
        trainings=_trainings(current), prompt=prompt_of(settings, store, project, current),
        usage=store.llm_usage(project_id).get(current.number, {}) if not current.revision else {}, changed=changed_by(store, project, current, asked),
        asked=asked, busy=store.active_round(project_id), excerpt=functools.partial(excerpt, project.label_space), tab="overview",
    )  # fmt: skip


def _trainings(current: Round) -> list[tuple[str, Sequence[Mapping[str, Any]], charts.Chart | None]]:
    """Return the epochs of each training of a round with their chart; of several controls, under the control's name."""
    learned = current.metrics.get("controls") or {"": current.metrics}
    histories = {name: facts.get("history") or () for name, facts in learned.items()}
    return [(name, epochs, charts.history_chart(epochs)) for name, epochs in histories.items() if epochs]


# --- samples ----------------------------------------------------------------------------------------------------------


@pages.get("/projects/<int:project_id>/samples")
def samples(project_id: int) -> str:
    """Show the table of samples, sorted, filtered and cut into pages as the address says."""
    store = shared().store
    project = store.project(project_id)
    current = serving_or(store, project, request.args.get("round"))
    asked = Asked.read(request.args)
    ids = _ids_inside(asked, project, asked.area_round or (current.name if current else "")) if asked.area else None
    found = browse.page(
        store, project_id, current.id if current else None, _filters(project, current, asked, ids), sort=asked.sort,
        descending=asked.descending, limit=asked.size, offset=asked.offset, whole=project.label_space.is_row,
    )  # fmt: skip
    found = replace(found, lines=by_control.whole_lines(store, project, current, found.lines))
    last = max(1, math.ceil(found.total / asked.size))
    if asked.page > last:
        raise InputError(f"Page {asked.page} does not exist: {found.total:,} tasks fit, on {last} pages.")
    return render_template(
        "dashboard/samples.html", project=project, round=current, rounds=_judged_rounds(store, project), asked=asked,
        found=found, last=last, labels=[*by_control.choices(project), (NO_LABEL, NO_LABEL)], sorts=browse.SORTS, tab="samples",
        parts=project.label_space.shown_parts, marked=marked, is_row=project.label_space.is_row, line_of=line_of, cells=cells,
    )  # fmt: skip


def _filters(project: Project, current: Round | None, asked: Asked, ids: list[int] | None) -> browse.Filters:
    """Return what the lines must be like; of several controls, a label belongs to one of them.

    Raises
    ------
    InputError
        If a label is asked for without its control.
    """
    if not project.label_space.controls:
        return asked.filters(ids, kind=project.label_space.kind, rows=project.label_space.is_row)
    for name in LABELLED:
        value = asked.get(name)
        if value not in ("", NO_LABEL) and len(read_controls(value) or {}) != 1:
            first = project.label_space.controls[0]
            like = by_control.asks_for(first, first.labels[0])
            raise InputError(f"{name} is {value[:40]!r}; it must name its control, for example {like}.")
    kinds = {control.from_name: control.kind for control in project.label_space.controls}
    found = asked.filters(ids, parts=kinds, rows=project.label_space.is_row)
    if found.wrong is None:
        return found
    wrong = by_control.wrong_ids(shared().store, project, current, found.wrong)
    return replace(found, wrong=None, task_ids=wrong if ids is None else sorted(set(ids) & set(wrong)))


def _judged_rounds(store: Store, project: Project) -> list[str]:
    return [done.name for done in store.rounds(project.id) if done.model_version or done.metrics.get("flags")]


def _ids_inside(asked: Asked, project: Project, round_name: str) -> list[int]:
    current = round_named(shared().store, project.id, round_name)
    control = by_control.chosen(project, asked.get("area_control"))
    found = projection.for_round(shared().settings, current, control.from_name if control else None)
    if found is None:
        raise InputError(f"The map of round {round_name} is gone, and so the set that was drawn on it. Draw it again.")
    ids: list[int] = projection.inside(found, np.array(asked.area, dtype=np.int64).reshape(-1, 2)).tolist()
    return ids


@pages.get("/projects/<int:project_id>/samples/<int:task_id>.json")
def sample(project_id: int, task_id: int) -> Response:
    """Return what the map shows beside a point."""
    store = shared().store
    project = store.project(project_id)
    current = serving_or(store, project, request.args.get("round"))
    space = project.label_space
    line = browse.one(store, project_id, current.id if current else None, task_id, whole=space.is_row)
    if space.is_row:
        line = replace(line, text=line_of(line.text), length=0)  # the line says itself that it was cut
    said = {name: getattr(line, name) for name in ("label", "llm_label", "slm_label", "human_label")}
    return jsonify(
        {
            "task_id": line.task_id, "text": line.problem or line.text[:POINT_TEXT], "length": line.length,
            **{name: None if one is None else space.shown(one) for name, one in said.items()}, "confidence": line.confidence,
            "p_clean": line.p_clean, "flag": line.flag, "rank": line.rank, "source": line.source,
        }
    )  # fmt: skip


# --- map and quality --------------------------------------------------------------------------------------------------


@pages.get("/projects/<int:project_id>/map")
def corpus_map(project_id: int) -> str:
    """Show the corpus in the SLM's feature space."""
    store = shared().store
    project = store.project(project_id)
    current = serving_or(store, project, request.args.get("round"))
    control = by_control.chosen(project, request.args.get("control"))
    return render_template(
        "dashboard/map.html", project=project, round=current, rounds=_judged_rounds(store, project), tab="map",
        control=control, labels=(control or project.label_space).labels,
    )  # fmt: skip


@pages.get("/projects/<int:project_id>/map.bin")
def map_points(project_id: int) -> Response:
    """Return the points, the most doubtful first: one array after the other, little-endian, as ``map.js`` reads them.

    uint32 N; uint32 task ids (N); uint16 x, y (N each); uint8 label (index, 255 none), flag, confidence (0 ... 200, 255 none)
    and whether a person labelled (N each). ``X-Map`` says how much of the variance is seen.
    """
    settings, store = shared().settings, shared().store
    project = store.project(project_id)
    current = serving_or(store, project, request.args.get("round"))
    control = by_control.chosen(project, request.args.get("control"))
    found = projection.for_round(settings, current, control.from_name if control else None) if current else None
    if found is None or current is None:
        raise ConflictError(
            "There is no map: the round's arrays are not here. Those of old rounds are removed; those of a worker on another "
            "machine are seen when both share MODEL_DIR."
        )
    place = {task_id: i for i, task_id in enumerate(found.task_ids.tolist())}
    points = [p for p in by_control.points_of(store, project, control, current) if p.task_id in place]
    rows = np.array([place[p.task_id] for p in points], dtype=np.int64)
    label, names = (control or project.label_space).first_index, browse.FLAGS
    parts = (
        np.array([len(points)], dtype="<u4"),
        np.array([p.task_id for p in points], dtype="<u4"),
        found.places[rows, 0].astype("<u2"),
        found.places[rows, 1].astype("<u2"),
        np.array([label(p.label) if label(p.label) in range(255) else 255 for p in points], dtype="u1"),
        np.array([names.index(p.flag) for p in points], dtype="u1"),
        np.array([255 if p.confidence is None else round(p.confidence * 200) for p in points], dtype="u1"),
        np.array([p.human for p in points], dtype="u1"),
    )
    answer = Response(b"".join(part.tobytes() for part in parts), content_type="application/octet-stream")
    answer.headers["X-Map"] = f"{found.explained:.4f}"
    return answer


@pages.get("/projects/<int:project_id>/quality")
def quality(project_id: int) -> str:
    """Show the histograms, the reliability curve, and who disagrees with whom."""
    store = shared().store
    project = store.project(project_id)
    current = serving_or(store, project, request.args.get("round"))
    control = by_control.chosen(project, request.args.get("control"))
    agreement = by_control.agreement_of(store, project, control)
    lines = slice_lines(store, project)
    view: dict[str, Any] = {
        "rounds": _judged_rounds(store, project),
        "agreement": [
            (done, agreement[done.id]) for done in reversed(store.rounds(project.id)) if done.id in agreement
        ],
        "asks_for": functools.partial(by_control.asks_for, control),
        "slices": lines if worth_showing(lines) else [],
    }
    if current is not None:
        scores = by_control.scores_of(store, project, control, current)
        space = control or project.label_space
        labels = space.labels
        facts = current.metrics if control is None else current.metrics.get("controls", {}).get(control.from_name, {})
        pairs = (("llm", "slm"), ("llm", "human"), ("slm", "human")) if space.kind == SINGLE else ()
        view |= {
            "loss": charts.loss_histogram(scores, facts.get("gmm") or {}),
            "confidence": charts.confidence_histogram(scores),
            "reliability": charts.reliability(scores),
            "by_label": charts.by_label(scores, labels) if space.kind == MULTIPLE else None,
            "matrices": [(a, b, charts.matrix(scores.pairs(a, b), labels)) for a, b in pairs],
        }
    return render_template(
        "dashboard/quality.html", project=project, round=current, view=view, control=control, tab="quality"
    )


# --- configuration ----------------------------------------------------------------------------------------------------


@pages.get("/projects/<int:project_id>/configuration")
def configure(project_id: int) -> str:
    """Show what is set for a project; ``version`` puts an older version into the form."""
    project, versions = shared().store.project(project_id), option_versions.history(shared().store, project_id)
    options, wanted = project.options, request.args.get("version")
    if wanted is not None:
        chosen = [v for v in versions if str(v.number) == wanted]
        if not chosen:
            abort(404, f"There is no version {wanted[:20]!r} of this configuration. The newest is {len(versions)}.")
        options = chosen[0].options
    return _configuration(project, configuration.values_of(shared().settings, project, options), {})


@pages.post("/projects/<int:project_id>/configuration")
def save_configuration(project_id: int) -> AnyResponse | tuple[str, int] | str:
    """Save a new version, or show what is wrong at the fields; ``preview`` saves nothing and shows the prompt."""
    settings, store = shared().settings, shared().store
    project = store.project(project_id)
    form = configuration.read(settings, project, request.form)
    errors = dict(form.errors)
    if "preview" in request.form:
        return _preview(project, form)
    who = " ".join(form.values.get("who", "").split())
    if not 0 < len(who) <= 80:
        errors["who"] = "Say who you are, in at most 80 characters: it is kept with the version."
    if errors:
        return _configuration(project, form.values, errors), 422
    seen = form.values.get("seen", "")
    saved = option_versions.put(
        store,
        project_id,
        form.options,
        who=who,
        note=form.values.get("note", "")[:500],
        seen=int(seen) if seen.isdecimal() and len(seen) < 10 else None,
    )
    connect_project(store, settings, project_id, project.label_config)  # other controls may be served now
    return redirect(url_for("dashboard.configure", project_id=project_id, saved=saved.number), 303)


def _configuration(
    project: Project,
    values: Mapping[str, str],
    errors: Mapping[str, str],
    *,
    preview: Sequence[Mapping[str, str]] | None = None,
    sample: Sample | None = None,
) -> str:
    settings, store = shared().settings, shared().store
    return render_template(
        "dashboard/configuration.html",
        project=project,
        groups=configuration.fields(settings, project, values, errors),
        values=values,
        errors=errors,
        versions=option_versions.history(store, project.id),
        preview=preview,
        sample=sample if sample is not None else first_known(store, project.id),
        tab="configuration",
        saved=request.args.get("saved", type=int),
    )


def _preview(project: Project, form: configuration.Form) -> str | tuple[str, int]:
    settings, store = shared().settings, shared().store
    errors = dict(form.errors)
    try:
        sample = example(settings, store, project, form.values.get("task", ""))
    except InputError as error:
        errors["task"] = str(error)
    if errors:
        return _configuration(project, form.values, errors), 422
    serving = serving_or(store, project, None)
    demos = serving.demos if serving is not None else ()
    messages = configuration.preview(settings, project, form.options, demos, sample.text)
    return _configuration(project, form.values, {}, preview=messages, sample=sample)


# --- download ---------------------------------------------------------------------------------------------------------


@pages.get("/projects/<int:project_id>/download")
def download(project_id: int) -> Response:
    """Send the labels as a file."""
    wanted = request.args.get("format", "")
    if wanted not in exporting.FORMATS:
        raise InputError(f"The format is {wanted[:40]!r}. Allowed: {', '.join(exporting.FORMATS)}.")
    store = shared().store
    project = store.project(project_id)
    ending = FILE_ENDINGS.get(wanted, wanted)
    name = f"coral-project-{project_id}-{project.model_version}.{ending}"
    with tempfile.TemporaryDirectory(prefix="coral-download-") as folder:
        path = Path(folder) / name
        exporting.export(store, project_id, path, wanted, clean_only=request.args.get("clean_only") == "1")
        # Open while the folder is removed: the file goes when the last reader closes it.
        return send_file(path.open("rb"), as_attachment=True, download_name=name)


@pages.route("/<path:_unknown>")
def unknown(_unknown: str) -> NoReturn:
    """Answer what is no page of ours as a page."""
    abort(404, "There is no such page in the dashboard.")
