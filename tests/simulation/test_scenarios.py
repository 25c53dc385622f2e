from __future__ import annotations

import json
from pathlib import Path

import pytest

from bayeslora_tool.simulation.scenarios import read_scenarios, scenarios_from_labelled
from bayeslora_tool.training.dataset import LabelledText
from tests.conftest import ROOT

EXAMPLE = ROOT / "examples" / "scenarios.yaml"


class TestScenarioFiles:
    def test_the_example_is_read_in_full(self) -> None:
        file = read_scenarios(EXAMPLE)
        assert file.reviewer["median_seconds"] == 90
        assert file.prices["clarification"] == 0.1
        scenarios = {s.id: s for s in file.scenarios}
        assert scenarios["which list"].clarifications == ("the list", "milk, on my shopping list")
        assert scenarios["two wishes"].reviews == ({"edit": "cancel_reservation"},)
        assert scenarios["says little"].gold is None

    def test_jsonl_says_the_same_as_yaml(self, tmp_path: Path) -> None:
        rows = [{"id": "1", "text": "a\u2028b", "gold": "yes", "reviews": ["approve"]},
                {"id": "2", "text": "x", "gold": None}]  # fmt: skip
        jsonl, yaml = tmp_path / "a.jsonl", tmp_path / "a.yaml"
        jsonl.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n")
        yaml.write_text(json.dumps({"scenarios": rows}))
        assert read_scenarios(jsonl).scenarios == read_scenarios(yaml).scenarios
        assert read_scenarios(jsonl).scenarios[0].text == "a\u2028b"

    def test_labelled_texts_become_scenarios(self) -> None:
        first, second = scenarios_from_labelled([LabelledText("x", "yes", 2)], ["y"])
        assert (first.id, first.text, first.gold) == ("line 2", "x", "yes")
        assert (second.id, second.text, second.gold) == ("out of scope 1", "y", None)

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("{id: b, text: x, gold: yes, golden: 1}", "unknown key `golden`; valid keys: clari"),
            ("{id: b, gold: 'yes'}", "missing key `text`"),
            ("{id: b, text: x}", "missing key `gold`"),
            ("{id: a, text: x, gold: 'yes'}", "id 'a' stands in line 2 too"),
            ("{id: b, text: x, gold: yess}", "unknown label 'yess'; near are yes"),
            ("{id: b, text: x, gold: null, reviews: [{edit: on}]}", "`reviews"),
            ("{id: b, text: x, gold: null, reviews: [{edit: noo}]}", "in `reviews`"),
            ("{id: b, text: x, gold: null, reviews: [fine]}", "expected approve, reject, {edit"),
            ("{id: b, text: x, gold: yes}", "`gold` (=True)"),
            ("{id: 7, text: x, gold: null}", "`id` (=7)"),
            ("{id: b, text: ' ', gold: null}", "only whitespace"),
            ("{id: b, text: x, gold: null, clarifications: more}", "`clarifications`"),
            ("text", "Input should be an object"),
        ],
    )  # fmt: skip
    def test_bad_scenarios_are_refused_with_file_and_line(
        self, tmp_path: Path, row: str, message: str
    ) -> None:
        file = tmp_path / "bad.yaml"
        file.write_text(f"scenarios:\n  - {{id: a, text: x, gold: 'no'}}\n  - {row}\n")
        with pytest.raises(ValueError, match=r"bad\.yaml, line 3") as caught:
            read_scenarios(file, labels=("yes", "no"))
        assert message in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.yaml", "scenarios: [", "not YAML"),
            ("a.yaml", "", "expected a mapping with a list under `scenarios`"),
            ("a.yaml", "- x", "expected a mapping"),
            ("a.yaml", "scenarios: []", "holds no scenarios"),
            ("a.yaml", "scenarios: []\nprice: 1", "unknown key 'price'; valid keys: scenarios"),
            ("a.yaml", "scenarios: []\nprices: {eror: 1}", "`prices` is not valid"),
            ("a.yaml", "scenarios: []\nreviewer: {error_rate: 2}", "`error_rate` (=2)"),
            ("a.yaml", "scenarios: []\nreviewer:\n", "`reviewer` is not valid"),
            ("a.jsonl", '{"id": "a"}\n{', "a.jsonl, line 1"),
            ("a.jsonl", "\n{", "a.jsonl, line 2 is not JSON"),
            ("a.txt", "x", "unknown file type '.txt'"),
            ("a.yaml", "scenarios: [{id: a}]\nscenarios: [{id: b}]", "'scenarios' comes twice"),
            ("a.yaml", "scenarios: [{id: a, text: x, text: y}]", "'text' comes twice"),
            ("a.yaml", "scenarios: \udce9", "a.yaml is not UTF-8"),
            ("a.jsonl", '{"id": "\udce9"}', "a.jsonl is not UTF-8"),
        ],
    )
    def test_bad_files_are_refused(
        self, tmp_path: Path, name: str, content: str, message: str
    ) -> None:
        (tmp_path / name).write_bytes(content.encode(errors="surrogateescape"))
        with pytest.raises(ValueError, match=r"a\.") as caught:
            read_scenarios(tmp_path / name)
        assert message in str(caught.value)

    @pytest.mark.parametrize("name", ["a.yaml", "a.jsonl"])
    def test_a_byte_order_mark_is_no_content(self, tmp_path: Path, name: str) -> None:
        row = '{"id": "a", "text": "x", "gold": "y"}'
        content = row if name == "a.jsonl" else f"scenarios: [{row}]"
        (tmp_path / name).write_text(content, encoding="utf-8-sig")
        assert [s.id for s in read_scenarios(tmp_path / name).scenarios] == ["a"]

    def test_no_file(self) -> None:
        with pytest.raises(FileNotFoundError, match=r"no such file: none\.yaml"):
            read_scenarios("none.yaml")
