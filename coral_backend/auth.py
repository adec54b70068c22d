"""Who may talk to the web process? Nobody without the password, or the webhook's secret; only ``/health`` is open."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import logging
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from flask import Flask, Response, abort, jsonify, request

from coral_backend.exceptions import SettingsError
from coral_backend.settings import Settings

log = logging.getLogger(__name__)

SECRETS_FILE = "secrets.json"
WEBHOOK_HEADER = "X-Coral-Secret"
OPEN_ENDPOINTS = frozenset({"health"})
"""Endpoints that answer without credentials: Label Studio and load balancers ask them, and they tell nothing."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class Secrets:
    """What proves that a caller may come in; neither has a repr.

    Attributes
    ----------
    password : str
        Of the basic auth that Label Studio sends to everything but ordinary webhooks.
    webhook_secret : str
        Value of ``X-Coral-Secret``: Label Studio sends no basic auth with ordinary webhooks.
    """

    password: str = field(repr=False)
    webhook_secret: str = field(repr=False)


def secrets_for(settings: Settings) -> Secrets:
    """Return the secrets of the settings; what they leave open is made once and kept in ``MODEL_DIR/secrets.json``.

    Processes that start at the same time agree on one file, which only its owner can read.

    Raises
    ------
    SettingsError
        If the file cannot be written, or does not hold what this function wrote.
    """
    password, webhook_secret = settings.basic_auth_password, settings.webhook_secret
    if password is not None and webhook_secret is not None:
        return Secrets(password.get_secret_value(), webhook_secret.get_secret_value())
    made = _kept_secrets(settings.model_dir / SECRETS_FILE)
    return Secrets(
        password=password.get_secret_value() if password is not None else made.password,
        webhook_secret=webhook_secret.get_secret_value() if webhook_secret is not None else made.webhook_secret,
    )


def guard(app: Flask, user: str, known: Secrets) -> None:
    """Let nothing of `app` answer before the caller has proved who it is: routes, their 404s and 405s included."""

    def check() -> Response | None:
        if request.endpoint in OPEN_ENDPOINTS:
            return None
        if not (_has_password(user, known.password) or _has_webhook_secret(known.webhook_secret)):
            return _refusal()
        if request.method not in SAFE_METHODS and _from_another_site():
            abort(403, "This request comes from a page of another site; CORAL takes changes only from its own pages.")
        return None

    # In front of what an extension may have registered before.
    app.before_request_funcs.setdefault(None, []).insert(0, check)


def same(received: str, expected: str) -> bool:
    """Compare two secrets in constant time; any text is allowed, its length does not show."""
    digests = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in (received, expected)]
    return hmac.compare_digest(*digests)


def _has_password(user: str, password: str) -> bool:
    given = request.authorization
    if given is None or given.type != "basic":
        return False
    # Both are compared, always: the time must not tell which of them was wrong.
    right = (same(given.username or "", user), same(given.password or "", password))
    return all(right)


def _has_webhook_secret(secret: str) -> bool:
    received = request.headers.get(WEBHOOK_HEADER)
    return request.endpoint == "webhook" and received is not None and same(received, secret)


def _from_another_site() -> bool:
    # A browser sends the password that it remembers with a form of any site, but always names that site.
    origin = request.headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc != request.host


def _refusal() -> Response:
    message = "Wrong or missing credentials. Send the basic auth of CORAL"
    if request.endpoint == "webhook":
        message += f", or its webhook secret as {WEBHOOK_HEADER}"
    answer = jsonify(
        {"error": {"type": "Unauthorized", "message": f"{message}. `coral connect` sets it in Label Studio."}}
    )
    answer.status_code = 401
    answer.headers["WWW-Authenticate"] = 'Basic realm="CORAL", charset="UTF-8"'
    return answer


def _kept_secrets(path: Path) -> Secrets:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            _locked(path.with_suffix(".lock"), lambda: _make_secrets(path))
        return _read_secrets(path)
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be used ({error.strerror}). Make MODEL_DIR writable, or set CORAL_BASIC_AUTH_PASSWORD and "
            "CORAL_WEBHOOK_SECRET."
        ) from error


def _locked(path: Path, work: Callable[[], None]) -> None:
    handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        work()
    finally:
        os.close(handle)


def _make_secrets(path: Path) -> None:
    if path.exists():  # another process was quicker
        return
    values = {"password": secrets.token_urlsafe(24), "webhook_secret": secrets.token_urlsafe(32)}
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)  # of a process that died here
    with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
        json.dump(values, file)
    draft.replace(path)
    log.info("made the password and the webhook secret in %s", path)


def _read_secrets(path: Path) -> Secrets:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        values = None
    kept = {name: values.get(name) for name in ("password", "webhook_secret")} if isinstance(values, dict) else {}
    texts = {name: value for name, value in kept.items() if isinstance(value, str) and value}
    if len(texts) < 2:
        raise SettingsError(
            f"{path} is damaged: it must hold a password and a webhook_secret. Delete it, restart, and connect again "
            "(coral connect), so that Label Studio learns the new ones."
        )
    return Secrets(**texts)
