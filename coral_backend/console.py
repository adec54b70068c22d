"""How do rounds, projects and checks look in a terminal? Tables for ``coral``; texts from outside never become markup."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from coral_backend.follow import bars, show
from coral_backend.slices import SliceLine, said_of, worth_showing
from coral_backend.store import Store
from coral_backend.types import Change, Flag, Round, Stage

if TYPE_CHECKING:  # `coral status` need not wait for what the round and the doctor import
    from coral_backend.costs import CostLine
    from coral_backend.doctor import Check
    from coral_backend.estimate import Estimate
    from coral_backend.rounds import Watch
    from coral_backend.status import ProjectStatus, RoundLine

__all__ = [
    "changes_table",
    "checks_table",
    "effect_text",
    "estimate_table",
    "project_panel",
    "round_table",
    "slices_table",
    "terminal",
    "watching",
]

PIPE_WIDTH = 160
"""Columns where the output is no terminal: wide enough that nothing is cut."""

FLAG_STYLES: Mapping[str, str] = {"clean": "green", "noisy": "red", "inconsistent": "magenta"}
STATUS_STYLES: Mapping[str, str] = {
    "ok": "green", "warn": "yellow", "fail": "red", "skip": "dim",
    "done": "green", "failed": "red", "cancelled": "dim", "stale": "yellow", "paused": "yellow",
}  # fmt: skip


def terminal() -> Console:
    """Return the console that tables are printed on."""
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)


@contextmanager
def watching(console: Console, store: Store, round_id: int) -> Iterator[Watch]:
    """Give a watcher for a round that runs in this process; it draws progress bars."""
    latest = store.round(round_id)
    with bars(console) as display:
        lines: dict[Stage, Any] = {}

        def watch(stage: Stage, done: int, total: int, detail: Mapping[str, Any]) -> None:
            nonlocal latest
            progress = {**latest.progress, str(stage): {**detail, "done": done, "total": total}}
            latest = replace(latest, stage=stage, progress=progress)
            show(display, lines, latest)

        show(display, lines, latest)
        yield watch
        show(display, lines, store.round(round_id))


def round_table(done: Round) -> Table:
    """Return what came out of a round."""
    metrics = done.metrics
    table = Table(title=f"Round {done.name} of project {done.project_id}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("annotator", Text(str(metrics.get("annotator") or "-")))
    table.add_row("task strategy", Text(str(metrics.get("task_strategy") or "-")))
    counts = f"{metrics.get('annotated', 0)} labelled, {metrics.get('abstained', 0)} abstained"
    table.add_row("tasks", f"{metrics.get('tasks', 0)} ({counts}), {metrics.get('human_labels', 0)} labelled by people")
    table.add_row("flags", _flags(metrics.get("flags", {})))
    for name, told in (metrics.get("by_control") or {}).items():
        table.add_row(Text(f"  {name}"), _of_control(told))
    table.add_row("agreement with people", _agreement(metrics.get("agreement", {})))
    pushed = metrics.get("pushed", {})
    table.add_row("pushed", f"{pushed.get('created', 0)} of {pushed.get('sent', 0)}{_dropped(pushed)}")
    table.add_row("version", Text(done.model_version or "-"))
    table.add_row(
        "seconds", ", ".join(f"{stage} {spent:.1f}" for stage, spent in metrics.get("seconds", {}).items()) or "-"
    )
    for note in metrics.get("notes") or ():
        table.add_row("note", Text(str(note)))
    for one in metrics.get("slices") or ():
        if one.get("slm_first"):
            table.add_row("SLM-first", Text(said_of(one)))
    return table


def _flags(counts: Mapping[str, int]) -> Text:
    parts = [Text(f"{counts.get(str(flag), 0)} {flag}", style=FLAG_STYLES[str(flag)]) for flag in Flag]
    return Text(", ").join(parts)


def _of_control(told: Mapping[str, Any]) -> Text:
    """Return how one of several controls stands."""
    return Text.assemble(_flags(told.get("flags", {})), f"; {_agreement(told.get('agreement', {}))}")


def _agreement(found: Mapping[str, Any]) -> str:
    if not found.get("n"):
        return "no label of a person yet"
    return f"LLM {_percent(found.get('llm'))}, SLM {_percent(found.get('slm'))} of {found['n']} tasks"


def _dropped(pushed: Mapping[str, Any]) -> str:
    dropped = list(pushed.get("dropped") or ())
    return f"; not taken by Label Studio: tasks {', '.join(map(str, dropped[:10]))}" if dropped else ""


def project_panel(found: ProjectStatus) -> RenderableType:
    """Return how a project stands: facts, then a line for each round."""
    facts = Table(title=Text(f"Project {found.id}: {found.title}"), show_header=False, title_justify="left")
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    unreadable = f", {found.unreadable} without a readable text" if found.unreadable else ""
    facts.add_row("tasks", f"{found.tasks}{unreadable}, {found.waiting} waiting for a worker")
    facts.add_row("annotator", Text(f"{found.annotator or '-'}: {found.annotated} labels, {found.abstained} abstained"))
    facts.add_row("people", f"{found.human_labels} labels, {found.new_changes} changes not learned from yet")
    facts.add_row("flags", _flags(found.flags))
    for name, told in found.controls.items():
        facts.add_row(Text(f"  {name}"), _of_control(told))
    facts.add_row("version", Text(found.model_version))
    facts.add_row("tokens", f"{found.tokens['prompt']:,} prompt, {found.tokens['completion']:,} completion")
    facts.add_row("cost", _cost(found))
    if found.active is not None:
        facts.add_row("now", _now(found))
    for note in found.notes:
        facts.add_row("note of the SLM", Text(note))
    effect = next((line.effect for line in found.rounds if line.serves), None)
    if effect is not None:
        facts.add_row("effect", Text(effect_text(effect)))
    parts: list[RenderableType] = [facts]
    parts += [_history(found.rounds)] if found.rounds else []
    parts += [slices_table(found.slices)] if worth_showing(found.slices) else []
    parts += [_costs(found.costs)] if found.costs else []
    return Group(*parts)


def slices_table(lines: Iterable[SliceLine]) -> Table:
    """Return how LLM and SLM do in each part of the corpus, and how good its labels are by a gold check."""
    table = Table(title="Slices (by the labels people have given so far)", title_justify="left")
    table.add_column("slice", overflow="fold")
    for name in ("tasks", "checked", "LLM right", "SLM right"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("routed", no_wrap=True)
    table.add_column("gold check: machine's labels right", overflow="fold")
    for line in lines:
        routed = Text("SLM-first", style="magenta") if line.slm_first else Text("as usual")
        numbers = (f"{line.tasks:,}", str(line.checked), _percent(line.llm), _percent(line.slm))
        table.add_row(Text(line.name), *numbers, routed, _gold_check(line))
    return table


def _gold_check(line: SliceLine) -> str:
    if line.interval is None:
        return f"none of {line.drawn} drawn tasks is labelled" if line.drawn else "-"
    low, high = line.interval
    return (
        f"{_percent(line.machine)} ({low:.0%} to {high:.0%}) of {line.drawn_checked} random tasks, {line.drawn} drawn"
    )


def _cost(found: ProjectStatus) -> str:
    said = f"{_dollars(found.cost)} in all"
    active = found.active
    if active is not None and active.budget is not None:
        said += f"; round {active.name}: {_dollars(active.cost)} of a budget of {_dollars(active.budget)}"
    unsettled = sum(line.unsettled for line in found.costs)
    if unsettled:
        said += f"; {unsettled} requests never told what they took and count with the most they can have cost"
    if found.cost is None and any(line.cost is None for line in found.costs):
        said += "; some prices are not known: give them in CORAL_PRICES"
    return said


def _costs(lines: Iterable[CostLine]) -> Table:
    table = Table(title="What it cost (USD)", title_justify="left")
    for name in ("round", "annotator", "asked"):
        table.add_column(name, overflow="fold")
    for name in ("requests", "prompt", "cached", "completion", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        counts = (line.requests, line.prompt_tokens, line.cached_tokens, line.completion_tokens)
        asked = "batch" if line.batch else "live"
        numbers = (f"{count:,}" for count in counts)
        table.add_row(line.round, Text(line.annotator), asked, *numbers, _dollars(line.cost))
    return table


def _dollars(amount: float | None) -> str:
    """Return USD with four digits below a dollar, where the prices of labels are."""
    if amount is None:
        return "unknown"
    return f"${amount:,.2f}" if amount >= 100 else f"${amount:.4f}"


def effect_text(effect: Mapping[str, Any]) -> str:
    """Say in a line what a round changed elsewhere."""
    return (
        f"round {effect['round']} learned from {effect['people']} tasks that people labelled anew since round "
        f"{effect['before']}: elsewhere {effect['labels']} labels and {effect['flags']} flags changed, "
        f"of {effect['compared']} tasks"
    )


def changes_table(found: Iterable[Change], shown: Callable[[str, str], str] = lambda said, _: said) -> Table:
    """Return verdicts that a round changed; `shown` says how people read what was said of a text."""
    table = Table(title="Changed verdicts, the most doubtful first", title_justify="left")
    for name in ("task", "text", "label", "score", "flag"):
        table.add_column(name, overflow="fold", no_wrap=name in ("task", "score"))
    for one in found:
        flag = Text(str(one.flag_before)) if one.flag is one.flag_before else _flag_change(one)
        before, now = ("None" if said is None else shown(said, one.text) for said in (one.label_before, one.label))
        label = now if one.label == one.label_before else f"{before} → {now}"
        label += " (by a person)" if one.by_person else ""
        score = f"{_percent(one.score_before)} → {_percent(one.score)}"
        table.add_row(str(one.task_id), Text(_short(one.text)), Text(label), score, flag)
    return table


def _flag_change(one: Change) -> Text:
    return Text(f"{one.flag_before} → ").append(str(one.flag), style=FLAG_STYLES[str(one.flag)])


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else f"{line[:79]}…"


def _now(found: ProjectStatus) -> Text:
    active = found.active
    assert active is not None
    entry = found.progress.get(active.stage, {})
    text = f"round {active.name} is {active.status}, {active.stage} {entry.get('done', 0)}/{entry.get('total', '?')}"
    return Text(f"{text}: {active.error}" if active.error else text, style=STATUS_STYLES.get(active.status, "cyan"))


def _history(rounds: Iterable[RoundLine]) -> Table:
    table = Table(title="Rounds (agreement with the labels people have given so far; * serves)", title_justify="left")
    for name in (
        "round", "status", "LLM", "SLM", "of", "clean", "noisy", "inconsistent", "changed", "tokens", "cost", "seconds",
    ):  # fmt: skip
        table.add_column(name, justify="left" if name in ("round", "status") else "right", no_wrap=True)
    table.add_column("version", overflow="fold")
    for line in rounds:
        flags = (str(line.flags.get(str(flag), "-")) for flag in (Flag.CLEAN, Flag.NOISY, Flag.INCONSISTENT))
        table.add_row(
            f"{line.name} *" if line.serves else line.name,
            Text(line.status, style=STATUS_STYLES.get(line.status, "cyan")), _percent(line.llm), _percent(line.slm),
            str(line.compared), *flags, str(line.effect["tasks"]) if line.effect else "-", f"{line.tokens:,}",
            "-" if line.cost is None else _dollars(line.cost), f"{line.seconds:.0f}",
            Text(line.model_version or line.error or "-"),
        )  # fmt: skip
    return table


def estimate_table(found: Estimate) -> Table:
    """Return what ``coral round --dry-run`` found."""
    title = f"Round {found.round} of project {found.project}: what it would ask and cost. Nothing was asked."
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    where = f" at {found.endpoint}" if found.endpoint else ""
    table.add_row("annotator", Text(f"{found.annotator}{where}"))
    table.add_row("tasks", f"{found.asked:,} of {found.tasks:,} would be asked about")
    table.add_row("requests", f"{found.requests:,}")
    table.add_row("tokens", f"{found.prompt_tokens:,} prompt, {found.completion_tokens:,} completion")
    table.add_row("counted", Text(found.counted))
    table.add_row("cost", _estimated_cost(found))
    if found.budget is not None:
        table.add_row("budget", f"{_dollars(found.budget)}, spent {_dollars(found.spent)}")
    for note in found.notes:
        table.add_row("note", Text(note))
    return table


def _estimated_cost(found: Estimate) -> str:
    if found.endpoint is None or found.cost is None:
        return _dollars(found.cost)
    said = [("live", found.live_cost), ("--batch", found.batch_cost)]
    ways = ", ".join(f"{way} {_dollars(cost)}" for way, cost in said)
    return f"{ways} (prices of {found.prices_of})"


def checks_table(checks: Iterable[Check]) -> Table:
    """Return the findings of ``coral doctor``, each with its cure."""
    table = Table(show_lines=False)
    table.add_column("check", no_wrap=True)
    table.add_column("")
    table.add_column("found, and what to do", overflow="fold")
    for check in checks:
        style = STATUS_STYLES[str(check.status)]
        table.add_row(check.name, Text(str(check.status), style=style), _finding(check))
    return table


def _finding(check: Check) -> Text:
    text = Text(check.found)
    return text.append(f"\n→ {check.cure}", style="bold") if check.cure else text


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
