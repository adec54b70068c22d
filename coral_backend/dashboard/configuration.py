"""What can the lead set for one project, and is what was typed allowed? Read off the settings themselves.

A field that is left empty takes the value of the whole process. A setting that a project may set and that has no place here
yet appears under "More": a new option needs no change of this file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args, get_origin

from coral_backend.backend import ANNOTATORS
from coral_backend.controls import demos_of, project_of, settings_of, spaces
from coral_backend.exceptions import LabelConfigError, SettingsError
from coral_backend.labelstudio.control_tags import parse_config
from coral_backend.settings import PROJECT_OPTIONS, Settings
from coral_backend.task_prompt import PARTS, named_strategy, prompt_for, strategy_for, task_names
from coral_backend.types import Demo, Project

__all__ = ["Field", "Form", "fields", "preview", "read", "values_of"]

GROUPS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    (
        "Task",
        (
            "task_strategy",
            "annotator",
            "llm_model",
            "llm_models",
            "annotation",
            "votes",
            "recorded_key",
            "slice_key",
            "budget",
            "batch",
        ),
    ),
    ("Demonstrations", ("first_demonstration", "demonstration", "n_demos")),
    ("Small model", ("slm_model", "epochs", "warmup_epochs", "p_threshold", "max_length")),
    ("Review", ("review_share",)),
)
PROMPT_GROUP, MEANING_GROUP, MORE_GROUP = "Prompt", "What the labels mean", "More"
LABELS: Final[Mapping[str, str]] = {
    "task_strategy": "Task strategy",
    "annotator": "Annotator",
    "llm_model": "LLM",
    "llm_models": "Several LLMs",
    "annotation": "How answers become a label",
    "budget": "Most that a round may cost (USD)",
    "recorded_key": "Key of labels that exist already",
    "slice_key": "Key that parts the corpus",
    "first_demonstration": "Demonstrations of round 1",
    "demonstration": "Demonstrations of later rounds",
    "n_demos": "How many demonstrations",
    "slm_model": "SLM",
    "epochs": "Epochs after the warm-up, at most",
    "warmup_epochs": "Warm-up epochs",
    "p_threshold": "Clean above this clean-probability",
    "max_length": "Tokens of a text that the SLM reads",
    "max_text_chars": "Longest text, in characters",
    "review_share": "Share of the tasks that people plan to look at",
    "controls": "Controls that are served",
    "control_options": "Options of single controls",
    "prompt_task": "1. Task description",
    "prompt_demonstration": "2. In-context demonstration",
    "prompt_output": "3. Output control",
}
HELP: Final[Mapping[str, str]] = {
    "prompt_task": "", "prompt_demonstration": "", "prompt_output": "", "max_length": "",
    "review_share": "The overview counts what people have labelled against it.",
    "p_threshold": "A label whose clean-probability is lower is flagged noisy.",
    "epochs": "It stops earlier when the labels no longer change.",
    "first_demonstration": "Which labelled examples the LLM sees.",
    "demonstration": "Chosen among clean tasks and those that people labelled.",
}  # fmt: skip
"""What the form says where the settings' own words are for whoever starts the process."""

DEFINITIONS = "label_definitions"
DEFINITION_PREFIX = "definition-"
MAX_WORDS = 8_000
"""Characters of a prompt part; it is paid for with every request."""

DEMONSTRATION_NAMES: Final = ("distilled_selection", "retrieval", "self_labeling")
ANNOTATION_NAMES: Final = ("single", "vote", "chain", "two_candidates", "small_first")
"""As registered; asking the registry itself would load scikit-learn into the web process."""


@dataclass(frozen=True)
class Field:
    """One control of the form.

    Attributes
    ----------
    kind : str
        ``text``, ``number``, ``select`` or ``area``.
    value : str
        What stands in it; empty where the project has no value of its own.
    default : str
        What holds then.
    """

    name: str
    label: str
    help: str
    kind: str
    value: str
    default: str
    group: str
    choices: Sequence[str] = ()
    low: float | None = None
    high: float | None = None
    whole: bool = False
    error: str | None = None


@dataclass(frozen=True)
class Form:
    """What a submitted form says.

    Attributes
    ----------
    options : mapping
        The project's options, ready to be stored; meaningless when there are errors.
    errors : mapping of str to str
        By field.
    """

    values: Mapping[str, str]
    options: Mapping[str, Any]
    errors: Mapping[str, str]


def values_of(settings: Settings, project: Project, options: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts that the form shows for `options`."""
    values = {name: _shown(options.get(name)) for name in PROJECT_OPTIONS - {DEFINITIONS}}
    base = _quietly(settings, options)
    for view, ending in _views(project):
        own_options = _own_options(options, view)
        strategy = named_strategy(settings_of(base, view), view)
        for name, part in PARTS.items():  # a part is easier to change than to write
            values[f"{name}{ending}"] = str(own_options.get(name) or options.get(name) or getattr(strategy, part))
        own = own_options.get(DEFINITIONS) or {}
        labels = view.label_space.labels
        values |= {f"{DEFINITION_PREFIX}{i}{ending}": own.get(label, "") for i, label in enumerate(labels)}
    values["control_options"] = (
        json.dumps(_without_words(options), ensure_ascii=False) if _without_words(options) else ""
    )
    return values


def _views(project: Project) -> list[tuple[Project, str]]:
    """Return the project as each control has it, and how the names of its fields end; of one control, with nothing."""
    if not project.label_space.controls:
        return [(project, "")]
    return [(project_of(project, space), f"-of-{i}") for i, space in enumerate(project.label_space.controls)]


def _own_options(options: Mapping[str, Any], view: Project) -> dict[str, Any]:
    """Return the options of a control, with the meanings of its labels as an object; of the only one, those of the project."""
    own = (
        dict(options)
        if view.control is None
        else json.loads(options.get("control_options") or "{}").get(view.control, {})
    )
    said = own.get(DEFINITIONS)
    meanings = json.loads(options.get(DEFINITIONS) or "{}") if view.control is not None else {}
    return {**own, DEFINITIONS: {**meanings, **(json.loads(said or "{}") if not isinstance(said, dict) else said)}}


def _without_words(options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what controls have for themselves besides prompts and meanings, which have fields of their own."""
    worded = {*PARTS, DEFINITIONS}
    found = json.loads(options.get("control_options") or "{}")
    rest = {name: {key: value for key, value in own.items() if key not in worded} for name, own in found.items()}
    return {name: own for name, own in rest.items() if own}


def _quietly(settings: Settings, options: Mapping[str, Any]) -> Settings:
    """Return the settings with `options`, or without them where they do not hold (any more)."""
    try:
        return settings.with_options(options)
    except SettingsError:
        return settings


def fields(
    settings: Settings, project: Project, values: Mapping[str, str], errors: Mapping[str, str]
) -> dict[str, list[Field]]:
    """Return the controls by group; the groups are in their order."""
    placed = {name: group for group, names in GROUPS for name in names}
    order = [name for _, names in GROUPS for name in names]
    rest = sorted(PROJECT_OPTIONS - set(order) - set(PARTS) - {DEFINITIONS})
    found: dict[str, list[Field]] = {group: [] for group, _ in GROUPS}
    for view, ending in _views(project):
        of_it = "" if view.control is None else f" · {view.control}"
        words = [
            _field(settings, view, name, group=PROMPT_GROUP, values=values, errors=errors, ending=ending)
            for name in PARTS
        ]
        found[f"{PROMPT_GROUP}{of_it}"] = words
        found[f"{MEANING_GROUP}{of_it}"] = _definitions(settings, view, values, errors, ending)
    found[MORE_GROUP] = []
    for name in [*(n for n in order if n in PROJECT_OPTIONS), *rest]:
        field = _field(settings, project, name, group=placed.get(name, MORE_GROUP), values=values, errors=errors)
        found[field.group].append(field)
    return {group: rows for group, rows in found.items() if rows}


def _field(
    settings: Settings,
    project: Project,
    name: str,
    *,
    group: str,
    values: Mapping[str, str],
    errors: Mapping[str, str],
    ending: str = "",
) -> Field:
    info = Settings.model_fields[name]
    choices = _choices(settings, project, name)
    kinds = _kinds(name)
    number = bool(kinds & {int, float})
    low, high = (
        next((float(getattr(m, key)) for m in info.metadata for key in keys if hasattr(m, key)), None)
        for keys in (("ge", "gt"), ("le", "lt"))
    )
    return Field(
        name=f"{name}{ending}",
        label=LABELS.get(name, name.replace("_", " ").capitalize().replace("Llm", "LLM")),
        help=HELP.get(name, str(info.description or "")),
        kind="area" if name in PARTS else "select" if choices else "number" if number else "text",
        value=values.get(f"{name}{ending}", ""),
        default="" if name in PARTS else _shown(getattr(settings, name)),
        group=group,
        choices=choices,
        low=low,
        high=high,
        whole=int in kinds,
        error=errors.get(f"{name}{ending}"),
    )


def _definitions(
    settings: Settings, project: Project, values: Mapping[str, str], errors: Mapping[str, str], ending: str
) -> list[Field]:
    base = settings_of(_quietly(settings, project.options), project)
    space, strategy = project.label_space, named_strategy(base, project)
    return [
        Field(
            name=f"{DEFINITION_PREFIX}{i}{ending}",
            label=label,
            help="",
            kind="text",
            value=values.get(f"{DEFINITION_PREFIX}{i}{ending}", ""),
            default=settings.definitions.get(label) or space.definitions.get(label) or strategy.definition(label),
            group=MEANING_GROUP,
            error=errors.get(f"{DEFINITION_PREFIX}{i}{ending}"),
        )
        for i, label in enumerate(space.labels)
    ]


def _choices(settings: Settings, project: Project, name: str) -> Sequence[str]:
    """Return the names that a field may have; of paths and models only those that somebody with the environment chose."""
    known: Mapping[str, Sequence[str]] = {
        "annotator": ANNOTATORS,
        "task_strategy": ("auto", *task_names(settings)) if name == "task_strategy" else (),
        "first_demonstration": DEMONSTRATION_NAMES,
        "demonstration": DEMONSTRATION_NAMES,
        "annotation": ANNOTATION_NAMES,
        "slm_model": ("embedded",),
    }
    if name not in known:
        listed = get_args(Settings.model_fields[name].annotation) if _kinds(name) == {Literal} else ()
        return ("true", "false") if bool in _kinds(name) else listed
    trusted = (getattr(settings, name), project.options.get(name))
    return list(dict.fromkeys([*known[name], *(str(value) for value in trusted if value)]))


def _kinds(name: str) -> set[Any]:
    """Return the types that a setting may have, without None; ``Literal`` for one of a few words."""
    annotation = Settings.model_fields[name].annotation
    if get_origin(annotation) is Literal:
        return {Literal}
    return (set(get_args(annotation)) or {annotation}) - {type(None)}


def read(settings: Settings, project: Project, sent: Mapping[str, str]) -> Form:
    """Return what was sent as options, or what is wrong with which field."""
    values = {name: _tidy(text) for name, text in sent.items()}
    options: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for name in sorted(PROJECT_OPTIONS - {DEFINITIONS} - set(PARTS)):
        if values.get(name):
            _take(settings, project, name, values[name], options=options, errors=errors)
    _check_controls(settings, project, options, errors)
    _take_words(settings, project, values, options, errors)
    if options.get("annotator") == "recorded" and not (options.get("recorded_key") or settings.recorded_key):
        errors["recorded_key"] = "The annotator is 'recorded': name the key of the tasks' data that holds the labels."
    return Form(values, options, errors)


def _take(
    settings: Settings, project: Project, name: str, text: str, *, options: dict[str, Any], errors: dict[str, str]
) -> None:
    choices = _choices(settings, project, name)
    if choices and text not in choices:
        errors[name] = f"{text[:40]!r} is none of: {', '.join(choices)}."
        return
    try:
        options[name] = getattr(settings.with_options({name: text}), name)
    except SettingsError as error:
        reason = str(error).removeprefix("Wrong project option. ")
        errors[name] = f"{text[:40]!r} is not allowed: {reason[:1].lower()}{reason[1:]}"


def _check_controls(settings: Settings, project: Project, options: Mapping[str, Any], errors: dict[str, str]) -> None:
    """Say what is wrong with the choice of controls, and with options for one that there is not."""
    if options.get("controls") != project.options.get("controls"):
        try:
            parse_config(project.label_config, str(options.get("controls") or settings.controls))
        except LabelConfigError as error:
            errors["controls"] = str(error)
    there = [space.from_name for space in spaces(project.label_space)]
    named = set(json.loads(str(options.get("control_options") or "{}")))
    if unknown := sorted(named - set(there)):
        errors["control_options"] = f"There is no control {unknown[0][:40]!r}. Allowed: {', '.join(there)}."


def _take_words(
    settings: Settings, project: Project, values: Mapping[str, str], options: dict[str, Any], errors: dict[str, str]
) -> None:
    """Take the prompt's parts and the labels' meanings: as the project's own, or as those of each of several controls."""
    by_control: dict[str, dict[str, Any]] = json.loads(options.get("control_options") or "{}")
    for view, ending in _views(project):
        said = {
            label: values[f"{DEFINITION_PREFIX}{i}{ending}"]
            for i, label in enumerate(view.label_space.labels)
            if values.get(f"{DEFINITION_PREFIX}{i}{ending}")
        }
        base = settings_of(_quietly(settings, _plain(options)), view)
        words: dict[str, Any] = _prompt_parts(base, view, values, errors, ending)
        if view.control is None:
            options |= words
            if said:
                options[DEFINITIONS] = json.dumps(said, ensure_ascii=False)
        elif words or said:
            by_control[view.control] = {
                **by_control.get(view.control, {}),
                **words,
                **({DEFINITIONS: said} if said else {}),
            }
    if project.label_space.controls and by_control:
        options["control_options"] = json.dumps(by_control, ensure_ascii=False)


def _prompt_parts(
    base: Settings, project: Project, values: Mapping[str, str], errors: dict[str, str], ending: str
) -> dict[str, str]:
    """Return the parts of the prompt that are not the task strategy's own words: those follow the strategy when another is chosen."""
    strategy, found = named_strategy(base, project), {}
    for name, part in PARTS.items():
        text = values.get(f"{name}{ending}", "")
        if not text or text == getattr(strategy, part).strip():
            continue
        if len(text) > MAX_WORDS:
            errors[f"{name}{ending}"] = (
                f"{len(text):,} characters; at most {MAX_WORDS:,}: it is paid for with every request."
            )
            continue
        try:
            strategy_for(base.with_options({name: text}), project)
        except SettingsError as error:
            errors[f"{name}{ending}"] = str(error).partition(": ")[2]
            continue
        found[name] = text
    return found


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that decide which strategy is looked at."""
    return {name: value for name, value in options.items() if name in ("task_strategy", "control_options")}


def preview(
    settings: Settings, project: Project, options: Mapping[str, Any], demos: Sequence[Demo], text: str
) -> list[dict[str, str]]:
    """Return the messages that an LLM would get for `text` under `options`.

    Raises
    ------
    SettingsError
        If the options do not hold.
    """
    own, found = settings.with_options(options), []
    for view, _ in _views(project):
        mine = demos if view.control is None else demos_of(demos, view.control)
        of_it = "" if view.control is None else f"{view.control}: "
        messages = prompt_for(settings_of(own, view), view, mine).messages(text)
        found += [{**message, "role": f"{of_it}{message['role']}"} for message in messages]
    return found


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _tidy(text: str) -> str:
    """Return what was typed with one kind of line end, without NUL and blanks around it."""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "�").strip()
