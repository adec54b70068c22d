"""What can be asked of CORAL on the command line? Thin verbs; everything heavy is imported when its verb runs."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from coral_backend import __version__
from coral_backend.exceptions import ConflictError, CoralError, InputError, NotFoundError

if TYPE_CHECKING:
    from coral_backend.labelstudio.client import LabelStudioClient
    from coral_backend.settings import Settings
    from coral_backend.store import Store
    from coral_backend.types import Round

WORKER_LOOKS_SECONDS = 15.0
"""How often a followed round is asked whether any worker is left."""


class _Group(click.Group):
    """Commands whose errors are one line for a person; ``--debug`` shows where they come from."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (CoralError, LookupError, ValueError) as error:
            if ctx.params.get("debug"):
                raise
            raise _told(error) from error
        except (click.exceptions.Exit, click.Abort, click.ClickException, KeyboardInterrupt):
            raise
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            raise click.ClickException(_unexpected(error)) from error


def _told(error: Exception) -> click.ClickException:
    """Return one clean line: the errors of CORAL and of the strategies are written for people, others are not."""
    ours = isinstance(error, CoralError) or type(error).__module__.startswith("strategies")
    return click.ClickException(" ".join(_redacted(str(error)).split()) if ours else _unexpected(error))


def _unexpected(error: Exception) -> str:
    # The text of a foreign exception may hold anything: a request with its headers, a database's address, a task's text.
    if isinstance(error, ImportError):
        return f"The module {error.name!r} cannot be imported. Install CORAL from its lock: pip install --no-deps -r requirements.lock."
    return f"Unexpected {type(error).__name__}. To see where it comes from: coral --debug {' '.join(sys.argv[1:2])} ..."


def _redacted(text: str) -> str:
    from coral_backend.logs import redact

    return redact(text)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="coral")
@click.option("--debug", is_flag=True, help="Log everything, and show a traceback where an error comes from.")
@click.pass_context
def main(ctx: click.Context, debug: bool) -> None:
    """CORAL for Label Studio: an LLM labels, a small model finds the wrong labels, people correct the doubtful ones.

    \b
    On one machine:   coral up            then, in another terminal:
                      coral connect --project 1
                      coral round
    To look first:    coral demo
    Settings come from the environment (LABEL_STUDIO_URL, LABEL_STUDIO_API_KEY, ...); the README has them all.
    """  # noqa: D301 - click wants the sign itself, not its escape
    ctx.obj = debug


# --- the parts ----------------------------------------------------------------------------------------------------


@main.command()
@click.option(
    "--data", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A CSV, TSV or JSONL of yours."
)
@click.option("--text", default="text", show_default=True, help="Its column with the texts.")
@click.option("--gold", help="Its column with the right labels, to measure accuracies.")
@click.option("--noisy-labels", help="Its column with labels that exist already: they are taken as the annotator's.")
@click.option("--labels", default="", help="The label set, separated by commas; default: those in the columns.")
@click.option("--rows", type=click.IntRange(min=1), metavar="N", help="Only so many rows, chosen at random.")
@click.option("--once", is_flag=True, help="End after the round instead of staying up.")
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the round's figures there."
)
@click.option(
    "--dir", "folder", type=click.Path(file_okay=False, path_type=Path), default=Path(".coral/demo"), show_default=True,
    help="Folder of everything the demo keeps.",
)  # fmt: skip
@click.option(
    "--label-studio-venv", type=click.Path(file_okay=False, path_type=Path), envvar="LABEL_STUDIO_VENV",
    help="Environment that has Label Studio; default: .venv-labelstudio of the checkout.",
)  # fmt: skip
def demo(labels: str, label_studio_venv: Path | None, **options: Any) -> None:
    """Label a corpus in a real Label Studio.

    Starts everything on loopback, runs round 1, shows the result and where to look, and stays up until Ctrl-C.
    """
    from coral_backend.demo.runner import DemoOptions, run_demo

    more: dict[str, Any] = {"label_studio_venv": label_studio_venv} if label_studio_venv is not None else {}
    names = tuple(name.strip() for name in labels.split(",") if name.strip())
    sys.exit(run_demo(DemoOptions(labels=names, **options, **more)))


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address that the web process listens on.")
@click.option("--port", type=click.IntRange(1, 65535), default=9090, show_default=True)
@click.pass_obj
def up(debug: bool, host: str, port: int) -> None:
    """Run all parts on this machine.

    Redis (ours, unless REDIS_URL names one), the web process and a worker, until Ctrl-C.
    """
    from coral_backend.up import run_all

    if "CORAL_PUBLIC_URL" not in os.environ and port != 9090:
        os.environ["CORAL_PUBLIC_URL"] = f"http://127.0.0.1:{port}"
        click.echo(f"Set this in other terminals too: export CORAL_PUBLIC_URL=http://127.0.0.1:{port}")
    settings = _settings(debug)

    def wait() -> None:
        click.echo("Running; Ctrl-C stops everything. Next, in another terminal: coral connect --project ID")
        while True:
            time.sleep(3600)

    try:
        run_all(settings, host, port, click.echo, wait)
    except KeyboardInterrupt:
        click.echo("Stopped.")


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=9090, show_default=True)
@click.pass_obj
def serve(debug: bool, host: str, port: int) -> None:
    """Run the web process (the ML backend)."""
    from coral_backend.auth import secrets_for
    from coral_backend.connect import secrets_place
    from coral_backend.up import refuse_taken, web_command, with_our_code

    settings = _settings(debug)
    secrets_for(settings)
    refuse_taken(host, port)
    click.echo(f"Password and webhook secret: {secrets_place(settings)}", err=True)
    command = web_command(host, port)
    sys.stdout.flush()
    os.execve(command[0], command, with_our_code(os.environ))  # noqa: S606 - our own interpreter, no shell


@main.command()
def worker() -> None:
    """Run the jobs of the queue.

    Also starts what is due: retraining, reading back, interrupted rounds. Until Ctrl-C.
    """
    from coral_backend.settings import Settings
    from coral_backend.worker import run_worker_forever

    run_worker_forever(Settings.load())


# --- a project ----------------------------------------------------------------------------------------------------

_project_option = click.option(
    "--project", type=click.IntRange(min=1), metavar="ID", help="Label Studio's project id; default: the only one."
)


@main.command()
@click.option("--project", type=click.IntRange(min=1), metavar="ID", required=True, help="Label Studio's project id.")
@click.option("--title", default="CORAL", show_default=True, help="Name of the backend in Label Studio.")
@click.option(
    "--option", "pairs", multiple=True, metavar="NAME=VALUE", help="A setting of this project only; NAME= drops it."
)
@click.option(
    "--hint/--no-hint", default=None, help="One line in the form with both candidates of a doubtful task; or none."
)
@click.pass_obj
def connect(debug: bool, project: int, title: str, pairs: tuple[str, ...], hint: bool | None) -> None:
    """Connect a Label Studio project.

    Reads its label config, makes the webhook, then the ML backend, and asks the LLM one question, to know which parts of a
    request it takes. May be repeated: it changes only what differs.
    """
    from coral_backend import connect as connecting
    from coral_backend.controls import spaces

    with _context(debug) as (settings, store):
        options = connecting.parse_options(pairs)
        done = connecting.connect(store, settings, _client(settings), project, title=title, options=options, hint=hint)
        space = done.project.label_space
        click.echo(f"{'Connected' if done.first else 'Connected again:'} project {project} ({done.project.title!r})")
        for place, control in enumerate(spaces(space)):
            what = f"(<{control.tag} name={control.from_name!r}>, text: {control.text_key!r})"
            click.echo(f"  {'' if place else 'labels':<10}  {', '.join(control.labels)}  {what}")
        if space.controls:
            click.echo(
                f"              each text is asked about {len(space.controls)} times; --option controls=NAME,... serves some"
            )
        click.echo(f"  webhook     {done.url}/webhook (id {done.webhook_id})")
        click.echo(f"  ML backend  {done.url} (id {done.backend_id}, {title!r})")
        if done.project.options:
            click.echo(f"  options     {', '.join(f'{k}={v}' for k, v in sorted(done.project.options.items()))}")
        if hint is not None:
            click.echo(
                f"  hint        {'one line in the form, where a label is doubtful' if hint else 'none in the form'}"
            )
        for finding in done.endpoints:
            click.echo(f"  LLM         {finding.told()}")
        click.echo(f"  secrets     {connecting.secrets_place(settings)}")
        if done.doubt:
            click.echo(f"  note        Label Studio reaches it, this machine does not: {done.doubt}")
        click.echo(f"Next: coral round --project {project}")


@main.command("round")
@_project_option
@click.option(
    "--retrain", is_flag=True, help="Only learn anew from what people said; the LLM is asked about new tasks only."
)
@click.option("--here", is_flag=True, help="Run it in this process, also when a worker is there.")
@click.option("--detach", is_flag=True, help="Leave it to a worker and return at once.")
@click.option("--pause", "action", flag_value="pause", help="Pause the active round; what is done is kept.")
@click.option("--resume", "action", flag_value="resume", help="Go on with a paused round.")
@click.option("--cancel", "action", flag_value="cancel", help="Cancel the active round.")
@click.option("--dry-run", is_flag=True, help="Only say what it would ask and cost; no LLM is asked.")
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: print JSON.")
@click.option(
    "--budget",
    type=click.FloatRange(min=0, min_open=True),
    metavar="USD",
    help="Most that the round may cost; it pauses before a request that could pass it.",
)
@click.option(
    "--batch/--live", "batch", default=None, help="Ask through the Batch API (cheaper, within 24 hours), or live."
)
@click.pass_obj
def round_(
    debug: bool,
    *,
    project: int | None,
    retrain: bool,
    here: bool,
    detach: bool,
    action: str | None,
    dry_run: bool,
    as_json: bool,
    budget: float | None,
    batch: bool | None,
) -> None:
    """Start a round and follow it.

    Takes the one that is under way if there is one. A worker runs it; without one, this process does.
    Its stages: sync, annotate, distil, flag, push.
    """
    if here and detach:
        raise click.UsageError("--here runs the round in this process and --detach leaves it to a worker: choose one.")
    if as_json and not dry_run:
        raise click.UsageError("--json goes with --dry-run.")
    own = {name: value for name, value in (("budget", budget), ("batch", batch)) if value is not None}
    with _context(debug) as (settings, store):
        project_id = _project_id(store, project)
        if dry_run:
            _dry_run(settings, store, project_id, own, retrain=retrain, as_json=as_json)
            return
        if action in ("pause", "cancel"):
            _stop_round(settings, store, project_id, action)
            return
        alive = _worker_is_alive(settings)
        current = _take_or_create(settings, store, project_id, own, retrain=retrain, resume=action == "resume")
        if (alive or detach) and not here:
            _hand_over(settings, store, current, detach=detach, alive=alive)
            done = current if detach else _follow(settings, store, current)
        else:
            if not here:
                click.echo("No worker is running (coral worker, coral up): the round runs in this process.")
            done = _run_here(settings, store, current)
        if not detach:
            _conclude(settings, done)


@main.command()
@_project_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def status(debug: bool, project: int | None, as_json: bool) -> None:
    """Show the projects and their rounds.

    Counts, what runs now, and for each round how far LLM and SLM agree with the labels of people.
    """
    from coral_backend.console import project_panel, terminal
    from coral_backend.status import status_of

    with _context(debug) as (settings, store):
        ids = [_project_id(store, project)] if project is not None else [one.id for one in store.projects()]
        found, parts = [status_of(store, one) for one in ids], _queue_state(settings)
        if as_json:
            click.echo(json.dumps({"queue": parts, "projects": [one.to_json() for one in found]}, indent=2))
            return
        console = terminal()
        for one in found:
            console.print(project_panel(one))
        if not found:
            click.echo("No project is connected. Connect one: coral connect --project ID")
        click.echo(f"Queue: {parts['redis']}; workers: {', '.join(parts['workers']) or 'none'}")


@main.command()
@_project_option
@click.option(
    "--per-slice", type=click.IntRange(min=1), default=30, show_default=True, help="Random tasks of each slice."
)
@click.option("--slice", "only", multiple=True, metavar="NAME", help="Only this slice; may be given several times.")
@click.option("--show", is_flag=True, help="Draw nothing; only show what was found so far.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def check(
    debug: bool, *, project: int | None, per_slice: int, only: tuple[str, ...], show: bool, as_json: bool
) -> None:
    """Draw random tasks for people to label: how good are the labels?

    They stand in Label Studio's tab "Gold check". What is found there is true of each slice (CORAL_SLICE_KEY) within its
    interval; what people correct on their way through the other tabs is not, because these begin with what is doubtful.
    """
    from coral_backend.console import slices_table, terminal
    from coral_backend.gold_check import draw_check
    from coral_backend.slices import slice_lines

    with _context(debug) as (settings, store):
        number = _project_id(store, project)
        drawn = None
        if not show:
            with _client(settings) as client:
                drawn = draw_check(store, settings, client, number, per_slice=per_slice, only=only)
        lines = slice_lines(store, store.project(number))
        if as_json:
            told = {"drawn": drawn.to_json() if drawn else None, "slices": [line.to_json() for line in lines]}
            click.echo(json.dumps(told, indent=2))
            return
        terminal().print(slices_table(lines))
        if drawn is not None:
            small = f"; {drawn.passed_over} slices were too small (name one: --slice NAME)" if drawn.passed_over else ""
            click.echo(f"{drawn.new} tasks drawn, {drawn.to_do} to label in the tab Gold check{small}.")
            if settings.label_studio_url and drawn.tab is not None:
                click.echo(f"Look: {settings.label_studio_url.rstrip('/')}/projects/{number}/data?tab={drawn.tab}")


@main.command()
@click.argument("round_name", metavar="[ROUND]", required=False)
@_project_option
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Most changes to show.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def changes(debug: bool, round_name: str | None, *, project: int | None, limit: int, as_json: bool) -> None:
    """Show what a round changed elsewhere.

    The verdicts of ROUND (default: the newest) that differ from those of the round it was built on.
    """
    from dataclasses import asdict

    from coral_backend.console import changes_table, effect_text, terminal
    from coral_backend.effects import changes as changed

    with _context(debug) as (_, store):
        chosen = _project_id(store, project)
        effect, found = changed(store, chosen, round_name, limit=limit)
        if as_json:
            click.echo(json.dumps({"effect": effect.to_json(), "changes": [asdict(one) for one in found]}, indent=2))
            return
        terminal().print(changes_table(found, store.project(chosen).label_space.shown))
        click.echo(f"Round{effect_text(effect.to_json())[5:]}.")


@main.command()
@click.argument("round_name", metavar="ROUND")
@_project_option
@click.pass_obj
def rollback(debug: bool, round_name: str, project: int | None) -> None:
    """Go back to an older round.

    Its predictions and examples serve again, and the next round builds on it. Labels of people stay.
    """
    from coral_backend.rollback import roll_back

    with _context(debug) as (settings, store):
        number = _project_id(store, project)
        done = roll_back(store, settings, lambda: _client(settings), number, round_name)
    click.echo(f"Round {done.round} of project {number} serves again instead of round {done.before} ({done.version}).")
    click.echo(f"  predictions  {done.pushed} pushed again, the others were there still")
    if done.new_tasks:
        then = (
            "are labelled by its model" if done.model_kept else "wait for the next round: its model is no longer kept"
        )
        click.echo(f"  new tasks    {done.new_tasks} came after it and {then}")
    click.echo(f"The next round builds on it: coral round --project {number}")


@main.command()
@_project_option
@click.option(
    "--format", "file_format", type=click.Choice(["xlsx", "csv", "jsonl", "parquet", "hf"]),
    help="Default: the ending of the file. hf is a folder (or a .zip) for Hugging Face's load_dataset.",
)  # fmt: skip
@click.option(
    "--output", required=True, type=click.Path(path_type=Path), help="File to write; replaced when it is complete."
)
@click.option(
    "--all/--clean-only", "everything", default=True, help="All tasks, or those flagged clean or labelled by people."
)
@click.pass_obj
def export(debug: bool, project: int | None, file_format: str | None, output: Path, everything: bool) -> None:
    """Write the labels to a file.

    Excel, CSV, JSON lines, Parquet or a Hugging Face folder, with every label and score of each task.
    """
    from coral_backend.console import terminal
    from coral_backend.export import export as write

    with _context(debug) as (_, store), terminal().status("Reading the labels") as line:

        def count(done: int) -> None:
            if done % 500 == 0:
                line.update(f"Writing {output.name}: {done:,} tasks")

        number = _project_id(store, project)
        written = write(store, number, output, file_format, clean_only=not everything, progress=count)
    click.echo(f"{written.path}: {written.rows} tasks ({written.format})")
    if written.escaped:
        click.echo(f"{written.escaped} cells that a spreadsheet would take for formulas got a ' in front.")
    if written.cut:
        click.echo(f"{written.cut} texts were too long for Excel and were cut; the other formats have them whole.")


@main.command()
@_project_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def doctor(debug: bool, project: int | None, as_json: bool) -> None:
    """Check everything, and say the cures.

    Every part, and both directions between CORAL and Label Studio. Exits with 1 if anything is broken.
    """
    from coral_backend.doctor import examine, failed, from_error

    try:
        checks = examine(_settings(debug), project)
    except CoralError as error:  # the settings themselves; without them nothing can be looked at
        checks = [from_error("settings", error)]
    if as_json:
        click.echo(json.dumps({"ok": not failed(checks), "checks": [one.to_json() for one in checks]}, indent=2))
    else:
        from coral_backend.console import checks_table, terminal

        terminal().print(checks_table(checks))
        click.echo("Something needs mending; see the cures above." if failed(checks) else "Nothing is broken.")
    if failed(checks):
        sys.exit(1)


@main.command()
@click.option(
    "--check", "checked", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
    help="Only say whether this task strategy (YAML) is right, and on which lines it is not.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def strategies(debug: bool, checked: tuple[Path, ...], as_json: bool) -> None:
    """List the strategies to choose from.

    Where each comes from: built in, or a file of yours (CORAL_STRATEGIES). How to write one: docs/ADD_A_TASK_TYPE.md.
    """
    from coral_backend import catalogue

    if checked:
        wrong = {path: catalogue.check(path) for path in checked}
        for path, mistakes in wrong.items():
            for line in [str(one) for one in mistakes] or [f"{path.name}: nothing is wrong."]:
                click.echo(line, err=bool(mistakes))
        sys.exit(1 if any(wrong.values()) else 0)
    found = list(catalogue.entries(_settings(debug)))
    if as_json:
        click.echo(json.dumps([one.to_json() for one in found], indent=2))
        return
    for kind, setting in catalogue.KINDS.items():
        click.echo(f"{kind} ({setting})")
        for one in (one for one in found if one.kind == kind):
            click.echo(f"  {one.name:<21} {one.about or 'WRONG, cannot be used:'}  [{one.origin}]")
            for mistake in one.mistakes:
                click.echo(f"    {mistake}")


# --- rounds -------------------------------------------------------------------------------------------------------


def _dry_run(
    settings: Settings, store: Store, project_id: int, own: dict[str, Any], *, retrain: bool, as_json: bool
) -> None:
    from coral_backend.console import estimate_table, terminal
    from coral_backend.estimate import estimate

    found = estimate(store, settings, project_id, lambda: _client(settings), retrain=retrain, options=own)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2))
    else:
        terminal().print(estimate_table(found))


def _stop_round(settings: Settings, store: Store, project_id: int, action: str) -> None:
    from coral_backend.types import RoundStatus

    active = store.active_round(project_id)
    if active is None:
        raise NotFoundError(
            f"Project {project_id} has no active round, so there is nothing to {action}. See: coral status."
        )
    if action == "pause":
        store.set_round_status(active.id, RoundStatus.PAUSED, "Paused by hand.")
        click.echo(
            f"Round {active.name} is paused at {active.stage}. Go on: coral round --project {project_id} --resume"
        )
    else:
        store.set_round_status(active.id, RoundStatus.CANCELLED, "Cancelled by hand.")
        click.echo(f"Round {active.name} is cancelled. The labels it had got stay; the round before it serves on.")
        if any(batch.open for batch in store.ledger.batches(active.id)):
            _cancel_batches(settings, store, active)


def _cancel_batches(settings: Settings, store: Store, over: Round) -> None:
    from coral_backend.jobs import settle_round

    try:
        left = settle_round(store, settings, over.id)
    except CoralError as error:
        click.echo(f"Its batches could not be cancelled at the endpoint yet; a worker will try again. ({error})")
        return
    later = " What they bring is read by a worker when they have ended." if left else ""
    click.echo(f"Its batches are cancelled at the endpoint; what they had done is kept.{later}")


def _take_or_create(
    settings: Settings, store: Store, project_id: int, own: dict[str, Any], *, retrain: bool, resume: bool
) -> Round:
    """Return the active round of a project, made to go on if it was paused and that is asked for; else a new one."""
    from coral_backend.launch import begin_round, change_round
    from coral_backend.types import RoundStatus

    active = store.active_round(project_id)
    if active is None and resume:
        raise NotFoundError(f"Project {project_id} has no paused round. Start one: coral round --project {project_id}.")
    if active is None:
        return begin_round(store, settings, project_id, own, retrain=retrain)
    if active.status is RoundStatus.PAUSED:
        if not resume:
            raise ConflictError(
                f"Round {active.name} is paused at {active.stage}: {active.error or 'no reason is known'} "
                f"Go on: coral round --project {project_id} --resume. Give it up: --cancel."
            )
        change_round(store, settings, active, own)
        click.echo(f"Round {active.name} goes on at {active.stage}.")
        return store.set_round_status(active.id, RoundStatus.PENDING)
    change_round(store, settings, active, own)
    click.echo(f"Round {active.name} is under way ({active.stage}); following it.")
    return active


def _hand_over(settings: Settings, store: Store, current: Round, *, detach: bool, alive: bool) -> None:
    from coral_backend.exceptions import QueueUnavailableError
    from coral_backend.jobs import request_advance

    try:
        if not store.lease_is_held(_lease_name(current)):
            request_advance(settings, current.id, stage=current.stage)
    except QueueUnavailableError as error:
        if not detach:
            raise
        click.echo(f"The queue cannot be told ({error}) The round is in the database and a worker will find it there.")
    if detach:
        waits = "a worker takes it" if alive else "it waits for a worker (coral worker)"
        click.echo(f"Round {current.name} of project {current.project_id}: {waits}. Follow it: coral status")


def _follow(settings: Settings, store: Store, current: Round) -> Round:
    from coral_backend.console import terminal
    from coral_backend.follow import follow

    console, next_look, warned = terminal(), time.monotonic() + WORKER_LOOKS_SECONDS, False

    def look(_: Round) -> None:
        nonlocal next_look, warned
        if time.monotonic() < next_look:
            return
        next_look = time.monotonic() + WORKER_LOOKS_SECONDS
        if not warned and not _worker_is_alive(settings):
            warned = True
            console.print("No worker is alive any more; the round waits for one: coral worker", style="yellow")

    try:
        return follow(store, current.id, console, idle=look)
    except KeyboardInterrupt:
        click.echo(f"Round {current.name} goes on without you. Look: coral status. End it: coral round --cancel")
        sys.exit(130)


def _run_here(settings: Settings, store: Store, current: Round) -> Round:
    """Run a round in this process, in the foreground."""
    from coral_backend.console import terminal, watching
    from coral_backend.exceptions import UnavailableError
    from coral_backend.rounds import RoundRunner

    _wait_for_lease(store, current)
    again = f"What is done is kept; go on with: coral round --project {current.project_id}"
    try:
        with _sigterm_interrupts(), watching(terminal(), store, current.id) as watch:
            return RoundRunner(store, settings, lambda: _client(settings), watch=watch).run(current.id)
    except KeyboardInterrupt:
        click.echo(f"Round {current.name} stopped. {again}")
        sys.exit(130)
    except UnavailableError:
        click.echo(again, err=True)
        raise


def _wait_for_lease(store: Store, current: Round) -> None:
    """Wait until nobody else works on the round: another process, or one that was killed less than two minutes ago."""
    told = False
    while store.lease_is_held(_lease_name(current)):
        if not told:
            click.echo(f"Another process works on round {current.name}, or was killed a moment ago; waiting for it.")
            told = True
        time.sleep(1.0)


def _lease_name(current: Round) -> str:
    from coral_backend.rounds import round_lease

    return round_lease(current.id)


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM end a round as Ctrl-C does, so that its lease is given back."""

    def interrupt(_signum: int, _frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _conclude(settings: Settings, done: Round) -> None:
    """Print what came out; exit with 1 unless the round was finished."""
    from coral_backend.console import round_table, terminal
    from coral_backend.types import RoundStatus

    if done.status is not RoundStatus.DONE:
        raise ConflictError(f"Round {done.name} is {done.status} at {done.stage}: {done.error or 'see coral status.'}")
    terminal().print(round_table(done))
    if settings.label_studio_url:
        click.echo(f"Look: {settings.label_studio_url.rstrip('/')}/projects/{done.project_id}/data")


# --- parts --------------------------------------------------------------------------------------------------------


def _settings(debug: bool) -> Settings:
    """Return the settings, with the log quiet beside tables and bars unless somebody asked for more."""
    from coral_backend import logs
    from coral_backend.settings import Settings

    settings = Settings.load()
    asked = "log_level" in settings.model_fields_set
    level = "DEBUG" if debug else settings.log_level if asked else "WARNING"
    logs.configure(settings.model_copy(update={"log_level": level}))
    return settings


@contextmanager
def _context(debug: bool) -> Iterator[tuple[Settings, Store]]:
    from coral_backend.store import Store

    settings = _settings(debug)
    with closing(Store(settings.store_url)) as store:
        yield settings, store


def _client(settings: Settings) -> LabelStudioClient:
    from coral_backend.jobs import client_for

    return client_for(settings)


def _project_id(store: Store, given: int | None) -> int:
    """Return the project that is meant: the one named, else the only one connected."""
    if given is not None:
        return store.project(given).id
    known = store.projects()
    if len(known) == 1:
        return known[0].id
    if not known:
        raise NotFoundError("No project is connected. Connect one: coral connect --project ID.")
    there = ", ".join(f"{one.id} ({one.title!r})" for one in known)
    raise InputError(f"{len(known)} projects are connected: {there}. Say which one: --project ID.")


def _worker_is_alive(settings: Settings) -> bool:
    return bool(_queue_state(settings)["workers"])


def _queue_state(settings: Settings) -> dict[str, Any]:
    """Return whether Redis answers, and the workers that are alive."""
    from coral_backend import queue

    try:
        with closing(queue.connect(settings)) as client:
            found = queue.workers(client)
    except CoralError as error:
        return {"redis": str(error).partition(". ")[0], "workers": []}
    alive = [f"{one.name} ({one.state})" for one in found if one.heartbeat_seconds <= 90]
    return {"redis": "up", "workers": alive}


if __name__ == "__main__":
    main()
