"""What all tests share: examples that are the same in every run, and no deadline that a busy machine misses."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("coral", deadline=None, derandomize=True)
settings.load_profile("coral")

pytest_plugins = ["tests.browser_fixture", "tests.label_studio_fixture", "tests.postgres_fixture"]
