"""The container files, as far as they can be checked without an engine."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from coral_backend.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
DOCKER = ROOT / "docker"

COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("web", "worker")
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
EXAMPLE = dict(
    line.split("=", 1)
    for line in (DOCKER / ".env.example").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
)
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|API_KEY|DATABASE_URL")


def variables() -> dict[str, str]:
    """Return what ``${NAME...}`` stands in compose.yaml, as name -> the operator with its word."""
    text = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    return dict(re.findall(r"\$\{([A-Z_]+)([^}]*)\}", text))


def test_the_four_services_are_there() -> None:
    assert set(SERVICES) == {"label-studio", "redis", "web", "worker"}


@pytest.mark.parametrize("service", OURS)
def test_every_setting_exists(service: str) -> None:
    aliases = {field.alias for field in Settings.model_fields.values()}
    assert set(SERVICES[service]["environment"]) <= aliases


@pytest.mark.parametrize("service", OURS)
def test_the_settings_load_with_every_optional_one_empty(service: str) -> None:
    environment = {
        name: re.sub(r"\$\{[A-Z_]+(:-([^}]*)|:\?[^}]*)\}", lambda match: match.group(2) or "", str(value))
        for name, value in SERVICES[service]["environment"].items()
    }
    settings = Settings.load(environment)
    assert settings.model_dir == Path("/data")
    assert settings.annotator == "auto"


def test_web_and_worker_differ_in_their_command_only() -> None:
    web, worker = SERVICES["web"], SERVICES["worker"]
    for key in ("build", "image", "environment", "volumes"):
        assert web[key] == worker[key]


def test_label_studio_is_the_version_that_the_tests_run_and_may_call_us() -> None:
    service = SERVICES["label-studio"]
    version = service["image"].rpartition(":")[2]
    assert f"label-studio=={version}" in (ROOT / "requirements-labelstudio.lock").read_text(encoding="utf-8").split()
    assert service["environment"]["USE_DEFAULT_BANNED_SUBNETS"] == "false"
    assert "LABEL_STUDIO_HOST" in service["environment"]
    assert service["environment"]["LABEL_STUDIO_USER_TOKEN"] == SERVICES["web"]["environment"]["LABEL_STUDIO_API_KEY"]


def test_every_image_has_a_version() -> None:
    for service in SERVICES.values():
        assert re.search(r":\d+\.\d+", service["image"])


def test_the_images_tag_is_the_projects_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert SERVICES["web"]["image"] == f"{project['name']}:{project['version']}"


def test_ports_are_on_loopback_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(str(port).startswith("127.0.0.1:") for port in ports)
    assert "ports" not in SERVICES["redis"]


def test_no_secret_has_a_default() -> None:
    for name, operator in variables().items():
        if SECRET.search(name):
            assert operator == ":-" or operator.startswith(":?"), name
    assert [name for name, value in EXAMPLE.items() if SECRET.search(name) and value] == []


def test_what_the_services_cannot_do_without_is_required() -> None:
    required = {name for name, operator in variables().items() if operator.startswith(":?")}
    assert required == {"LABEL_STUDIO_USERNAME", "LABEL_STUDIO_PASSWORD", "LABEL_STUDIO_API_KEY", "REDIS_PASSWORD"}


def test_the_example_names_every_variable_and_no_other() -> None:
    assert set(EXAMPLE) == set(variables())


def test_no_secret_is_in_a_command_line() -> None:
    for service in SERVICES.values():
        command = " ".join([*service.get("command", []), *service.get("healthcheck", {}).get("test", [])])
        assert "${" not in command


def test_what_others_wait_for_has_a_health_check() -> None:
    for service in SERVICES.values():
        for name, wait in service.get("depends_on", {}).items():
            assert wait["condition"] == "service_healthy"
            assert "healthcheck" in SERVICES[name]
    assert "HEALTHCHECK" in DOCKERFILE
    assert "/health" in DOCKERFILE


def test_every_volume_is_declared() -> None:
    used = {volume.partition(":")[0] for service in SERVICES.values() for volume in service["volumes"]}
    assert used == set(COMPOSE["volumes"])


def test_what_the_image_copies_exists_and_reaches_the_builder() -> None:
    sources = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    ignore = (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert {line[1:] for line in ignore if line.startswith("!")} == sources
    assert [source for source in sorted(sources) if not (ROOT / source).exists()] == []
    build = SERVICES["web"]["build"]
    assert (DOCKER / build["context"] / build["dockerfile"]).resolve() == DOCKER / "Dockerfile"


def test_the_image_installs_the_lock_and_runs_without_privileges() -> None:
    assert "pip install --no-deps -r" in DOCKERFILE
    assert DOCKERFILE.count("FROM python:3.11-slim") == DOCKERFILE.count("FROM ")
    final = DOCKERFILE.rpartition("FROM ")[2]
    assert re.findall(r"^USER (.+)$", final, re.MULTILINE) == ["coral"]


def test_what_the_containers_start_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert SERVICES["worker"]["command"][0] in project["scripts"]
    (config,) = re.findall(r'"python:([a-z_.]+)"', DOCKERFILE)
    assert importlib.util.find_spec(config) is not None
    assert '"_wsgi:app"' in DOCKERFILE
    assert (ROOT / "_wsgi.py").exists()
