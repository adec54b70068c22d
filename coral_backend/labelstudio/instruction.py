"""Where do annotators read how to work through the tabs? In the project's instruction, behind what the lead wrote there."""

from __future__ import annotations

from coral_backend.labelstudio.client import LabelStudioClient

__all__ = ["PARAGRAPH", "add_instruction"]

_MARK = "Reviewing with CORAL."
"""Known by its words: Label Studio takes attributes and comments out of an instruction."""
PARAGRAPH = (
    f"<p><b>{_MARK}</b> Open the tab <i>Noisy</i> or <i>Inconsistent</i>, then the arrow beside "
    "the big button, then <i>Label Tasks As Displayed</i>: it serves that tab, the most doubtful task first. The big button itself "
    "(<i>Label All Tasks</i>) ignores the tab. In <i>Second look</i>, LLM and SLM are sure of another label than the person was: "
    "correct it, or confirm it (untick the label, tick it again), then <i>Update</i>; each label is asked about once.</p>"
)


def add_instruction(client: LabelStudioClient, project_id: int) -> bool:
    """Add our paragraph to a project's instruction unless it is there; return whether it was added."""
    there = str(client.project(project_id).get("expert_instruction") or "")
    if _MARK in there:
        return False
    text = f"{there}\n{PARAGRAPH}" if there.strip() else PARAGRAPH
    client.update_project(project_id, expert_instruction=text)
    return True
