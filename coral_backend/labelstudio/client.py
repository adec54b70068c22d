"""How do we ask Label Studio for things, and put things into it, without losing or doubling any?

Everything goes through the HTTP client of label-studio-sdk, which knows both kinds of token, refreshes access tokens and
retries. Its typed layer is left out: it takes two to three times as long over lists of tasks, and drops fields that the
server has added since.

Bulk import of predictions has no upsert and drops invalid rows without a word, so each push is: read back what is there,
send the rest in one call, compare, read back what is missing.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

import httpx

from coral_backend.exceptions import InputError, LabelStudioError
from coral_backend.types import Progress

__all__ = ["WEBHOOK_ACTIONS", "LabelStudioClient", "LabelStudioHTTPError", "PredictionRow", "PushReport"]

logger = logging.getLogger(__name__)

PredictionRow = tuple[int, list[dict[str, Any]], float | None, str]
"""Task id, result regions, score in [0, 1] or None, model version."""

WEBHOOK_ACTIONS = (
    "ANNOTATION_CREATED",
    "ANNOTATIONS_CREATED",
    "ANNOTATION_UPDATED",
    "ANNOTATIONS_DELETED",
    "TASKS_CREATED",
    "TASKS_DELETED",
    "PROJECT_UPDATED",
)
SECRET_HEADER = "X-Coral-Secret"  # noqa: S105 - the header's name
VERSION_PREFIX = "coral-"
"""Predictions whose version begins otherwise are somebody else's and are never deleted."""

PAGE = 1_000
IMPORT_CHUNK = 5_000
PUSH_CHUNK = 25_000
"""Rows of one bulk call. Each call costs a count over the whole project, so few large ones are quickest."""
PUSH_SECONDS_PER_ROW = 0.01
"""Ten times what was measured on SQLite; added to the timeout of a bulk call."""
PUSH_ATTEMPTS = 3

_SWITCHES = (
    "Start Label Studio with USE_DEFAULT_BANNED_SUBNETS=false (one switch for backends and webhooks), or with "
    "ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false."
)


class LabelStudioHTTPError(LabelStudioError):
    """Label Studio did not do what was asked.

    Attributes
    ----------
    http_status : int or None
        What Label Studio answered; None when it gave no answer, and then nobody knows whether the request was done.
    """

    def __init__(self, message: str, http_status: int | None = None) -> None:
        super().__init__(message)
        self.http_status = http_status

    @property
    def uncertain(self) -> bool:
        """Whether the request may have been carried out all the same."""
        return self.http_status is None or self.http_status >= 500


@dataclass(frozen=True)
class PushReport:
    """What became of the rows of a push.

    Attributes
    ----------
    sent : int
        Rows that were not in Label Studio yet, and were sent.
    created : int
        Those of them that are there now.
    dropped : tuple of int
        Task ids of the others: the task is gone, or Label Studio refused the row.
    present : int
        Rows that were there before and were not sent again.
    """

    sent: int
    created: int
    dropped: tuple[int, ...] = ()
    present: int = 0


class LabelStudioClient:
    """A Label Studio as one account sees it. Safe to share between threads; close it, or use it in a ``with``.

    Parameters
    ----------
    url : str
        Address as this process reaches it.
    api_key : str
        Personal access token, or a legacy token where the organisation still takes them.
    timeout : float
        Seconds that a request may take; bulk pushes get more.
    retries : int
        How often a request that may be repeated is, after 429, 5xx or a lost connection.

    Raises
    ------
    LabelStudioError
        If `url` is no http address, or the token has expired. Nothing is sent yet.
    """

    def __init__(self, url: str, api_key: str, timeout: float = 60.0, *, retries: int = 2) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise LabelStudioError(
                f"The address of Label Studio is {url!r}; it must look like http://localhost:8080 (LABEL_STUDIO_URL)."
            )
        if not api_key or not api_key.isascii() or any(c.isspace() for c in api_key):
            raise LabelStudioError(f"The token of Label Studio is empty or no token. {_CURE}")
        self.url = _without_credentials(url)
        self._api_key = api_key
        self._timeout = timeout
        self._retries = retries
        from label_studio_sdk import LabelStudio  # two seconds, which the start of the CLI should not take
        from label_studio_sdk.core.api_error import ApiError

        self._api_error = ApiError
        self._http = httpx.Client(timeout=timeout, follow_redirects=False, trust_env=not _is_loopback(parts.hostname))
        try:
            # The slash keeps a path of the address (http://host/ls) when the SDK refreshes an access token.
            self._sdk = LabelStudio(base_url=self.url + "/", api_key=api_key, timeout=timeout, httpx_client=self._http)  # type: ignore[no-untyped-call]
        except ApiError:
            self._http.close()
            raise LabelStudioHTTPError(f"The token of Label Studio has expired. {_CURE}", 401) from None

    def close(self) -> None:
        """Close the connections; the client cannot be used afterwards."""
        self._http.close()

    def __enter__(self) -> LabelStudioClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        timeout: float | None = None,
        repeatable: bool | None = None,
    ) -> Any:
        """Send one request and return the answer's JSON (None for an empty answer).

        Parameters
        ----------
        path : str
            Without the server, for example ``"api/projects/1/"``.
        body : object
            JSON values; lone surrogates in texts are sent as ``?``.
        repeatable : bool or None
            Whether it may be sent again when the answer got lost; None means all but POST.

        Raises
        ------
        LabelStudioHTTPError
            For every other answer than 2xx and for none; with what was found and what to do, without the token.
        """
        repeatable = method != "POST" if repeatable is None else repeatable
        content = None if body is None else _encode(body)
        options: dict[str, Any] = {
            "max_retries": self._retries if repeatable else 0,
            "timeout": timeout or self._timeout,
        }
        response = self._answer(method, path, params, content, options)
        if response.status_code == 401 and self.token_kind() == "personal":
            self._forget_access_token()
            response = self._answer(method, path, params, content, options)
        if not response.is_success:
            raise self._refused(method, path, response)
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError:
            raise LabelStudioHTTPError(
                f"{self.url} answered {method} {path} with something that is not JSON "
                f"({response.headers.get('content-type')!r}). Is it Label Studio? Check LABEL_STUDIO_URL.",
                response.status_code,
            ) from None

    # --- account and projects -------------------------------------------------------------------------------------

    def token_kind(self) -> Literal["personal", "legacy"]:
        """Return which kind of token this client has; says nothing about whether Label Studio takes it."""
        return "legacy" if self._sdk._client_wrapper._tokens_client._use_legacy_token else "personal"

    def whoami(self) -> dict[str, Any]:
        """Return the account that the token belongs to."""
        return dict(self.request("GET", "api/current-user/whoami"))

    def version(self) -> str:
        """Return Label Studio's version, for example ``"1.23.2"``."""
        return str(self.request("GET", "api/version").get("release", "unknown"))

    def projects(self) -> list[dict[str, Any]]:
        """Return all projects (id and title at least)."""
        answer = self.request("GET", "api/projects/", params={"page_size": 10_000})
        return list(answer["results"] if isinstance(answer, dict) else answer)

    def project(self, project_id: int) -> dict[str, Any]:
        """Return a project as Label Studio has it; ``http_status`` of the error is 404 when there is none."""
        return dict(self.request("GET", f"api/projects/{int(project_id)}/"))

    def create_project(self, title: str, label_config: str, description: str = "") -> dict[str, Any]:
        """Make a project; Label Studio takes titles of 3 to 50 characters."""
        body = {"title": title, "label_config": label_config, "description": description}
        return dict(self.request("POST", "api/projects/", body=body))

    # --- tasks ---------------------------------------------------------------------------------------------------------

    def import_tasks(
        self,
        project_id: int,
        tasks: Sequence[Mapping[str, Any]],
        progress: Progress | None = None,
        chunk: int = IMPORT_CHUNK,
    ) -> list[int]:
        """Put tasks into a project and return their ids, in the order given.

        Parameters
        ----------
        tasks : sequence of mapping
            ``{"data": {...}}`` each; the data must have every key that the label config shows.

        Raises
        ------
        LabelStudioHTTPError
            The message says how many were imported before.
        """
        ids: list[int] = []
        for start in range(0, len(tasks), chunk):
            part = [dict(task) for task in tasks[start : start + chunk]]
            try:
                answer = self.request(
                    "POST",
                    f"api/projects/{int(project_id)}/import",
                    params={"return_task_ids": "true"},
                    body=part,
                    timeout=self._bulk_timeout(len(part)),
                )
            except LabelStudioHTTPError as error:
                raise LabelStudioHTTPError(
                    f"{error} {len(ids)} of {len(tasks)} tasks were imported before.", error.http_status
                ) from error
            new = answer.get("task_ids") or []
            if len(new) != len(part):
                raise LabelStudioHTTPError(
                    f"Label Studio imported {len(new)} of {len(part)} tasks sent to project {project_id}. "
                    "Look at the project before you import again.",
                    201,
                )
            ids += [int(task_id) for task_id in new]
            if progress is not None:
                progress(len(ids), len(tasks), {})
        return ids

    def iter_tasks(
        self, project_id: int, updated_after: str | None = None, progress: Progress | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield ``id`` and ``data`` of every task, in the order of ids.

        Parameters
        ----------
        updated_after : str or None
            ISO 8601 time, as Label Studio sends it; only tasks changed (data, annotations) after it.
        """
        done = 0
        for tasks, left in self._pages(project_id, _since(updated_after), "task_only", "id,data"):
            if progress is not None:
                progress(done + len(tasks), done + left, {})
            done += len(tasks)
            yield from tasks

    def annotated_tasks(self, project_id: int, updated_after: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield tasks that have annotations or were skipped: ``id``, ``data``, ``updated_at`` and ``annotations``.

        With `updated_after` every task changed since is yielded, also when it has no annotation (any more), so that
        deletions can be seen. Each annotation made from a prediction that still exists has a copy of it as
        ``prediction``, as in webhooks.
        """
        passes = (
            [_since(updated_after)]
            if updated_after
            else [
                [_item("total_annotations", "greater", "Number", 0)],
                [
                    _item("total_annotations", "equal", "Number", 0),
                    _item("cancelled_annotations", "greater", "Number", 0),
                ],
            ]
        )
        for items in passes:
            for tasks, _ in self._pages(project_id, items, "all", _ANNOTATION_FIELDS):
                for task in tasks:
                    yield _with_parent_predictions(task)

    def task_ids(self, project_id: int) -> list[int]:
        """Return the ids of all tasks, ascending."""
        pages = self._pages(project_id, [], "task_only", "id")
        return [int(task["id"]) for tasks, _ in pages for task in tasks]

    def count_tasks(self, project_id: int, filters: Sequence[Mapping[str, Any]] = ()) -> int:
        """Return how many tasks match Data Manager filter items (all of them)."""
        return int(self._page(project_id, list(filters), "task_only", "id", 1)["total"])

    def scored_tasks(self, project_id: int) -> int:
        """Return how many tasks show a prediction score in the Data Manager."""
        return self.count_tasks(project_id, [_item("predictions_score", "empty", "Number", "false")])

    # --- predictions -----------------------------------------------------------------------------------------------

    def predictions(self, project_id: int, model_version: str | None = None) -> list[dict[str, Any]]:
        """Return the predictions of a project, of one version or of all."""
        found = self.request(
            "GET", "api/predictions", params={"project": int(project_id)}, timeout=self._bulk_timeout(50_000)
        )
        return [row for row in found if model_version is None or row.get("model_version") == model_version]

    def model_versions(self, project_id: int) -> dict[str, int]:
        """Return the number of predictions of each version."""
        found = self.request("GET", f"api/projects/{int(project_id)}/model-versions/")
        return {str(version): int(count) for version, count in found.items()}

    def push_predictions(
        self, project_id: int, rows: Sequence[PredictionRow], progress: Progress | None = None
    ) -> PushReport:
        """Put predictions in; a (task, version) pair that is there already is not sent again.

        Survives a task deleted meanwhile (Label Studio refuses the whole batch: the row is left out and the rest sent
        again), rows that Label Studio drops without a word, and answers that got lost.

        Parameters
        ----------
        rows : sequence of PredictionRow
            ``(task id, result, score, model version)``.

        Returns
        -------
        PushReport
            ``dropped`` names the tasks whose row is not there.

        Raises
        ------
        LabelStudioHTTPError
            If Label Studio stays unreachable; what arrived by then is found, and not doubled, by the next push.
        """
        unique = list({(row[0], row[3]): row for row in rows}.values())
        versions = {row[3] for row in unique}
        before = self._pairs(project_id, versions)
        todo = [row for row in unique if (row[0], row[3]) not in before]
        counted = 0
        for start in range(0, len(todo), PUSH_CHUNK):
            counted += self._push_chunk(project_id, todo[start : start + PUSH_CHUNK])
            if progress is not None:
                progress(min(start + PUSH_CHUNK, len(todo)), len(todo), {})
        dropped: tuple[int, ...] = ()
        if counted != len(todo):
            there = self._pairs(project_id, versions)
            dropped = tuple(row[0] for row in todo if (row[0], row[3]) not in there)
            logger.warning("push: Label Studio kept %d of %d predictions", len(todo) - len(dropped), len(todo))
        logger.info(
            "push: %d sent, %d created, %d were there", len(todo), len(todo) - len(dropped), len(unique) - len(todo)
        )
        return PushReport(len(todo), len(todo) - len(dropped), dropped, len(unique) - len(todo))

    def select_version(self, project_id: int, version: str) -> None:
        """Make `version` the one that fills the score column and pre-fills the form.

        Raises
        ------
        LabelStudioHTTPError
            If no prediction has that version (400).
        """
        self.update_project(project_id, model_version=version)

    def delete_task_predictions(self, project_id: int, task_ids: Sequence[int]) -> None:
        """Remove all predictions of some tasks, of every version: they are about a text that was edited since."""
        self.run_action(project_id, "delete_tasks_predictions", task_ids)

    def delete_old_predictions(
        self,
        project_id: int,
        keep: set[str],
        batch: int = 200,
        stop: Callable[[], bool] | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Remove our predictions of other versions than `keep`, so that people are never kept waiting.

        Label Studio deletes a version in one transaction, which on SQLite locks everybody out for about 3 ms a row. So
        larger versions are taken away row by row until no more than `batch` are left.

        Parameters
        ----------
        keep : set of str
            Versions to keep; the selected one is always kept, and so are versions without the prefix ``coral-``.
        batch : int
            Most rows in one transaction.
        stop : callable, optional
            Asked before every request; True ends the work, and a later call goes on with it.

        Returns
        -------
        int
            How many were deleted.
        """
        selected = str(self.project(project_id).get("model_version") or "")
        old = {
            version: count
            for version, count in self.model_versions(project_id).items()
            if version.startswith(VERSION_PREFIX) and version not in keep | {selected}
        }
        total, done = sum(old.values()), 0
        rows = self.predictions(project_id) if any(count > batch for count in old.values()) else []
        for version, count in sorted(old.items()):
            singly = [int(row["id"]) for row in rows if row.get("model_version") == version][: max(0, count - batch)]
            for prediction_id in singly:
                if stop is not None and stop():
                    return done
                done += self._delete_prediction(prediction_id)
                if progress is not None:
                    progress(done, total, {"version": version})
            if stop is not None and stop():
                return done
            done += self._delete_version(project_id, version)
            if progress is not None:
                progress(done, total, {"version": version})
        return done

    # --- connecting ------------------------------------------------------------------------------------------------

    def connect(
        self,
        project_id: int,
        url: str,
        *,
        title: str,
        secret: str,
        user: str | None = None,
        password: str | None = None,
        extra_params: Mapping[str, Any] | None = None,
    ) -> tuple[int, int]:
        """Connect a backend in the only order that keeps the webhook's secret; return the ids of backend and webhook.

        Label Studio makes an open webhook of its own beside a backend, unless one with the same address is there.
        """
        webhook = self.ensure_webhook(project_id, url, secret)
        return self.ensure_backend(project_id, url, title, user, password, extra_params), webhook

    def ensure_webhook(self, project_id: int, url: str, secret: str) -> int:
        """Have exactly one webhook from a project to our backend, with the secret header; return its id.

        Parameters
        ----------
        url : str
            Address of the backend as Label Studio reaches it, with or without ``/webhook``.
        """
        url = url.rstrip("/").removesuffix("/webhook") + "/webhook"
        body = {
            "project": int(project_id),
            "url": url,
            "headers": {SECRET_HEADER: secret},
            "send_payload": True,
            "send_for_all_actions": False,
            "is_active": True,
            "actions": list(WEBHOOK_ACTIONS),
        }
        hooks = self.request("GET", "api/webhooks/", params={"project": int(project_id)})
        ours = sorted(
            (hook for hook in hooks if str(hook.get("url")).rstrip("/") == url), key=lambda hook: int(hook["id"])
        )
        for extra in ours[1:]:
            self.request("DELETE", f"api/webhooks/{extra['id']}/")
        if not ours:
            try:
                return int(self.request("POST", "api/webhooks/", body=body)["id"])
            except LabelStudioHTTPError as error:
                raise self._filtered(error, f"a webhook to {_without_credentials(url)}") from error
        if not _agrees(ours[0], body):
            self.request("PATCH", f"api/webhooks/{ours[0]['id']}/", body=body)
        return int(ours[0]["id"])

    def ensure_backend(  # noqa: PLR0917 - the facts of one connection
        self,
        project_id: int,
        url: str,
        title: str,
        user: str | None = None,
        password: str | None = None,
        extra_params: Mapping[str, Any] | None = None,
    ) -> int:
        """Have exactly one backend row with `url` in a project, and return its id. Call ``ensure_webhook`` first.

        Label Studio calls ``/health`` and ``/setup`` of the backend before it answers.

        Raises
        ------
        LabelStudioHTTPError
            With the switch that is missing when an address filter forbids `url`. No half-made row stays behind.
        """
        url = url.rstrip("/")
        body: dict[str, Any] = {
            "project": int(project_id),
            "url": url,
            "title": title,
            "extra_params": dict(extra_params or {}),
            "auth_method": "BASIC_AUTH" if user and password else "NONE",
        }
        if user and password:
            body |= {"basic_auth_user": user, "basic_auth_pass": password}
        ours = self._backends(project_id, url)
        for extra in ours[1:]:
            self.request("DELETE", f"api/ml/{extra}")
        try:
            if ours:
                return int(self.request("PATCH", f"api/ml/{ours[0]}", body=body)["id"])
            return int(self.request("POST", "api/ml/", body=body)["id"])
        except LabelStudioHTTPError as error:
            for half_made in set(self._backends(project_id, url)) - set(ours):
                self.request("DELETE", f"api/ml/{half_made}")
            raise self._filtered(error, f"the backend {_without_credentials(url)}") from error

    # --- Data Manager ----------------------------------------------------------------------------------------------

    def run_action(
        self,
        project_id: int,
        action: str,
        task_ids: Sequence[int],
        body: Mapping[str, Any] | None = None,
        *,
        repeatable: bool = False,
    ) -> None:
        """Run one of the Data Manager's actions on some tasks.

        Parameters
        ----------
        action : str
            For example ``"add_data_field"``.
        body : mapping, optional
            What the action's dialog asks a person for.
        repeatable : bool
            Whether it may be sent again when the answer got lost.
        """
        chosen = {"selectedItems": {"all": False, "included": [int(task_id) for task_id in task_ids]}}
        params = {"id": action, "project": int(project_id)}
        sent = {**(body or {}), **chosen}
        self.request("POST", "api/dm/actions", params=params, body=sent, repeatable=repeatable)

    def update_project(self, project_id: int, **changes: Any) -> None:
        """Change fields of a project, for example ``label_config``, which Label Studio checks."""
        self.request("PATCH", f"api/projects/{int(project_id)}/", body=changes)

    # --- Data Manager tabs -----------------------------------------------------------------------------------------

    def views(self, project_id: int) -> list[dict[str, Any]]:
        """Return the Data Manager tabs of a project, oldest first."""
        found = self.request("GET", "api/dm/views", params={"project": int(project_id)})
        return sorted(found, key=lambda view: int(view["id"]))

    def create_view(self, project_id: int, data: Mapping[str, Any]) -> int:
        """Make a tab and return its id."""
        return int(self.request("POST", "api/dm/views/", body={"project": int(project_id), "data": dict(data)})["id"])

    def update_view(self, project_id: int, view_id: int, data: Mapping[str, Any]) -> None:
        """Replace the whole content of a tab."""
        body = {"project": int(project_id), "data": dict(data)}
        self.request("PATCH", f"api/dm/views/{int(view_id)}/", params={"project": int(project_id)}, body=body)

    def view_count(self, project_id: int, view_id: int) -> int:
        """Return how many tasks a tab shows."""
        params = {
            "project": int(project_id), "view": int(view_id), "page_size": 1, "fields": "task_only", "include": "id",
        }  # fmt: skip
        return int(self.request("GET", "api/tasks", params=params)["total"])

    def view_tasks(self, project_id: int, view_id: int, limit: int = 100) -> list[dict[str, Any]]:
        """Return the first tasks of a tab as a person sees them: ``id`` and ``predictions_score``, in its order."""
        params = {
            "project": int(project_id), "view": int(view_id), "page_size": limit, "fields": "task_only",
            "include": "id,predictions_score",
        }  # fmt: skip
        return list(self.request("GET", "api/tasks", params=params)["tasks"])

    def columns(self, project_id: int) -> list[dict[str, Any]]:
        """Return the Data Manager's columns."""
        return list(self.request("GET", "api/dm/columns", params={"project": int(project_id)})["columns"])

    # --- parts of the above ----------------------------------------------------------------------------------------

    def _answer(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | None,
        content: bytes | None,
        options: dict[str, Any],
    ) -> httpx.Response:
        try:
            response: httpx.Response = self._sdk._client_wrapper.httpx_client.request(
                path,
                method=method,
                params=dict(params) if params else None,
                content=content,
                headers={"Content-Type": "application/json"} if content is not None else None,
                request_options=options,  # type: ignore[arg-type]
            )
        except self._api_error as error:
            raise self._token_refused(error.status_code, str(error.body)) from None
        except httpx.TimeoutException:
            raise LabelStudioHTTPError(
                f"Label Studio at {self.url} did not answer {method} {path} within {options['timeout']:.0f} s. "
                "It may still be at it; look whether the server is overloaded."
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise LabelStudioHTTPError(
                f"Label Studio at {self.url} cannot be reached ({type(error).__name__}). "
                "Start it, or correct LABEL_STUDIO_URL."
            ) from None
        except ValueError:
            raise LabelStudioHTTPError(
                f"{self.url} answers, but not as Label Studio does. Check LABEL_STUDIO_URL."
            ) from None
        return response

    def _refused(self, method: str, path: str, response: httpx.Response) -> LabelStudioHTTPError:
        status, detail = response.status_code, self._detail(response)
        if status == 401:
            return self._token_refused(status, detail)
        if response.is_redirect:
            target = _without_credentials(response.headers.get("location", "?"))
            return LabelStudioHTTPError(
                f"{self.url} redirects {method} {path} to {target!r}. Set LABEL_STUDIO_URL to the final address.",
                status,
            )
        return LabelStudioHTTPError(f"Label Studio answered {method} {path} with HTTP {status}: {detail}.", status)

    def _token_refused(self, status: int | None, detail: str) -> LabelStudioHTTPError:
        kind = "personal access token" if self.token_kind() == "personal" else "legacy token"
        reason = "legacy tokens are switched off there" if "disabled" in detail else "it is unknown or was withdrawn"
        return LabelStudioHTTPError(
            f"Label Studio at {self.url} refuses the {kind} (HTTP {status}): {reason}. {_CURE}", status
        )

    def _detail(self, response: httpx.Response) -> str:
        """Return the reason in an error answer: short, without task data, without our token."""
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if isinstance(answer, dict):
            answer = answer.get("validation_errors") or answer.get("detail") or answer
        text = "; ".join(_words(answer)) or response.reason_phrase
        return text.replace(self._api_key, "***").split(" :: ")[0][:400].rstrip(".")

    def _filtered(self, error: LabelStudioHTTPError, what: str) -> LabelStudioHTTPError:
        if error.http_status == 403:
            return LabelStudioHTTPError(
                f"Label Studio forbids {what}: the address is in a private or loopback network, which it filters. {_SWITCHES}",
                403,
            )
        if error.http_status == 400:
            return LabelStudioHTTPError(
                f"Label Studio did not accept {what}. {error} The backend must be running and reachable from where Label "
                "Studio runs (CORAL_PUBLIC_URL), and take the password that Label Studio was given.",
                400,
            )
        return error

    def _forget_access_token(self) -> None:
        # The SDK trusts the local clock about its age; a server with another clock refuses it earlier.
        self._sdk._client_wrapper._tokens_client._access_token = None

    def _bulk_timeout(self, rows: int) -> float:
        return self._timeout + PUSH_SECONDS_PER_ROW * rows

    def _page(
        self, project_id: int, items: Sequence[Mapping[str, Any]], fields: str, include: str, size: int
    ) -> dict[str, Any]:
        query = {"filters": {"conjunction": "and", "items": list(items)}, "ordering": ["tasks:id"]}
        params = {
            "project": int(project_id),
            "page_size": size,
            "fields": fields,
            "include": include,
            "query": json.dumps(query),
        }
        return dict(self.request("GET", "api/tasks", params=params))

    def _pages(
        self, project_id: int, items: Sequence[Mapping[str, Any]], fields: str, include: str
    ) -> Iterator[tuple[list[dict[str, Any]], int]]:
        """Yield (tasks, how many are left with them). By id, so that tasks deleted under way shift nothing."""
        last = 0
        while True:
            after = _item("id", "greater", "Number", last)
            page = self._page(project_id, [*items, after], fields, include, PAGE)
            tasks = list(page["tasks"])
            if not tasks:
                return
            yield tasks, int(page["total"])
            if len(tasks) >= int(page["total"]):
                return
            last = int(tasks[-1]["id"])

    def _pairs(self, project_id: int, versions: set[str]) -> set[tuple[int, str]]:
        """Return which (task, version) pairs of `versions` are in Label Studio."""
        if not versions & set(self.model_versions(project_id)):
            return set()
        rows = self.predictions(project_id)
        return {(int(row["task"]), str(row["model_version"])) for row in rows if row.get("model_version") in versions}

    def _push_chunk(self, project_id: int, rows: list[PredictionRow]) -> int:
        """Send rows that are not there yet, and return how many Label Studio says it has made of them."""
        todo, made, culled = rows, 0, False
        for attempt in range(1, PUSH_ATTEMPTS + 1):
            if not todo:
                return made
            body = [{"task": t, "result": r, "score": s, "model_version": v} for t, r, s, v in todo]
            try:
                answer = self.request(
                    "POST",
                    f"api/projects/{int(project_id)}/import/predictions",
                    body=body,
                    timeout=self._bulk_timeout(len(body)),
                )
                return made + int(answer["created"])
            except LabelStudioHTTPError as error:
                unknown_task = error.http_status == 400 and not culled
                if not (unknown_task or error.uncertain or error.http_status == 429) or attempt == PUSH_ATTEMPTS:
                    raise
                logger.warning("push: attempt %d of %d failed: %s", attempt, PUSH_ATTEMPTS, error)
                if not unknown_task:
                    time.sleep(2.0**attempt)
                there = self._pairs(project_id, {row[3] for row in todo})
                made += sum((row[0], row[3]) in there for row in todo)
                todo = [row for row in todo if (row[0], row[3]) not in there]
                if unknown_task:
                    culled = True
                    living = set(self.task_ids(project_id))
                    if all(row[0] in living for row in todo):
                        raise
                    todo = [row for row in todo if row[0] in living]
        return made

    def _delete_prediction(self, prediction_id: int) -> int:
        try:
            self.request("DELETE", f"api/predictions/{prediction_id}/")
        except LabelStudioHTTPError as error:
            if error.http_status != 404:
                raise
            return 0
        return 1

    def _delete_version(self, project_id: int, version: str) -> int:
        path = f"api/projects/{int(project_id)}/model-versions/"
        answer = self.request("DELETE", path, body={"model_version": version})
        return int((answer or {}).get("deleted_predictions", 0))

    def _backends(self, project_id: int, url: str) -> list[int]:
        rows = self.request("GET", "api/ml", params={"project": int(project_id)})
        return sorted(int(row["id"]) for row in rows if str(row.get("url")).rstrip("/") == url)


_CURE = (
    "Make a personal access token in Label Studio (Account & Settings, Personal Access Token) and set it as "
    "LABEL_STUDIO_API_KEY."
)

_ANNOTATION_FIELDS = (
    "id,data,updated_at,annotations,predictions,result,was_cancelled,ground_truth,lead_time,completed_by,created_at,"
    "parent_prediction,model_version,score"
)
"""``include`` filters nested objects too, so it names their fields as well."""


def _item(column: str, operator: str, kind: str, value: object) -> dict[str, Any]:
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": kind, "value": value}


def _since(updated_after: str | None) -> list[dict[str, Any]]:
    if updated_after is None:
        return []
    try:
        moment = datetime.fromisoformat(updated_after)
    except ValueError:
        raise InputError(
            f"updated_after is {updated_after!r}; it must be an ISO 8601 time such as 2026-11-21T10:00:00Z."
        ) from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    # Label Studio parses exactly this format and answers 500 to any other.
    return [_item("updated_at", "greater", "Datetime", moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))]


def _with_parent_predictions(task: dict[str, Any]) -> dict[str, Any]:
    predictions = {row.get("id"): row for row in task.pop("predictions", None) or []}
    for annotation in task.get("annotations") or []:
        annotation["prediction"] = predictions.get(annotation.get("parent_prediction"), {})
    return task


def _words(answer: Any) -> Iterator[str]:
    """Yield the texts in an error answer, which nests them as it pleases."""
    if isinstance(answer, Mapping):
        for key, value in answer.items():
            yield from (text if key == "non_field_errors" else f"{key}: {text}" for text in _words(value))
    elif isinstance(answer, list):
        for value in answer:
            yield from _words(value)
    elif answer is not None:
        yield str(answer)


def _encode(body: Any) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
    except (TypeError, ValueError) as error:
        raise InputError(
            f"What should be sent to Label Studio is no JSON ({error}). Texts, whole and finite numbers, lists and objects are."
        ) from None


def _agrees(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(
        set(there.get(key) or []) == set(value) if key == "actions" else there.get(key) == value
        for key, value in wanted.items()
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _without_credentials(url: str) -> str:
    """Return an address that may be shown: without user, password, query and the slash at the end."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
