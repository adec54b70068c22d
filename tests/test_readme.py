"""Is README's table of settings the truth?"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic_core import PydanticUndefined

from coral_backend.settings import PROJECT_OPTIONS, Settings

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")


def settings_table() -> str:
    """Return the table as it must stand in README: print it to bring README up to date."""
    rows = ["| name | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.default
        shown = (
            ""
            if default in (None, "") or default is PydanticUndefined
            else f"`{str(default).lower() if isinstance(default, bool) else default}`"
        )
        star = " *" if name in PROJECT_OPTIONS else ""
        rows.append(f"| `{field.alias}`{star} | {shown} | {field.description} |")
    return "\n".join(rows)


def test_every_setting_stands_there_with_its_default() -> None:
    assert settings_table() in README


def test_the_two_commands_are_targets_of_make() -> None:
    makefile = (Path(__file__).resolve().parent.parent / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
