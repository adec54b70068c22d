"""What keeps a page from being used against its reader? Tokens in forms, a policy against foreign code, errors as pages.

The guard of the whole web process (``coral_backend.auth``) stands before it: password first, and no change that a page of
another site asks for.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
import uuid
from dataclasses import dataclass, field

from flask import Response, current_app, make_response, render_template, request
from werkzeug.exceptions import HTTPException

from coral_backend.exceptions import CoralError
from coral_backend.settings import Settings
from coral_backend.store import Store

log = logging.getLogger(__name__)

EXTENSION = "coral-dashboard"
TOKEN_FIELD = "form_token"  # noqa: S105 - the name of a field
TOKEN_SECONDS = 12 * 3600
"""How long a page may stay open before its buttons ask to be loaded again."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""No inline script or style, nothing from elsewhere: a text that got into a page unescaped could still not run."""


@dataclass(frozen=True)
class Shared:
    """What the pages share; `key` signs the tokens of forms and has no repr."""

    settings: Settings
    store: Store
    key: bytes = field(repr=False)


def shared() -> Shared:
    """Return what the pages of the current application share."""
    found: Shared = current_app.extensions[EXTENSION]
    return found


class StaleFormError(CoralError):
    """A form without a valid token: of another site, or of a page that was open too long."""

    status = 403


def form_token(now: float | None = None) -> str:
    """Return a token for the forms of a page: a time and its signature, so that any process can check it."""
    moment = str(int(time.time() if now is None else now))
    return f"{moment}.{_signature(moment)}"


def check_form(now: float | None = None) -> None:
    """Let a POST pass only with a token of ours that is not too old.

    Raises
    ------
    StaleFormError
        Otherwise; nothing was changed.
    """
    moment, _, signature = request.form.get(TOKEN_FIELD, "").partition(".")
    good = hmac.compare_digest(signature.encode("utf-8", "replace"), _signature(moment).encode())
    age = (time.time() if now is None else now) - int(moment) if good and moment.isdigit() else TOKEN_SECONDS + 1
    from_elsewhere = request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none")
    if from_elsewhere or not 0 <= age <= TOKEN_SECONDS:
        raise StaleFormError(
            "This form is not one of CORAL's own, or its page was open for more than 12 hours. Nothing was changed. "
            "Load the page again and repeat the step."
        )


def _signature(moment: str) -> str:
    return hmac.new(shared().key, f"dashboard form {moment}".encode(), hashlib.sha256).hexdigest()


def form_key(password: str) -> bytes:
    """Return the key of the tokens: the same in all processes, and of no use for anything else."""
    return hmac.new(password.encode(), b"coral dashboard", hashlib.sha256).digest()


def harden(answer: Response) -> Response:
    """Put the policy on an answer."""
    answer.headers["Content-Security-Policy"] = POLICY
    answer.headers["Referrer-Policy"] = "same-origin"
    answer.headers["X-Frame-Options"] = "DENY"
    answer.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    return answer


# --- errors -----------------------------------------------------------------------------------------------------------


def coral_error(error: CoralError) -> Response:
    """Answer one of our own errors as a page, or as JSON where a script asked."""
    log.warning("%s %s: %s", request.method, request.path[:100], error)
    return error_page(error.status, str(error))


def http_error(error: HTTPException) -> Response:
    """Answer what Flask refused."""
    return error_page(error.code or 500, error.description or error.name)


def unexpected(error: Exception) -> Response:
    """Answer anything else without a word of it; the log has it."""
    reference = uuid.uuid4().hex[:12]
    log.error("%s: %s %s failed", reference, request.method, request.path[:100], exc_info=error)
    return error_page(500, f"Something unexpected happened. The log of the web process has it under {reference}.")


TITLES = {
    400: "That cannot be shown",
    403: "Not accepted",
    404: "Not found",
    409: "Something else is already doing this",
    503: "A part does not answer",
}


def error_page(status: int, message: str) -> Response:
    """Return `message` as a page with `status`."""
    if request.path.endswith(".json"):
        answer = make_response({"error": {"message": message}}, status)
    else:
        title = TITLES.get(status, "Something went wrong")
        answer = make_response(
            render_template("dashboard/error.html", title=title, message=message, status=status), status
        )
    return harden(answer)
