"""Which errors can CORAL raise, and what do they mean to the caller?

::

    CoralError
    ├── SettingsError            a setting is unknown, missing or out of range
    ├── InputError               what a caller sent cannot be served            (HTTP 400)
    │   ├── LabelConfigError     a label config without a control we can serve  (HTTP 422)
    │   └── NotFoundError        no such project, round or model                (HTTP 404)
    ├── ConflictError            something else is already doing this           (HTTP 409)
    ├── UnavailableError         a part we need does not answer                 (HTTP 503)
    │   ├── QueueUnavailableError      Redis
    │   ├── StoreUnavailableError      the database (locked, full, restarting)
    │   ├── LabelStudioError           Label Studio (unreachable, refused, wrong token)
    │   └── EndpointError              the LLM endpoint refuses all further work; the round pauses
    │       └── BudgetError                the round's budget is spent, or cannot be kept; the round pauses
    ├── LeaseLostError           another worker owns this round now; stop writing
    ├── RoundStopped             somebody paused or cancelled the round
    ├── TrainingError            the SLM cannot learn from this corpus (the reason is in the message)
    └── ModelFileError           a model file is missing, foreign, truncated or altered

A message says what was found, what is allowed, and what to do. It is safe to show to a person: no secret is put into one.
"""

from __future__ import annotations

__all__ = [
    "BudgetError",
    "ConflictError",
    "CoralError",
    "EndpointError",
    "InputError",
    "LabelConfigError",
    "LabelStudioError",
    "LeaseLostError",
    "ModelFileError",
    "NotFoundError",
    "QueueUnavailableError",
    "RoundStopped",
    "SettingsError",
    "StoreUnavailableError",
    "TrainingError",
    "UnavailableError",
]


class CoralError(Exception):
    """Root of all errors that CORAL raises on purpose; the text is meant for a person.

    Attributes
    ----------
    status : int
        The HTTP status that the web process answers with.
    """

    status: int = 500


class SettingsError(CoralError):
    """A setting is unknown, missing or out of range."""


class InputError(CoralError):
    """What a caller sent cannot be served."""

    status = 400


class LabelConfigError(InputError):
    """The label config has no control that CORAL can serve, or cannot be parsed."""

    status = 422


class NotFoundError(InputError):
    """There is no such project, round or model."""

    status = 404


class ConflictError(CoralError):
    """Something else is already doing this."""

    status = 409


class UnavailableError(CoralError):
    """A part that this needs does not answer."""

    status = 503


class QueueUnavailableError(UnavailableError):
    """Redis does not answer or refuses."""


class StoreUnavailableError(UnavailableError):
    """The database does not answer, is locked for too long, or cannot write; nothing of the transaction was kept."""


class LabelStudioError(UnavailableError):
    """Label Studio does not answer, refuses the token, or refuses the request."""


class EndpointError(UnavailableError):
    """The LLM endpoint refuses all further work (wrong key, unknown model, no quota): the round pauses."""


class BudgetError(EndpointError):
    """The next request could pass the round's budget, or its price is not known: the round pauses."""


class LeaseLostError(CoralError):
    """Another worker owns this work now; the holder of the old token must stop writing."""


class RoundStopped(CoralError):  # noqa: N818 - not a failure: somebody asked for it
    """Somebody paused or cancelled the round; what was done is kept."""


class TrainingError(CoralError):
    """The SLM cannot learn from this corpus; the old model stays active."""


class ModelFileError(CoralError):
    """A model file is missing, truncated, altered, or not in safetensors and JSON."""
