from __future__ import annotations

import csv
import io
import json
import logging
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from bayeslora_tool.training.dataset import (
    BATCH,
    line_batches,
    read_labelled,
    read_texts,
    text_batches,
)


def write(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


def write_parquet(path: Path, columns: dict[str, Any], *, row_group: int = 100) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table(columns), path, row_group_size=row_group)
    return path


def pairs(path: Path) -> list[tuple[str, str]]:
    return [(row.text, row.label) for row in read_labelled(path)]


class TestFiles:
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("a.tsv", 'text\tlabel\nsay "hi\tyes\nplain\tno\n'),
            ("a.csv", 'label,text\nyes,"say ""hi"\nno,plain\n'),
            (
                "a.jsonl",
                '{"text": "say \\"hi", "label": "yes"}\n\n{"text": "plain", "label": "no"}\n',
            ),
        ],
    )
    def test_three_kinds_say_the_same(self, tmp_path: Path, name: str, content: str) -> None:
        rows = read_labelled(write(tmp_path, name, content))
        assert [(r.text, r.label) for r in rows] == [('say "hi', "yes"), ("plain", "no")]

    def test_line_numbers_survive_quoted_newlines(self, tmp_path: Path) -> None:
        file = write(tmp_path, "a.csv", 'text,label\n"two\nlines",yes\nplain,no\n')
        assert [r.line for r in read_labelled(file)] == [2, 4]

    def test_labels_are_renamed(self, tmp_path: Path) -> None:
        file = write(tmp_path, "a.tsv", "text\tlabel\nx\t1\n")
        assert read_labelled(file, labels={"0": "no", "1": "yes"})[0].label == "yes"

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.tsv", "", r"a\.tsv is empty"),
            ("a.tsv", "text\tlabel\n", r"a\.tsv holds no examples"),
            ("a.tsv", "sentence\tlabel\nx\t1\n", r"line 1: no column 'text'.*columns: sentence"),
            ("a.tsv", "text\tlabel\nx\t1\ny\n", r"line 3: 1 fields, expected 2"),
            ("a.tsv", "text\tlabel\nx\t1\n \t1\n", r"line 3: `text` is empty"),
            ("a.tsv", "text\tlabel\nx\t\n", r"line 2: `label` is empty"),
            ("a.tsv", "text\tlabel\nx\t2\n", r"line 2: unknown label '2'; known: '0', '1'"),
            ("a.csv", 'text,label\n"x,1\n', r"line 2: "),
            ("a.jsonl", "", r"a\.jsonl holds no examples"),
            ("a.jsonl", '{"text": "x", "label": "1"}\nnot json\n', r"line 2: not JSON"),
            ("a.jsonl", "[1]\n", r"line 1: expected an object"),
            ("a.jsonl", '{"text": "x"}\n', r"line 1: no key 'label'; keys: text"),
            ("a.jsonl", '{"text": "a\\u0000b", "label": "1"}\n', r"line 1: `text` holds a NUL"),
            ("a.jsonl", '{"text": "\\ud83d", "label": "1"}\n', r"line 1: `text` holds a lone surr"),
            ("a.jsonl", '{"text": "x", "label": null}\n', r"line 1: `label` must be .* got null"),
            ("a.jsonl", '{"text": "x", "label": true}\n', r"line 1: `label` must be .* got true"),
            ("a.jsonl", '{"text": "x", "label": ["1"]}\n', r"line 1: `label` must be .* got \["),
            ("a.tsv", "text\ttext\tlabel\nx\ty\t1\n", r"line 1: two columns 'text' in the header"),
            ("a.xlsx", "x", r"unknown file type '\.xlsx'; use \.tsv, \.csv, \.jsonl, \.parquet"),
            ("a.tsv", "text,label\nx,1\n", r"line 1: .*separated by ',', expected '\\t'"),
            ("a.csv", "text|label\nx|1\n", r"line 1: .*separated by '\|', expected ','"),
            ("a.csv", 'text,label\nx,1\n"y,1\nz,1\n', r"line 3: .*a quote mark opens a cell"),
            ("a.tsv", 'text\tlabel\n"x\ny"\t1\n', r"line 2: 1 fields, .*save the file as \.csv"),
        ],
    )
    def test_bad_ones_name_the_line(
        self, tmp_path: Path, name: str, content: str, message: str
    ) -> None:
        with pytest.raises((ValueError, TypeError), match=message):
            read_labelled(write(tmp_path, name, content), labels={"0": "no", "1": "yes"})

    @pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
    def test_another_encoding_names_the_file(self, tmp_path: Path, name: str) -> None:
        row = '{"text": "caf\xe9", "label": "1"}' if name == "a.jsonl" else "caf\xe9\t1"
        content = row + "\n" if name == "a.jsonl" else f"text\tlabel\n{row}\n"
        (tmp_path / name).write_bytes(content.encode("latin-1"))
        line = 1 if name == "a.jsonl" else 2
        with pytest.raises(ValueError, match=rf"{name}, line {line}: not UTF-8; save the file as"):
            read_labelled(tmp_path / name)
        (tmp_path / name).write_bytes(f"{content}{content}".encode("utf-16"))
        with pytest.raises(ValueError, match=rf"{name}, line 1: not UTF-8; save the file as"):
            read_labelled(tmp_path / name)

    def test_text_that_is_no_string(self, tmp_path: Path) -> None:
        file = write(tmp_path, "a.jsonl", '{"text": 3, "label": "1"}\n')
        with pytest.raises(TypeError, match="line 1: `text` must be a str, got int"):
            read_labelled(file)

    @pytest.mark.parametrize("label", ["n\no", "no\N{ZERO WIDTH SPACE}", " no"])
    def test_label_that_is_not_shown_as_it_is(self, tmp_path: Path, label: str) -> None:
        file = write(tmp_path, "a.csv", f'text,label\nx,yes\ny,"{label}"\n')
        with pytest.raises(
            ValueError, match=r"a\.csv, line 3: `label` \('.*no.*'\) must have 1 to"
        ):
            read_labelled(file)
        assert read_labelled(file, labels={"yes": "yes", label: "no"})[1].label == "no"

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no such file"):
            read_labelled(tmp_path / "none.tsv")
        with pytest.raises(IsADirectoryError, match="is a folder; expected a file"):
            read_labelled(tmp_path)

    def test_texts_alone(self, tmp_path: Path) -> None:
        assert read_texts(write(tmp_path, "a.txt", "one\ntwo\n")) == ["one", "two"]
        file = write(tmp_path, "a.tsv", "id\tsaid\n1\tone\n2\ttwo\n")
        assert read_texts(file, text_column="said") == ["one", "two"]
        assert read_texts(write(tmp_path, "A.TSV", "id\ttext\n1\tone\n")) == ["one"]
        with pytest.raises(ValueError, match="line 2 is empty"):
            read_texts(write(tmp_path, "b.txt", "one\n\ntwo\n"))
        with pytest.raises(ValueError, match=r"c\.json: its lines are no texts"):
            read_texts(write(tmp_path, "c.json", '[{"text": "one"}]'))


class TestDialects:
    """What spreadsheets and other programs write."""

    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    def test_csv_is_split_where_its_header_is(self, tmp_path: Path, delimiter: str) -> None:
        content = io.StringIO()
        rows = [("text", "label"), ('say "hi"; or, well,\tnot', "yes"), ("plain", "no")]
        csv.writer(content, delimiter=delimiter).writerows(rows)
        assert pairs(write(tmp_path, "a.csv", content.getvalue())) == rows[1:]

    def test_a_comma_wins_where_both_would_do(self, tmp_path: Path) -> None:
        file = write(tmp_path, "a.csv", "text,label,text;label\nx,yes,y\n")
        assert pairs(file) == [("x", "yes")]

    def test_cells_longer_than_the_csv_module_takes(self, tmp_path: Path) -> None:
        text = "word " * 50_000
        assert pairs(write(tmp_path, "a.csv", f'text,label\n"{text}",yes\n')) == [(text, "yes")]

    def test_a_quote_that_swallows_the_file_is_found_early(self, tmp_path: Path) -> None:
        file = write(tmp_path, "a.csv", 'text,label\n"x,1\n' + "yes,1\n" * 2_000_000)
        with pytest.raises(ValueError, match=r"a\.csv, line 2: .*field limit.*a quote mark opens"):
            read_labelled(file)

    def test_quote_marks_of_a_tsv_are_kept_and_told_of(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        content = io.StringIO()
        rows = [("text", "label"), *[(f'he said "no" {i}', "no") for i in range(7)], ('"hm"', "no")]
        csv.writer(content, delimiter="\t", lineterminator="\n").writerows(rows)
        found = pairs(write(tmp_path, "a.tsv", content.getvalue()))
        assert found[0][0] == '"he said ""no"" 0"'
        assert "lines 2, 3, 4, 5, 6 and 3 more: cells stand in quote marks" in caplog.text
        caplog.clear()
        plain = 'text\tlabel\n"quoted"\tno\nhe said "" and ""\tno\n"a" and "b"\tno\n'
        assert pairs(write(tmp_path, "b.tsv", plain))[0] == ('"quoted"', "no")
        assert not caplog.text

    def test_sst2_is_told_nothing_of(
        self, shared_data: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        read_labelled(shared_data / "sst2" / "glue_dev.tsv", text_column="sentence")
        assert not caplog.text


class TestContradictions:
    def test_labels_alike_but_for_case(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        file = write(tmp_path, "a.csv", "text,label\na,Yes\nb,yes\nc,no\nd,YES\ne,yes\n")
        read_labelled(file)
        assert (
            "a.csv: the labels 'Yes' (line 2) and 'yes' (line 3) and 'YES' (line 5) differ only "
            "in case, and count as 3"
        ) in caplog.text
        assert "no'" not in caplog.text

    def test_texts_with_two_labels(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        rows = [f"text {i % 10},{'yes' if i < 10 else 'no'}" for i in range(18)]
        read_labelled(write(tmp_path, "a.csv", "text,label\n" + "\n".join(rows)))
        assert (
            "a.csv: 8 texts stand under another label than before: lines 12 (as in 2), 13 (as in "
            "3), 14 (as in 4), 15 (as in 5), 16 (as in 6) and 3 more"
        ) in caplog.text

    def test_repetition_is_no_contradiction(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            read_labelled(write(tmp_path, "a.csv", "text,label\na,yes\nA ,yes\nb,no\n"))
        assert not caplog.text


class TestParquet:
    def test_says_what_a_csv_says(self, tmp_path: Path) -> None:
        import pyarrow as pa

        texts, labels = [f'say "hi", {i}' for i in range(250)], ["yes", "no"] * 125
        columns = {
            "id": range(250),
            "text": texts,
            "label": pa.array(labels).dictionary_encode(),
        }
        file = write_parquet(tmp_path / "a.parquet", columns)
        rows = read_labelled(file)
        assert [(r.text, r.label, r.line) for r in rows] == [
            (text, label, i) for i, (text, label) in enumerate(zip(texts, labels, strict=True), 1)
        ]
        assert read_texts(file) == texts
        numbers = write_parquet(tmp_path / "b.parquet", {"text": ["x"], "label": [3]})
        assert pairs(numbers) == [("x", "3")]

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"sentence": ["x"]}, r"a\.parquet: no column 'text' in the header; columns: sentence"),
            ({"text": ["x", None]}, r"a\.parquet, row 2: `text` must be a str, got NoneType"),
            ({"text": ["x", " "]}, r"a\.parquet, row 2: `text` is empty"),
            ({"text": [b"x"]}, r"a\.parquet, row 1: `text` must be a str, got bytes"),
        ],
    )
    def test_bad_ones_name_the_row(
        self, tmp_path: Path, columns: dict[str, Any], message: str
    ) -> None:
        file = write_parquet(tmp_path / "a.parquet", columns)
        with pytest.raises((ValueError, TypeError), match=message):
            read_texts(file)

    def test_a_label_that_is_no_name(self, tmp_path: Path) -> None:
        file = write_parquet(tmp_path / "a.parquet", {"text": ["x"], "label": [b"x"]})
        with pytest.raises(TypeError, match=r"row 1: `label` must be a string or a whole number"):
            read_labelled(file)

    def test_another_file_by_that_name(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"a\.parquet is not a Parquet file"):
            read_texts(write(tmp_path, "a.parquet", "text\nx\n"))

    def test_without_pyarrow(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
        with pytest.raises(ValueError, match=r'pip install "bayeslora-tool\[parquet\]"'):
            read_texts(write(tmp_path, "a.parquet", ""))


class TestStreaming:
    @pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl", "parquet", "txt"])
    def test_memory_does_not_grow_with_the_file(self, tmp_path: Path, kind: str) -> None:
        def peak(n: int) -> int:
            texts = [f"the text of number {i:06d}, and some more words of it" for i in range(n)]
            file = tmp_path / f"{n}.{kind}"
            if kind == "parquet":
                write_parquet(file, {"text": texts}, row_group=1000)
            elif kind == "jsonl":
                file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
            else:
                quote = '"' if kind == "csv" else ""
                head = "" if kind == "txt" else "text\n"
                file.write_text(head + "".join(f"{quote}{text}{quote}\n" for text in texts))
            del texts
            read = 0
            tracemalloc.start()
            try:
                for batch in text_batches(file):
                    assert len(batch) <= BATCH
                    read += len(batch)
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
                assert read == n

        peak(2_000)  # what is made once
        assert peak(40_000) < peak(4_000) + 300_000  # bytes; the larger file has 1.8 million more

    def test_bad_rows_stand_in_their_place(self, tmp_path: Path) -> None:
        content = b'text,label\nfine,1\n,1\nonly one\ncaf\xe9,1\n"a"b,1\ngood,1\n'
        (tmp_path / "a.csv").write_bytes(content)
        (batch,) = text_batches(tmp_path / "a.csv")
        assert [str(text.fault or text.content).split(";")[0] for text in batch] == [
            "fine",
            "a.csv, line 3: `text` is empty or only whitespace ('')",
            "a.csv, line 4: 1 fields, expected 2",
            "a.csv, line 5: not UTF-8",
            """a.csv, line 6: ',' expected after '"'""",
            "good",
        ]

    def test_lines_longer_than_a_read(self, tmp_path: Path) -> None:
        texts = ["x" * 300_000, "y", "z" * 70_000]
        assert read_texts(write(tmp_path, "a.txt", "\n".join(texts))) == texts

    def test_lines_are_there_as_soon_as_they_come(self) -> None:
        read, written = os.pipe()
        with open(read, "rb") as stream, open(written, "wb", buffering=0) as source:
            batches = line_batches(stream, "stdin")
            source.write("\N{BYTE ORDER MARK}one\r\ntwo\nthr".encode())
            assert [text.content for text in next(batches)] == ["one", "two"]
            source.write("ee\u2028\x85\n".encode())
            assert [text.content for text in next(batches)] == ["three\u2028\x85"]
            source.write(b"\n" + b"x" * 50_000)
            (empty,) = next(batches)
            assert str(empty.fault).startswith("stdin, line 4 is empty")
            source.close()
            assert [text.content for text in next(batches)] == ["x" * 50_000]
            assert list(batches) == []

    def test_a_pipe_is_a_file(self, tmp_path: Path) -> None:
        read, written = os.pipe()
        with open(written, "w") as source:
            source.write("one\ntwo\n")
        assert read_texts(f"/dev/fd/{read}") == ["one", "two"]
        os.close(read)
