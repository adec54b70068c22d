"""Does the client do to a real Label Studio what it says, and survive what Label Studio does to it?"""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from coral_backend.exceptions import InputError, LabelStudioError
from coral_backend.labelstudio import client as client_module
from coral_backend.labelstudio.client import LabelStudioClient, LabelStudioHTTPError, PredictionRow, PushReport
from coral_backend.labelstudio.control_tags import parse_config, to_regions
from coral_backend.labelstudio.tasks import human_label_from_annotation
from coral_backend.services.label_studio_server import LabelStudioServer
from tests.label_studio_fixture import CONFIG, LabelStudioUnderTest, label_studio_venv
from tests.labelstudio.backend_stand_in import StandIn, backend_stand_in

SPACE = parse_config(CONFIG)

Connect = Callable[..., LabelStudioClient]


@pytest.fixture
def client(label_studio: LabelStudioUnderTest) -> LabelStudioClient:
    return label_studio.client


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Return a function that makes clients, which are closed after the test."""
    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(LabelStudioClient(*args, **kwargs))


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with backend_stand_in() as server:
        yield server


def rows(ids: list[int], version: str = "coral-r1", score: float = 0.5, label: str = "positive") -> list[PredictionRow]:
    return [(task_id, to_regions(SPACE, label, score), score, version) for task_id in ids]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- account and tokens ------------------------------------------------------------------------------------------------


def test_it_knows_its_account_and_token(client: LabelStudioClient) -> None:
    assert client.whoami()["email"] == "tester@example.com"
    assert client.token_kind() == "personal"
    assert client.version().startswith("1.")


def test_a_legacy_token_works_where_they_are_on(connect: Connect, label_studio: LabelStudioUnderTest) -> None:
    legacy = label_studio.client.request("GET", "api/current-user/token")["token"]
    other = connect(label_studio.url, legacy)
    assert other.token_kind() == "legacy"
    assert other.whoami()["email"] == "tester@example.com"


def test_an_access_token_refused_early_is_renewed_once(connect: Connect, label_studio: LabelStudioUnderTest) -> None:
    client = connect(label_studio.url, label_studio.token)
    client.whoami()
    tokens = client._sdk._client_wrapper._tokens_client
    head, claims, signature = str(tokens._access_token).split(".")
    tokens._access_token = ".".join((head, claims, signature[::-1]))
    assert client.whoami()["email"] == "tester@example.com"


def jwt(claims: Mapping[str, Any]) -> str:
    parts = ({"alg": "HS256", "typ": "JWT"}, claims)
    head, body = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    return f"{head}.{body}.c2VjcmV0LXNpZ25hdHVyZQ"


@pytest.mark.parametrize("token", ["0123456789abcdef0123456789abcdef01234567", jwt({"exp": 7_900_000_000})])
def test_a_wrong_token_is_told_without_showing_it(
    connect: Connect, label_studio: LabelStudioUnderTest, token: str
) -> None:
    with pytest.raises(LabelStudioHTTPError, match=r"refuses the .*LABEL_STUDIO_API_KEY") as caught:
        connect(label_studio.url, token).whoami()
    assert caught.value.http_status == 401
    assert token not in str(caught.value)


@pytest.mark.parametrize("token", ["", "two words", "\u00fcmlaut", "line\n"])
def test_what_cannot_be_a_token_is_refused_unsent(connect: Connect, token: str) -> None:
    with pytest.raises(LabelStudioError, match="empty or no token"):
        connect("http://127.0.0.1:1", token)


def test_an_expired_token_is_told_at_once(
    connect: Connect,
) -> None:
    with pytest.raises(LabelStudioError, match="has expired"):
        connect("http://127.0.0.1:1", jwt({"exp": 1_000_000_000}))


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://host", "http://", "/relative"])
def test_an_address_without_a_scheme_is_refused(connect: Connect, url: str) -> None:
    with pytest.raises(LabelStudioError, match="must look like"):
        connect(url, "token")


@pytest.mark.parametrize("token", ["0123456789", jwt({"exp": 7_900_000_000})])
def test_an_unreachable_server_is_told(connect: Connect, token: str) -> None:
    client = connect(f"http://user:canary@127.0.0.1:{free_port()}", token, retries=0)
    with pytest.raises(LabelStudioHTTPError, match="cannot be reached") as caught:
        client.whoami()
    assert caught.value.http_status is None
    assert "canary" not in str(caught.value)
    assert token not in str(caught.value)


@pytest.mark.parametrize("token", ["0123456789", jwt({"exp": 7_900_000_000})])
def test_something_that_is_no_label_studio_is_told(connect: Connect, stand_in: StandIn, token: str) -> None:
    stand_in.answer = (200, {"Content-Type": "text/html"}, b"<html>It works!</html>")
    with pytest.raises(LabelStudioHTTPError, match="LABEL_STUDIO_URL"):
        connect(stand_in.url, token).whoami()


def test_a_redirect_is_told_with_its_target(connect: Connect, stand_in: StandIn) -> None:
    stand_in.answer = (301, {"Location": "https://ls.example.com/?token=canary"}, b"")
    with pytest.raises(LabelStudioHTTPError, match=r"redirects .*'https://ls\.example\.com'") as caught:
        connect(stand_in.url, "0123456789").whoami()
    assert "canary" not in str(caught.value)


def test_a_path_in_the_address_is_kept_for_the_refresh_too(connect: Connect, stand_in: StandIn) -> None:
    stand_in.answer = (
        200,
        {"Content-Type": "application/json"},
        json.dumps({"access": jwt({"exp": 7_900_000_000})}).encode(),
    )
    connect(stand_in.url + "/ls/", jwt({"exp": 7_900_000_000, "a": 1})).whoami()
    assert [seen.path for seen in stand_in.seen] == ["/ls/api/token/refresh/", "/ls/api/current-user/whoami"]


def test_a_5xx_is_repeated_for_reads_and_not_for_writes(
    connect: Connect, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("label_studio_sdk.core.http_client.time.sleep", lambda _: None)
    stand_in.answer = (503, {}, b"busy")
    client = connect(stand_in.url, "0123456789", retries=2)
    for method in ("GET", "POST"):
        with pytest.raises(LabelStudioHTTPError, match="HTTP 503"):
            client.request(method, "api/x", body=None if method == "GET" else {})
    assert [seen.method for seen in stand_in.seen] == ["GET"] * 3 + ["POST"]


def test_a_token_in_an_answer_is_not_repeated(connect: Connect, stand_in: StandIn) -> None:
    stand_in.answer = (400, {"Content-Type": "application/json"}, b'{"detail": "bad canary-token-1 given"}')
    with pytest.raises(LabelStudioHTTPError, match=r"bad \*\*\* given"):
        connect(stand_in.url, "canary-token-1").whoami()


# --- projects and tasks ------------------------------------------------------------------------------------------------


def test_an_unknown_project_is_a_404(client: LabelStudioClient) -> None:
    with pytest.raises(LabelStudioHTTPError, match="HTTP 404") as caught:
        client.project(10**6)
    assert caught.value.http_status == 404


def test_a_project_is_found_again(label_studio: LabelStudioUnderTest) -> None:
    project, _ = label_studio.new_project()
    assert "$text" in label_studio.client.project(project)["label_config"]
    assert project in [found["id"] for found in label_studio.client.projects()]


def test_tasks_come_back_under_the_ids_of_their_order(
    label_studio: LabelStudioUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "PAGE", 3)
    client, (project, _) = label_studio.client, label_studio.new_project()
    texts = [f"text {i} \u00fc \U0001f600" for i in range(8)]
    steps: list[tuple[int, int]] = []
    ids = client.import_tasks(
        project, [{"data": {"text": t}} for t in texts], lambda done, total, _: steps.append((done, total)), chunk=5
    )
    assert {task["id"]: task["data"]["text"] for task in client.iter_tasks(project)} == dict(
        zip(ids, texts, strict=True)
    )
    assert client.task_ids(project) == sorted(ids)
    assert client.count_tasks(project) == 8
    assert steps == [(5, 8), (8, 8)]


def test_an_empty_project_has_no_tasks(label_studio: LabelStudioUnderTest) -> None:
    project, _ = label_studio.new_project()
    client = label_studio.client
    assert client.task_ids(project) == []
    assert list(client.iter_tasks(project)) == []
    assert list(client.annotated_tasks(project)) == []
    assert client.predictions(project) == []
    assert client.import_tasks(project, []) == []
    assert client.push_predictions(project, []) == PushReport(0, 0)


def test_tasks_without_the_key_are_refused_without_showing_their_data(label_studio: LabelStudioUnderTest) -> None:
    project, _ = label_studio.new_project()
    with pytest.raises(LabelStudioHTTPError, match=r'"text" key is expected.*0 of 1 tasks') as caught:
        label_studio.client.import_tasks(project, [{"data": {"other": "private words"}}])
    assert "private words" not in str(caught.value)


def test_a_lone_surrogate_arrives_as_a_question_mark_and_nan_is_refused(label_studio: LabelStudioUnderTest) -> None:
    project, _ = label_studio.new_project(["a\ud800b"])
    assert next(label_studio.client.iter_tasks(project))["data"]["text"] == "a?b"
    with pytest.raises(InputError, match="no JSON"):
        label_studio.client.import_tasks(project, [{"data": {"text": float("nan")}}])


def test_annotations_skips_and_deletions_are_read_back(label_studio: LabelStudioUnderTest) -> None:
    client, (project, ids) = label_studio.client, label_studio.new_project(["a", "b", "c", "d"])
    client.push_predictions(project, rows(ids))
    prediction = next(row for row in client.predictions(project) if row["task"] == ids[1])
    label_studio.annotate(ids[0], "negative")
    second = label_studio.annotate(ids[1], "positive", parent_prediction=prediction["id"])
    label_studio.annotate(ids[2], "positive", skip=True)
    tasks = {task["id"]: task for task in client.annotated_tasks(project)}
    labels = {i: human_label_from_annotation(SPACE, task["annotations"][0], i) for i, task in tasks.items()}
    assert {i: label.label for i, label in labels.items()} == {ids[0]: "negative", ids[1]: "positive", ids[2]: None}
    assert labels[ids[2]].skipped
    assert labels[ids[0]].prediction_version is None
    assert (labels[ids[1]].prediction_version, labels[ids[1]].prediction_label) == ("coral-r1", "positive")
    assert labels[ids[0]].user_id == client.whoami()["id"]
    assert tasks[ids[0]]["data"] == {"text": "a"}

    newest = max(str(task["updated_at"]) for task in tasks.values())
    assert list(client.annotated_tasks(project, updated_after=newest)) == []
    client.request("DELETE", f"api/annotations/{second['id']}/")
    (changed,) = client.annotated_tasks(project, updated_after=newest)
    assert (changed["id"], changed["annotations"]) == (ids[1], [])
    assert [task["id"] for task in client.iter_tasks(project, updated_after=newest)] == [ids[1]]


def test_a_time_that_is_none_is_refused(client: LabelStudioClient) -> None:
    with pytest.raises(InputError, match="ISO 8601"):
        list(client.iter_tasks(1, updated_after="yesterday"))


# --- predictions -------------------------------------------------------------------------------------------------------


def test_a_push_arrives_and_a_second_one_adds_nothing(label_studio: LabelStudioUnderTest) -> None:
    client, (project, ids) = label_studio.client, label_studio.new_project(["a", "b", "c"])
    assert client.push_predictions(project, rows(ids)) == PushReport(sent=3, created=3)
    assert client.push_predictions(project, rows(ids)) == PushReport(sent=0, created=0, present=3)
    assert client.push_predictions(project, rows(ids, "coral-r2")) == PushReport(sent=3, created=3)
    assert client.model_versions(project) == {"coral-r1": 3, "coral-r2": 3}
    assert {row["task"] for row in client.predictions(project, "coral-r2")} == set(ids)
    assert len(client.predictions(project)) == 6


def test_a_half_done_push_is_completed(label_studio: LabelStudioUnderTest) -> None:
    client, (project, ids) = label_studio.client, label_studio.new_project(["a", "b", "c"])
    client.push_predictions(project, rows(ids[:1]))
    assert client.push_predictions(project, rows(ids + ids)) == PushReport(sent=2, created=2, present=1)


def test_rows_that_label_studio_drops_are_found(label_studio: LabelStudioUnderTest) -> None:
    client, (project, ids) = label_studio.client, label_studio.new_project(["a", "b", "c"])
    batch = rows(ids)
    batch[0] = (ids[0], batch[0][1], 7.5, "coral-r1")
    foreign = [{**batch[2][1][0], "value": {"choices": ["unheard of"]}}]
    batch[2] = (ids[2], foreign, 0.5, "coral-r1")
    assert client.push_predictions(project, batch) == PushReport(sent=3, created=1, dropped=(ids[0], ids[2]))


def test_label_studio_takes_the_alias_of_a_choice_and_not_its_value(label_studio: LabelStudioUnderTest) -> None:
    config = CONFIG.replace('value="positive"', 'value="It is praise" alias="praise"')
    client, (project, ids) = label_studio.client, label_studio.new_project(["a", "b"], config)
    space = parse_config(client.project(project)["label_config"])
    assert space.labels == ("praise", "negative")
    regions = to_regions(space, "praise", None)
    shown = [{**regions[0], "value": {"choices": ["It is praise"]}}]
    report = client.push_predictions(project, [(ids[0], regions, None, "coral-r1"), (ids[1], shown, None, "coral-r1")])
    assert report == PushReport(sent=2, created=1, dropped=(ids[1],))


def test_tasks_deleted_meanwhile_cost_only_their_own_rows(label_studio: LabelStudioUnderTest) -> None:
    client, (project, ids) = label_studio.client, label_studio.new_project(["a", "b", "c", "d"])
    client.request("DELETE", f"api/tasks/{ids[1]}/")
    report = client.push_predictions(project, rows(ids))
    assert report == PushReport(sent=4, created=3, dropped=(ids[1],))
    assert len(client.predictions(project)) == 3


def test_an_answer_lost_after_the_commit_doubles_nothing(
    connect: Connect, label_studio: LabelStudioUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coral_backend.labelstudio.client.time.sleep", lambda _: None)
    project, ids = label_studio.new_project(["a", "b"])
    client = connect(label_studio.url, label_studio.token)
    answer = client._answer
    lost: list[str] = []

    def lossy(method: str, path: str, *rest: Any) -> httpx.Response:
        response = answer(method, path, *rest)
        if path.endswith("import/predictions") and not lost:
            lost.append(path)
            raise LabelStudioHTTPError("the line broke")
        return response

    monkeypatch.setattr(client, "_answer", lossy)
    assert client.push_predictions(project, rows(ids)) == PushReport(sent=2, created=2)
    assert lost
    assert len(client.predictions(project)) == 2


def test_a_push_into_nowhere_ends_with_an_error(
    connect: Connect, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coral_backend.labelstudio.client.time.sleep", lambda _: None)
    client = connect(stand_in.url, "0123456789", retries=0)
    stand_in.answer = (200, {"Content-Type": "application/json"}, b"{}")
    monkeypatch.setattr(client, "_pairs", lambda *_: set())
    stand_in.answer = (502, {}, b"")
    with pytest.raises(LabelStudioHTTPError, match="HTTP 502"):
        client.push_predictions(1, rows([1]))
    assert len(stand_in.seen) == client_module.PUSH_ATTEMPTS


def test_the_selected_version_fills_the_score_column(label_studio: LabelStudioUnderTest) -> None:
    client, (project, ids) = label_studio.client, label_studio.new_project(["a", "b", "c"])
    client.push_predictions(project, rows(ids[:2], "coral-r1", 0.25))
    assert client.scored_tasks(project) == 0
    client.select_version(project, "coral-r1")
    assert client.scored_tasks(project) == 2
    assert client.project(project)["model_version"] == "coral-r1"
    with pytest.raises(LabelStudioHTTPError, match="doesn't exist"):
        client.select_version(project, "coral-r9")


def test_old_versions_go_and_others_stay(label_studio: LabelStudioUnderTest) -> None:
    client, (project, ids) = label_studio.client, label_studio.new_project(["a", "b", "c"])
    for version in ("coral-r1", "coral-r2", "coral-r3", "coral-r4", "somebody-else"):
        client.push_predictions(project, rows(ids, version))
    client.select_version(project, "coral-r2")
    answers = iter([False, False, True])
    assert client.delete_old_predictions(project, {"coral-r4"}, batch=1, stop=lambda: next(answers)) == 2
    assert client.model_versions(project)["coral-r1"] == 1
    assert client.delete_old_predictions(project, {"coral-r4"}, batch=2) == 4
    assert client.model_versions(project) == {"coral-r2": 3, "coral-r4": 3, "somebody-else": 3}
    assert client.project(project)["model_version"] == "coral-r2"


# --- connecting --------------------------------------------------------------------------------------------------------


def test_webhook_and_backend_connect_once_and_deliver(label_studio: LabelStudioUnderTest, stand_in: StandIn) -> None:
    client, (project, ids) = label_studio.client, label_studio.new_project(["a"])
    how: dict[str, Any] = {"title": "CORAL", "user": "coral", "password": "pass word", "extra_params": {"k": 1}}
    first = client.connect(project, stand_in.url, secret="old", **how)
    second = client.connect(project, stand_in.url + "/", secret="new", **how)
    assert first == second

    setup = stand_in.wait_for("/setup")
    assert setup.body["project"].split(".")[0] == str(project)
    assert setup.body["extra_params"] == {"k": 1}
    assert setup.headers["Authorization"] == "Basic " + base64.b64encode(b"coral:pass word").decode()
    label_studio.annotate(ids[0], "positive")
    event = stand_in.wait_for("/webhook")
    assert event.headers["X-Coral-Secret"] == "new"
    assert event.body["action"] == "ANNOTATION_CREATED"
    assert len(client.request("GET", "api/webhooks/", params={"project": project})) == 1
    assert len(client.request("GET", "api/ml", params={"project": project})) == 1


def test_an_open_webhook_of_ours_is_closed_and_doubles_are_removed(
    label_studio: LabelStudioUnderTest, stand_in: StandIn
) -> None:
    client, (project, _) = label_studio.client, label_studio.new_project()
    for _ in range(2):
        client.request("POST", "api/webhooks/", body={"project": project, "url": stand_in.url + "/webhook"})
    client.request("POST", "api/webhooks/", body={"project": project, "url": stand_in.url + "/other"})
    kept = client.ensure_webhook(project, stand_in.url + "/webhook", "s")
    hooks = {hook["id"]: hook for hook in client.request("GET", "api/webhooks/", params={"project": project})}
    assert len(hooks) == 2
    assert hooks[kept]["headers"] == {"X-Coral-Secret": "s"}
    assert not hooks[kept]["send_for_all_actions"]


def test_a_backend_that_does_not_answer_leaves_no_row(label_studio: LabelStudioUnderTest) -> None:
    client, (project, _) = label_studio.client, label_studio.new_project()
    with pytest.raises(LabelStudioHTTPError, match="CORAL_PUBLIC_URL"):
        client.ensure_backend(project, f"http://127.0.0.1:{free_port()}", "CORAL")
    assert client.request("GET", "api/ml", params={"project": project}) == []


@pytest.mark.parametrize(
    "switches",
    [{"USE_DEFAULT_BANNED_SUBNETS": "true"}, {"USE_DEFAULT_BANNED_SUBNETS": "true", "ML_BLOCK_LOCAL_IP": "false"}],
)
def test_an_address_filter_is_named_with_its_switch(
    connect: Connect, label_studio_copy: Path, stand_in: StandIn, switches: dict[str, str]
) -> None:
    server = LabelStudioServer(label_studio_venv(), label_studio_copy, email="tester@example.com", env=switches)
    with server:
        client = connect(server.url, server.api_token())
        project = int(client.create_project("filtered", CONFIG)["id"])
        with pytest.raises(LabelStudioHTTPError, match="USE_DEFAULT_BANNED_SUBNETS=false"):
            client.ensure_webhook(project, stand_in.url, "s")
        with pytest.raises(LabelStudioHTTPError, match="USE_DEFAULT_BANNED_SUBNETS=false"):
            client.ensure_backend(project, stand_in.url, "CORAL")
        assert client.request("GET", "api/ml", params={"project": project}) == []
