"""The picture in docs/architecture.md, beside the imports themselves and the contracts of lint."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT

# The tree as it installs, seen from its folder; see the Makefile's `lint`.
IMPORTS = """
import json, grimp
graph = grimp.build_graph("bayeslora_tool", cache_dir=None, exclude_type_checking_imports=True)
room = lambda module: ".".join(module.split(".")[1:2])
rooms = [room(child) for child in graph.find_children("bayeslora_tool")]
imported = graph.find_modules_directly_imported_by
pairs = {(room(a), room(b)) for a in graph.modules for b in imported(a)}
print(json.dumps([sorted(rooms), sorted(pair for pair in pairs if all(pair))]))
"""
NO_ROOMS = {"__main__", "configs"}  # a line of code, and data

Arrows = set[tuple[str, str]]


def drawn() -> tuple[dict[str, list[str]], Arrows]:
    """The rooms that each box of the picture stands for, and the arrows between boxes."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    (picture,) = re.findall(r"```mermaid\n(.*?)```", page, flags=re.DOTALL)
    labels = dict(re.findall(r'(\w+)\["(.*?)"\]', picture))
    arrows = set(re.findall(r"^ *(\w+) --> (\w+)$", picture, flags=re.MULTILINE))
    assert len(arrows) == picture.count("-->")
    boxes = {name for arrow in arrows for name in arrow}
    return {box: re.findall(r"\w+", labels.get(box, box)) for box in boxes}, arrows


@pytest.fixture(scope="module")
def imports(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], Arrows]:
    """The rooms that there are, and which imports which."""
    package = tmp_path_factory.mktemp("tree") / "bayeslora_tool"
    package.mkdir()
    for part in (*(ROOT / "bayeslora_tool").iterdir(), ROOT / "graphs", ROOT / "configs"):
        (package / part.name).symlink_to(part)
    command = [sys.executable, "-c", IMPORTS]
    out = subprocess.run(command, cwd=package.parent, capture_output=True, text=True, check=True)
    rooms, pairs = json.loads(out.stdout)
    return set(rooms) - NO_ROOMS, {(a, b) for a, b in pairs if a not in NO_ROOMS}


def reached(start: str, arrows: Arrows) -> set[str]:
    """Whatever a path of one or more arrows leads to."""
    found: set[str] = set()
    ahead = [start]
    while ahead:
        here = ahead.pop()
        new = {b for a, b in arrows if a == here} - found
        found |= new
        ahead += new
    return found


def without_the_implied(arrows: Arrows) -> Arrows:
    """The transitive reduction: no arrow that a path of others makes as well (no circles here)."""
    return {(a, b) for a, b in arrows if b not in reached(a, arrows - {(a, b)})}


def test_each_room_stands_in_the_picture_once(imports: tuple[set[str], Arrows]) -> None:
    boxes, _ = drawn()
    assert sorted(room for rooms in boxes.values() for room in rooms) == sorted(imports[0])


def test_the_arrows_are_the_imports_that_no_path_of_others_implies(
    imports: tuple[set[str], Arrows],
) -> None:
    boxes, arrows = drawn()
    box = {room: name for name, rooms in boxes.items() for room in rooms}
    between = {(box[a], box[b]) for a, b in imports[1] if box[a] != box[b]}
    # Equal sets: what is drawn is imported, and what is imported is drawn or implied.
    assert arrows == without_the_implied(between)
    assert len(arrows) <= 20, "no longer readable: draw fewer boxes"


def test_a_file_that_is_named_is_there() -> None:
    folders = ("bayeslora_tool", "graphs", "configs", "tests", "docs", "benchmarks", "examples")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*") if file.is_file()]
    there = [f"/{file.relative_to(ROOT).as_posix()}" for file in files if file.suffix == ".py"]
    texts = [file for file in files if file.suffix in (".py", ".pyi", ".md", ".yaml")]
    texts = [file for file in texts if file.relative_to(ROOT).parts[0] != "tests"]
    lost = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in (*texts, ROOT / "README.md", ROOT / "CONTRIBUTING.md")
        for name in re.findall(r"\w[\w/]*\.py\b", file.read_text(encoding="utf-8"))
        if name != "examples/NN_name.py" and not any(path.endswith(f"/{name}") for path in there)
    ]
    assert lost == []


def test_the_picture_keeps_to_the_contracts_of_lint() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    boxes, arrows = drawn()
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    own = {room: box for box, rooms in boxes.items() for room in rooms}
    level = {room: i for i, layer in enumerate(layers) for room in re.findall(r"\w+", layer)}
    for a, b in arrows:
        assert max(level[room] for room in boxes[a]) < min(level[room] for room in boxes[b]), (a, b)
    guarded = 0
    for contract in contracts:
        for source in contract.get("source_modules", ()):
            seen = {
                f"bayeslora_tool.{room}"
                for box in reached(own[Path(source).suffix[1:]], arrows)
                for room in boxes[box]
            }
            assert seen, f"no arrow leaves {source}"
            assert not seen & set(contract["forbidden_modules"]), source
            guarded += 1
    assert guarded >= 3
