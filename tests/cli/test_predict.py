from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bayeslora_tool.cli.predict import _routed, _write_all
from bayeslora_tool.cli.tables import Result, ResultsTable
from bayeslora_tool.policy import Policy, decide
from bayeslora_tool.prediction import Prediction
from bayeslora_tool.training.dataset import Text
from tests.conftest import failed
from tests.fakes import by_words, make_prediction


class TestPredict:
    def test_table(self, run: Any) -> None:
        result = run("predict", "This movie was fantastic!", "what a [bold]waste[/] of time")
        assert result.exit_code == 0, result.output
        assert "positive" in result.stdout
        assert "proceed" in result.stdout
        assert "[bold]waste[/]" in result.stdout
        assert "negative" in result.stdout

    def test_no_text_or_error_steers_the_terminal(self, run: Any) -> None:
        steering = "a good\x1b[2J \x9b1A\u202e film"
        table = run("predict", steering)
        assert r"a good\x1b[2J \x9b1A\u202e film" in table.stdout
        jsonl = run("predict", "--jsonl", steering)
        assert json.loads(jsonl.stdout)["text"] == steering
        refused = run("predict", "-p", "none\x1b[2J.yaml", "x")
        assert refused.exit_code == 2
        for shown in (table.stdout, jsonl.stdout, refused.stderr):
            assert not set(shown) & set("\x1b\x9b\u202e")

    def test_jsonl_from_stdin(self, run: Any) -> None:
        result = run(
            "predict", "-p", "default", "--jsonl", "--draws", "5", "--seed", "3",
            input="great\u2028fun\nawful\n",
        )  # fmt: skip
        rows = [json.loads(line) for line in result.stdout.split("\n") if line]
        assert [row["text"] for row in rows] == ["great\u2028fun", "awful"]
        assert {row["estimator"] for row in rows} == {"monte_carlo"}
        assert [row["label"] for row in rows] == ["positive", "negative"]
        assert all(row["n_draws"] == 5 and row["seed"] == 3 and row["reason"] for row in rows)

    def test_file_and_deterministic_estimator(self, run: Any, tmp_path: Path) -> None:
        file = tmp_path / "a.tsv"
        file.write_text("said\ngreat\n")
        result = run(
            "predict", "-f", str(file), "--text-column", "said", "--jsonl",
            "--estimator", "deterministic",
        )  # fmt: skip
        (row,) = map(json.loads, result.stdout.splitlines())
        assert row["variance"] is None
        assert row["action"] == "escalate"

    def test_own_adapter_and_preset(self, run: Any, tiny_adapter: Path, tmp_path: Path) -> None:
        preset = tmp_path / "p.yaml"
        preset.write_text(f"adapter: {tiny_adapter}\npolicy: {{tau_conf: 0.5, tau_var: 0.25}}\n")
        result = run("predict", "-p", str(preset), "--jsonl", "a good film")
        row = json.loads(result.stdout)
        assert (row["label"], row["action"]) == ("good", "proceed")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["-p", "sentimnet", "x"], "unknown preset 'sentimnet'"),
            (["-a", "nothing", "x"], "no adapter 'nothing'"),
            (["--base", "no/where", "x"], "no/where"),
            (["--draws", "0", "x"], "`n_draws` (=0)"),
            (["--estimator", "magic", "x"], "`estimator` (='magic')"),
            (["-f", "none.tsv"], "no such file: none.tsv"),
            (["-f", "none.tsv", "x"], "not both"),
            ([], "stdin holds no texts"),
        ],
    )
    def test_bad_input(self, run: Any, arguments: list[str], message: str) -> None:
        assert failed(run("predict", *arguments), message)


class TestFaultyRows:
    def test_they_escalate_and_cost_the_others_nothing(
        self, run: Any, tiny_adapter: Path, tmp_path: Path
    ) -> None:
        rows = [
            {"text": "a good film"},
            {"text": "\N{ZERO WIDTH SPACE}"},
            {"text": 3},
            "not an object",
            {"text": "\ud83d"},
            {"said": "a bad film"},
            {"text": "a bad film"},
        ]
        file = tmp_path / "a.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        result = run("predict", "-a", str(tiny_adapter), "-f", str(file), "--jsonl")
        assert result.exit_code == 3
        assert "5 of 7 rows could not be scored" in result.stderr
        found = [json.loads(line) for line in result.stdout.splitlines()]
        assert [row["text"] for row in found] == [
            "a good film", "\N{ZERO WIDTH SPACE}", None, None, "\ud83d", None, "a bad film",
        ]  # fmt: skip
        assert [row.get("label") for row in found] == ["good", *[None] * 5, "bad"]
        for row in found[1:-1]:
            assert row.keys() == {"text", "error", "action"}
            assert row["action"] == "escalate"
        assert "line 3: `text` must be a str, got int" in found[2]["error"]

        table = run("predict", "-a", str(tiny_adapter), "-f", str(file)).stdout.splitlines()
        assert len(table) == 1 + 7 + 5 + 1  # header, rows, errors, caption
        assert table[4].endswith("escalate")
        assert table[5].strip() == "a.jsonl, line 3: `text` must be a str, got int (3)"

    def test_one_text_that_fails_in_the_model_fails_alone(self, policy: Policy) -> None:
        def score(texts: list[str]) -> list[Prediction]:
            if "spoilt" in texts:
                raise ValueError("nothing to read")
            return [by_words(text) for text in texts]

        given = [Text("yes"), Text(None, ValueError("empty")), Text("spoilt"), Text("no")]
        (results,) = _routed([given], score, policy)
        assert [r.fault for r in results] == [None, "empty", "nothing to read", None]
        assert [r.text for r in results] == ["yes", None, "spoilt", "no"]
        assert results[0].prediction == by_words("yes")

    def test_what_cannot_be_read_on_is_told_after_what_could(
        self, run: Any, tiny_adapter: Path, tmp_path: Path
    ) -> None:
        file = tmp_path / "a.csv"
        file.write_text("text,label\n" + "a good film,1\n" * 70 + '"never closed,1\n')
        result = run("predict", "-a", str(tiny_adapter), "-f", str(file), "--jsonl")
        assert failed(result, "a.csv, line 72")
        assert "64 rows are written" in result.stderr
        assert len(result.stdout.splitlines()) == 64


class TestStreaming:
    def test_a_row_is_written_before_the_next_batch_is_read(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def results() -> Iterator[list[Result]]:
            for text in ("one", "two"):
                yield [Result(text)]
                assert capsys.readouterr().out == f"{text}\n"

        assert _write_all(results(), lambda some: f"{some[0].text}\n") == (2, 0)

    @pytest.mark.long
    def test_answers_a_line_before_the_next_and_keeps_it_when_interrupted(
        self, tiny_adapter: Path
    ) -> None:
        command = [sys.executable, "-m", "bayeslora_tool", "predict", "--jsonl"]
        with subprocess.Popen(
            [*command, "-a", str(tiny_adapter)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin
            assert process.stdout
            for text in ("a good film", "a bad film"):
                process.stdin.write(f"{text}\n")
                process.stdin.flush()
                assert json.loads(process.stdout.readline())["text"] == text
            process.send_signal(signal.SIGINT)
            rest, told = process.communicate(timeout=60)
        assert (process.returncode, rest) == (130, "")
        assert "interrupted: 2 rows are written" in told

    def test_an_interrupt_tears_no_row(self) -> None:
        """A megabyte does not fit a pipe, so the signal comes while it is being written."""
        code = (
            "from bayeslora_tool.cli.terminal import uninterrupted, write\n"
            "write('first\\n')\n"
            "try:\n"
            "    with uninterrupted(): write('x' * 1_000_000 + '\\n')\n"
            "except KeyboardInterrupt: print('interrupted')"
        )
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
            assert process.stdout
            assert process.stdout.readline() == b"first\n"
            assert process.stdout.read(1) == b"x"
            process.send_signal(signal.SIGINT)
            assert process.stdout.read() == b"x" * 999_999 + b"\ninterrupted\n"

    def test_a_closed_pipe_ends_it_quietly(self) -> None:
        code = (
            "import typer\n"
            "from bayeslora_tool.cli.terminal import friendly, write\n"
            "def rows():\n"
            "    with friendly():\n"
            "        while True: write('row\\n')\n"
            "typer.run(rows)"
        )
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout
            assert process.stderr
            assert process.stdout.readline() == b"row\n"
            process.stdout.close()
            assert process.stderr.read() == b""
        assert process.returncode == 141


class TestTable:
    def rows(self, width: int, results: list[Result], policy: Policy) -> list[str]:
        labels = ["yes", "a label that is rather long for a terminal"]
        table = ResultsTable(labels, policy, width)
        console = Console(width=width, file=open(os.devnull, "w"), record=True)  # noqa: SIM115
        for result in results:  # one by one, as they come
            console.print(table.rows([result]))
        console.print(table.caption())
        console.file.close()
        return console.export_text().splitlines()

    @pytest.mark.parametrize("width", [40, 60, 80, 120])
    def test_fits_and_is_one_table_however_the_rows_come(self, width: int) -> None:
        policy = Policy(tau_conf=0.8, tau_var=0.01, tau_novelty=0.9)
        p = make_prediction(novelty=0.5)
        texts = ["short", "long " * 50, "\x1b[31mred\nlines\tand\u202etabs", "日本語の" * 20]
        lines = self.rows(width, [Result(text, p, decide(p, policy)) for text in texts], policy)
        assert max(map(len, lines)) <= width
        assert sum("confidence" in line for line in lines[:-3]) == 1
        for line in lines[1:5]:
            assert line.rstrip().endswith("proceed")
            assert "0.900" in line
        assert lines[1].startswith("short ")
        assert "\x1b" not in "".join(lines)
        assert ("novelty" in lines[0]) == (width >= 80)
        assert ("variance" in lines[0]) == (width >= 60)
        assert ("middle of the bar" in " ".join(lines)) == (width >= 100)
        assert "novelty <= 0.9" in " ".join(" ".join(lines[5:]).split())

    def test_an_error_stands_below_its_text(self, policy: Policy) -> None:
        p = make_prediction()
        results = [Result("bad", fault="a.csv, line 3: bad"), Result("x", p, decide(p, policy))]
        lines = self.rows(60, results, policy)
        assert lines[1].split() == ["bad", "escalate"]
        assert lines[2].rstrip() == "  a.csv, line 3: bad"
        assert lines[3].split()[:2] == ["x", "yes"]
