"""How is a Label Studio project connected to CORAL? Webhook first, then the backend; a second time changes nothing.

Label Studio gives each new backend a webhook of its own, without our secret, unless one with that address is there already.
What led to an address that we had before is taken away: whoever listens there now would be sent our password and secret.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from coral_backend import review
from coral_backend.auth import SECRETS_FILE, WEBHOOK_HEADER, Secrets, secrets_for
from coral_backend.exceptions import InputError, LabelStudioError, NotFoundError
from coral_backend.labelstudio.client import LabelStudioClient, LabelStudioHTTPError
from coral_backend.labelstudio.control_tags import parse_config
from coral_backend.labelstudio.hint import is_shown, with_hint, without_hint
from coral_backend.probe import Finding, probe
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.sync import refresh_project
from coral_backend.types import Project

__all__ = ["Connection", "connect", "parse_options", "reach", "secrets_place", "their_project"]

logger = logging.getLogger(__name__)

TITLE = "CORAL"
REACH_SECONDS = 3.0


@dataclass(frozen=True)
class Connection:
    """What ``connect`` has done.

    Attributes
    ----------
    url : str
        The backend's address as Label Studio has it.
    first : bool
        Whether CORAL did not know the project before.
    doubt : str or None
        Why this process could not reach `url` itself; Label Studio could.
    endpoints : tuple of Finding
        What the models of the LLM take, or why they cannot be asked; empty where no LLM is asked.
    """

    project: Project
    url: str
    backend_id: int
    webhook_id: int
    first: bool
    doubt: str | None = None
    endpoints: tuple[Finding, ...] = ()


def connect(
    store: Store,
    settings: Settings,
    client: LabelStudioClient,
    project_id: int,
    *,
    title: str = TITLE,
    options: Mapping[str, Any] | None = None,
    public_url: str | None = None,
    hint: bool | None = None,
) -> Connection:
    """Read a project's label config, make the webhook, then the backend row; remove those of an older address of ours.

    Last, the models of its LLM are asked one question each, if it is not known what they take.

    Parameters
    ----------
    options : mapping, optional
        Settings of this project only; they are added to those it has, and None as a value takes one away.
    public_url : str, optional
        This backend as Label Studio reaches it; default: the setting.
    hint : bool, optional
        Put the line with both candidates into the form, or take it out; None leaves the form as it is.

    Raises
    ------
    NotFoundError
        If Label Studio has no such project.
    LabelConfigError
        If it has no control that CORAL serves.
    SettingsError
        If an option does not exist or is out of range.
    LabelStudioError
        If Label Studio refuses; the message names the switch or setting that is missing. What was made before stays and is
        found again by the next try.
    """
    url = (public_url or settings.public_url).rstrip("/")
    theirs = their_project(client, project_id)
    config = str(theirs.get("label_config") or "")
    known = next((project for project in store.projects() if project.id == project_id), None)
    merged = _merged(settings, known.options if known else {}, options or {})
    parse_config(config, str(merged.get("controls") or settings.controls))  # before anything is written
    _set_hint(client, project_id, config, wanted=hint)
    project = refresh_project(store, client, project_id, controls=settings.controls, options=merged)
    secrets = secrets_for(settings)
    doubt = reach(url, settings.basic_auth_user, secrets)
    try:
        backend_id, webhook_id = client.connect(
            project_id,
            url,
            title=title,
            secret=secrets.webhook_secret,
            user=settings.basic_auth_user,
            password=secrets.password,
            extra_params=merged,
        )
    except LabelStudioHTTPError as error:
        if doubt is None:
            raise
        raise LabelStudioError(f"{error} Tried from here too: {doubt}") from error
    _remove_old_webhooks(client, project_id, url)
    _remove_old_backends(client, project_id, url, title)
    if hint is not None:
        review.fill_hint(store, client, project)
    logger.info("project %d: connected to %s (backend %d, webhook %d)", project_id, url, backend_id, webhook_id)
    endpoints = tuple(probe(store, settings, project))
    return Connection(project, url, backend_id, webhook_id, first=known is None, doubt=doubt, endpoints=endpoints)


def _set_hint(client: LabelStudioClient, project_id: int, config: str, *, wanted: bool | None) -> None:
    """Write the label config with or without our line, if that is another; Label Studio checks it."""
    if wanted is None:
        return
    changed = with_hint(config) if wanted else without_hint(config)
    if changed != config:
        client.update_project(project_id, label_config=changed)
    if not wanted and is_shown(changed):
        logger.warning("project %d: the form still shows the hint, by a line that is not CORAL's", project_id)


def _remove_old_webhooks(client: LabelStudioClient, project_id: int, url: str) -> None:
    """Remove the project's webhooks that carry our secret to another address than `url`."""
    for hook in client.request("GET", "api/webhooks/", params={"project": project_id}):
        address = str(hook.get("url")).rstrip("/")
        headers = hook.get("headers")
        carries = isinstance(headers, Mapping) and WEBHOOK_HEADER.lower() in {str(name).lower() for name in headers}
        here = hook.get("project", project_id) == project_id
        if here and carries and address != f"{url}/webhook" and urlsplit(address).path.endswith("/webhook"):
            _delete(client, f"api/webhooks/{int(hook['id'])}/")
            logger.info("project %d: removed webhook %s, which led elsewhere", project_id, hook["id"])


def _remove_old_backends(client: LabelStudioClient, project_id: int, url: str, title: str) -> None:
    """Remove the project's backends with our title at another address than `url`; Label Studio asks only the oldest."""
    rows = [
        row
        for row in client.request("GET", "api/ml", params={"project": project_id})
        if row.get("title") == title
        and str(row.get("url")).rstrip("/") != url
        and row.get("project", project_id) == project_id
    ]
    if not rows:
        return
    selected = client.project(project_id).get("model_version")
    for row in rows:
        _delete(client, f"api/ml/{int(row['id'])}")
        logger.info("project %d: removed backend %s, which led elsewhere", project_id, row["id"])
    if selected == title:  # Label Studio deselects the title with its row, though ours has it as well
        client.select_version(project_id, title)


def _delete(client: LabelStudioClient, path: str) -> None:
    try:
        client.request("DELETE", path)
    except LabelStudioHTTPError as error:
        if error.http_status != 404:  # somebody was quicker
            raise


def their_project(client: LabelStudioClient, project_id: int) -> dict[str, Any]:
    """Return the project as Label Studio has it.

    Raises
    ------
    NotFoundError
        If there is none; the message lists those that the account sees.
    """
    try:
        return client.project(project_id)
    except LabelStudioHTTPError as error:
        if error.http_status != 404:
            raise
        seen = client.projects()
        there = ", ".join(f"{row['id']} ({str(row.get('title'))[:40]!r})" for row in seen[:20]) or "none"
        more = f" and {len(seen) - 20} more" if len(seen) > 20 else ""
        raise NotFoundError(
            f"Label Studio at {client.url} has no project {project_id} that this token's account may see. "
            f"It sees: {there}{more}. Take one of them, or share the project with the account."
        ) from None


def parse_options(pairs: Sequence[str]) -> dict[str, str | None]:
    """Return ``["epochs=5", "seed="]`` as ``{"epochs": "5", "seed": None}``.

    Raises
    ------
    InputError
        If one has no ``=``, or no name before it.
    """
    options: dict[str, str | None] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name.strip():
            raise InputError(
                f"The option is {pair!r}; it must be name=value, for example epochs=5 (epochs= takes it away)."
            )
        options[name.strip()] = value.strip() or None
    return options


def _merged(settings: Settings, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the project's options with `new` ones over the `old`, checked and with their right types."""
    wanted = {name: value for name, value in {**old, **new}.items() if value is not None}
    settings.with_options({name: getattr(settings, name, None) for name in new})  # also what is taken away must exist
    resolved = settings.with_options(wanted)
    return {name: getattr(resolved, name) for name in sorted(wanted)}


def reach(url: str, user: str, secrets: Secrets) -> str | None:
    """Ask our own web process at `url`, as Label Studio will; return what is wrong and what to do, None if nothing.

    It must answer ``/health`` to anybody, and ``/versions`` to our password only.
    """
    auth = httpx.BasicAuth(user, secrets.password)
    try:
        with httpx.Client(timeout=REACH_SECONDS, trust_env=False, follow_redirects=False) as client:
            health = client.get(f"{url}/health")
            inside = client.get(f"{url}/versions", auth=auth)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return (
            f"{url} does not answer ({type(error).__name__}). Start the web process (coral serve), or set "
            "CORAL_PUBLIC_URL to where it listens."
        )
    if not _is_ours(health):
        return f"{url}/health answers HTTP {health.status_code}, but not as CORAL does. Correct CORAL_PUBLIC_URL."
    if inside.status_code == 401:
        return (
            f"The web process at {url} does not take the password of this process. Start both with the same MODEL_DIR, or "
            "the same CORAL_BASIC_AUTH_PASSWORD."
        )
    if not inside.is_success:
        return f"The web process at {url} answers /versions with HTTP {inside.status_code}. Its log says why."
    return None


def _is_ours(health: httpx.Response) -> bool:
    try:
        answer = health.json()
    except ValueError:
        return False
    return health.is_success and isinstance(answer, dict) and answer.get("status") == "UP"


def secrets_place(settings: Settings) -> str:
    """Say where password and webhook secret are kept; never what they are."""
    named = {
        "CORAL_BASIC_AUTH_PASSWORD": settings.basic_auth_password,
        "CORAL_WEBHOOK_SECRET": settings.webhook_secret,
    }
    file = str(settings.model_dir / SECRETS_FILE)
    return " and ".join(dict.fromkeys(name if value is not None else file for name, value in named.items()))
