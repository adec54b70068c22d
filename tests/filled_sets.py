"""A store whose project takes sets of labels, with a judged round and what people said, as export and dashboard find one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from coral_backend.kinds import Work
from coral_backend.kinds.multiple import SetOfLabels
from coral_backend.labels import MULTIPLE, write_set
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.types import HumanLabel, LabelSpace, Project, Round
from tests import filled_store as filled

LABELS = ("sports", "a, b", 'x"a', "=1+1")
CONFIG = (
    '<View><Text name="text" value="$text"/><Choices name="label" toName="text" choice="multiple">'
    '<Choice value="sports"/><Choice value="a, b"/><Choice value="x&quot;a"/><Choice value="=1+1"/></Choices></View>'
)
SPACE = LabelSpace("Choices", "label", "text", "text", LABELS, kind=MULTIPLE)

SAID = (("sports",), ("sports", "a, b"), (), ("a, b",), None, ('x"a', "=1+1"))
"""What the LLM said of tasks 1 to 6; nothing of the fifth."""
PROBS = (
    (0.95, 0.02, 0.02, 0.02),
    (0.95, 0.9, 0.02, 0.02),
    (0.02, 0.02, 0.05, 0.02),
    (0.9, 0.95, 0.02, 0.02),  # the LLM has forgotten the first label, the SLM thinks
    (0.6, 0.02, 0.02, 0.02),
    (0.02, 0.02, 0.9, 0.3),
)
PEOPLE = {2: ("sports",), 3: (), 4: ("sports", "a, b")}


def said(labels: tuple[str, ...] | None) -> str | None:
    return None if labels is None else write_set(labels, LABELS)


def project(store: Store, space: LabelSpace = SPACE) -> Project:
    store.save_project(Project(filled.PROJECT, "News", CONFIG, "hash", space))
    return store.project(filled.PROJECT)


def put_arrays(folder: Path, probs: object = PROBS) -> None:
    """Write a round's arrays as a training would have left them."""
    found = np.array(probs)
    n = len(found)
    tensors = {
        "task_ids": np.arange(1, n + 1),
        "probs": found,
        "losses": np.zeros(found.shape),
        "p_clean": np.where(found < 0.35, 0.9, 0.95),
        "features": np.eye(n, 3, dtype=np.float32),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "arrays.safetensors")


def fill(store: Store, folder: Path, *, people: bool = True) -> Round:
    """Put tasks, the LLM's sets, people's and a finished round into `store`; the round's arrays into `folder`."""
    made = project(store)
    for task_id, labels in enumerate(SAID, 1):
        filled.put_sample(store, task_id, f"text {task_id}", said(labels))
    put_arrays(folder)
    if people:
        store.put_annotations(
            1, [HumanLabel(10 + i, i, said(labels), 7, filled.LONG_AGO) for i, labels in PEOPLE.items()]
        )
    work = Work(store, made, Settings.load({}, model_dir=folder), folder)
    judged = SetOfLabels().judge(work)
    assert judged is not None
    return filled.finish_round(store, [replace(one, content_hash=None) for one in judged.verdicts])
