"""Are the slices told in words and lines that hold?"""

from __future__ import annotations

import io
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from rich.console import Console

from coral_backend.console import slices_table
from coral_backend.metrics import Metrics
from coral_backend.slices import NO_SLICE, SliceLine, interval, said_of, slice_lines, told_of_slices, worth_showing
from coral_backend.store import Store
from coral_backend.types import Sample
from strategies.review.routing import Slice
from tests import filled_store as filled

MR = Slice("mr", 1200, 30, 12, 21, 3, 12, 0.987, 0.5)


def test_a_routed_slice_says_why() -> None:
    assert said_of(MR.to_json()) == (
        "mr: of 30 tasks that people checked the LLM is right on 12, the SLM on 21 (98.7% sure that the SLM is better): "
        "its 1,200 tasks are labelled SLM-first, and more of them are flagged for review"
    )


def test_a_round_keeps_the_large_slices_and_all_routed_ones() -> None:
    many = [replace(MR, name=f"s{i}", tasks=200 - i, noise=None) for i in range(100)]
    told = told_of_slices([*many, MR])
    assert told["n_slices"] == 101
    assert [one["name"] for one in told["slices"]] == [*(f"s{i}" for i in range(50)), "mr"]
    assert asdict(MR).items() <= told["slices"][-1].items()


@pytest.mark.parametrize(
    ("right", "n", "low", "high"), [(24, 30, 0.6269, 0.9049), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)]
)
def test_the_interval_is_wilsons(right: int, n: int, low: float, high: float) -> None:
    """The values of R's ``binom::binom.wilson``."""
    assert interval(right, n) == pytest.approx((low, high), abs=1e-4)
    assert interval(0, 0) is None


def test_small_slices_that_nobody_checked_are_one_line(tmp_path: Path) -> None:
    store = filled.fill(Store(f"sqlite:///{tmp_path / 'coral.sqlite3'}"))
    project = store.project(filled.PROJECT)
    [line] = slice_lines(store, project)
    assert (line.name, line.tasks, line.checked, line.llm, line.slm) == (NO_SLICE, 5, 2, 0.0, 0.5)
    assert not worth_showing([line]), "without slices, a check, or a routed corpus there is nothing to tell"
    samples = store.samples(filled.PROJECT)
    store.put_samples(filled.PROJECT, [replace(sample, slice=f"s{sample.task_id}") for sample in samples])
    store.put_samples(filled.PROJECT, [Sample(100 + i, "x", slice="big") for i in range(3)])
    lines = slice_lines(store, project, most=1)
    assert [line.name for line in lines] == ["big", "s2", "s3", "(others: 3)"]
    assert (lines[-1].tasks, lines[-1].interval) == (3, None)
    assert worth_showing(lines)
    assert lines[1].to_json()["llm"] == 0.0
    text = Metrics(store).text().decode()
    assert 'coral_slice_samples{project="1",slice="big"} 3.0' in text
    assert 'coral_slice_right{project="1",slice="s3",who="slm"} 1.0' in text
    store.close()


def test_a_terminal_shows_the_slices_and_no_markup_of_theirs() -> None:
    routed = SliceLine("[red]mr[/red]", 1200, 30, 12, 21, 40, 30, 21, True, 0.987, (0.52, 0.83))
    plain = SliceLine("en", 9000, 0, 0, 0, 30, 0, 0, False, None, None)
    out = io.StringIO()
    Console(file=out, width=200).print(slices_table([plain, routed]))
    en, mr = [line for line in out.getvalue().splitlines() if "mr" in line or "│ en" in line]
    assert "none of 30 drawn tasks is labelled" in en
    assert "as usual" in en
    for said in (
        "[red]mr[/red]",
        "1,200",
        "40.0%",
        "70.0%",
        "SLM-first",
        "70.0% (52% to 83%) of 30 random tasks, 40 drawn",
    ):
        assert said in mr, said
