"""Do rows become the right numbers, whatever stands in them?"""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coral_backend.slm.columns import CATEGORICAL, HASHED, MOST_COLUMNS, NUMERIC, Columns, fit, read_rows

CELLS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))


def test_kinds_are_found_out_unless_they_are_told() -> None:
    rows = [{"age": i, "ward": i % 3, "sex": "mf"[i % 2], "text": str(i), "vip": i % 2 == 0} for i in range(20)]
    found = {column.name: column.kind for column in fit(rows, {}).columns}
    assert found == {"age": NUMERIC, "ward": NUMERIC, "sex": CATEGORICAL, "text": NUMERIC, "vip": CATEGORICAL}
    told = fit(rows, {"ward": CATEGORICAL, "age": ""})
    assert [(column.name, column.kind) for column in told.columns] == [("ward", CATEGORICAL), ("age", NUMERIC)]
    assert told.notes == ("Columns that the task strategy does not name were left out: 'sex', 'text', 'vip'.",)


def test_numbers_are_placed_and_outliers_pulled_in() -> None:
    rows: list[dict[str, Any]] = [{"x": float(i)} for i in range(101)] + [{"x": 1e12}, {"x": None}]
    columns = fit(rows, {})
    encoded = columns.encode([{"x": 50.0}, {"x": 0.0}, {"x": 100.0}, {"x": 1e12}, {"x": None}, {"x": "75"}, {}])
    assert np.abs(encoded).max() <= 4.0
    assert (np.diff(encoded[[1, 0, 2, 3], 0]) > 0).all(), "order is kept"
    assert encoded[:, -1].tolist() == [0, 0, 0, 0, 1, 0, 1], "what is missing is said"
    np.testing.assert_allclose(encoded[4, :-1], columns.encode([{"x": 50.5}])[0, :-1], atol=0.1)


def test_rare_words_are_one_and_read_by_their_letters() -> None:
    rows = [{"city": "Rome"}] * 10 + [{"city": f"street number {i}"} for i in range(10)]
    (column,) = fit(rows, {}).columns
    assert (column.words, column.hashed, column.width) == (("Rome",), True, 2 + HASHED)
    rome, street, other, blank = fit(rows, {}).encode(
        [{"city": "Rome"}, {"city": "street number 77"}, {"city": "x"}, {"city": ""}]
    )
    assert (rome[0], street[0], street[1], other[1]) == (1, 0, 1, 1)
    assert not blank[:2].any()
    near = fit(rows, {}).encode([{"city": "street number 78"}])[0]
    assert street[2:] @ near[2:] > street[2:] @ other[2:]


def test_a_word_where_a_number_was_is_noted_and_missing() -> None:
    rows = [{"age": i} for i in range(30)] + [{"age": "old"}]
    columns = fit(rows, {})
    assert columns.notes == ("Column 'age' is numeric; 1 values are no numbers and count as missing: 'old'.",)
    np.testing.assert_array_equal(columns.encode([{"age": "old"}]), columns.encode([{"age": None}]))


def test_missing_and_unknown_columns_are_noted() -> None:
    rows = [{"age": 3, "job": "x"}] * 5 + [{"age": 4}]
    notes = fit(rows, {"agee": "", "age": "", "job": ""}).notes
    assert notes[0] == "No row has the column 'agee' that the task strategy names; rows have age, job."
    assert "'job' (5)" in notes[1]
    many = fit([{f"c{i}": 1 for i in range(MOST_COLUMNS + 9)}], {})
    assert len(many.columns) == MOST_COLUMNS
    assert "9 columns were left out" in many.notes[0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.dictionaries(st.sampled_from("abc"), CELLS, max_size=3), min_size=1, max_size=12),
    st.lists(st.dictionaries(st.sampled_from("abcd"), CELLS, max_size=4), min_size=1, max_size=5),
)
def test_any_rows_become_finite_numbers_and_the_columns_survive_json(
    rows: list[dict[str, Any]], new: list[dict[str, Any]]
) -> None:
    columns = fit(rows, {})
    again = Columns.from_json(json.loads(json.dumps(columns.to_json(), allow_nan=False)))
    assert again == columns
    for some in (rows, new):
        encoded = again.encode(some)
        assert encoded.shape == (len(some), columns.width)
        assert encoded.dtype == np.float32
        assert np.isfinite(encoded).all()
    assert len(columns.owners) == columns.width


def test_an_outlier_beside_values_next_to_zero_is_a_finite_number() -> None:
    rows = [{"a": value} for value in [1e-310, 2e-310, 3e-310, 2e-310] * 20 + [1e20, -1e20]]
    encoded = fit(rows, {}).encode(rows)
    assert np.isfinite(encoded).all()
    assert encoded[-2, 0] > encoded[0, 0] > encoded[-1, 0]


@pytest.mark.parametrize("text", ["", "no json", "[1]", "3", '"a"', "{", "null", "[" * 20_000])
def test_what_is_no_row_is_an_empty_one(text: str) -> None:
    assert read_rows([text]) == [{}]
