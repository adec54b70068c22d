"""Does the demo read what people have, and say clearly what it cannot read?"""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from coral_backend.demo.data import RECORDED_KEY, SHIPPED_DEFINITIONS, load, shipped
from coral_backend.exceptions import InputError
from coral_backend.labelstudio.control_tags import parse_config

ROWS = [("good film, very", "pos", "neg"), ("bad", "neg", ""), ("so ; so", "pos", "pos")]


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.jsonl", "x.csv.gz", "x.tsv.gz", "x.jsonl.gz"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    if ".jsonl" in name:
        content = "\n".join(json.dumps(dict(zip(("text", "gold", "said"), row, strict=True))) for row in ROWS)
    else:
        delimiter = "\t" if ".tsv" in name else ","
        plain = tmp_path / "plain"
        with plain.open("w", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows([("text", "gold", "said"), *ROWS])
        content = plain.read_text()
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    corpus = load(path, gold="gold", noisy="said")
    assert [(r.text, r.gold, r.noisy) for r in corpus.rows] == ROWS
    assert corpus.labels == ("neg", "pos")
    assert corpus.tasks()[0] == {"data": {"text": ROWS[0][0], RECORDED_KEY: "neg"}}
    assert not any("gold" in task["data"] for task in corpus.tasks()), "gold never reaches Label Studio"


def test_some_rows_of_a_sorted_file_have_all_labels_and_are_always_the_same(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("text,gold\n" + "".join(f"t{i},{'a' if i < 500 else 'b'}\n" for i in range(1000)))
    some = load(path, gold="gold", rows=100)
    assert len(some.rows) == 100
    assert {row.gold for row in some.rows} == {"a", "b"}
    assert some == load(path, gold="gold", rows=100)


def test_labels_with_xml_in_them_survive_the_config(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('text,gold\na,"<b> & ""c"""\nb,d\n')
    assert set(parse_config(load(path, gold="gold").label_config()).labels) == {'<b> & "c"', "d"}


def test_the_shipped_corpus_is_what_its_readme_says() -> None:
    corpus = shipped()
    assert len(corpus.rows) >= 600
    assert len({row.text for row in corpus.rows}) == len(corpus.rows)
    assert set(corpus.labels) == set(SHIPPED_DEFINITIONS)
    assert min(Counter(row.gold for row in corpus.rows).values()) >= 60
    assert parse_config(corpus.label_config()).definitions == SHIPPED_DEFINITIONS


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.xlsx", b"x", r"ends in '.xlsx'; read are \.csv"),
        ("x.csv", b"", "has no rows"),
        ("x.csv", b"content,gold\na,b\n", r"no column 'text'; it has 'content', 'gold'"),
        ("x.csv", b"text,gold\na,same\nb,same\n", "gives 1 label"),
        ("x.csv", b"text,gold\n\xff,b\n", "not UTF-8"),
        ("x.csv.gz", b"text,gold\n", "cannot be read"),
        ("x.jsonl", b'{"text": "a", "gold": "x"}\n[1]\n', "line 2: an object is needed"),
        ("x.csv.gz", gzip.compress(b"text,gold\na,b\n" * 9)[:10] + b"\xff" * 20, "cannot be read.*Pack it again"),
        ("x.csv", b"text,gold\ra,b\rc,d\r", r"x\.csv, line 1: no table .*LF or CRLF"),
        ("x.jsonl", b"{oops\n", "line 1: not JSON"),
        ("x.jsonl", b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "line 1: nested too deeply"),
        ("x.jsonl", b'{"text": ' + b"1" * 5_000 + b"}\n", "line 1: .*thousands of digits"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says):
        load(tmp_path / name, gold="gold")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "none.csv", gold="gold")


def test_too_many_labels_are_the_wrong_column(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("text,gold\n" + "".join(f"t{i},label {i}\n" for i in range(300)))
    with pytest.raises(InputError, match="300 labels; at most 200"):
        load(path, gold="gold")


def test_spaces_around_labels_make_no_labels_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("text,said\na, pos\nb,pos \nc,neg\nd,  \n")
    corpus = load(path, noisy="said")
    assert corpus.labels == ("neg", "pos")
    assert [row.noisy for row in corpus.rows] == ["pos", "pos", "neg", ""]
