from __future__ import annotations

import importlib
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage

from tests.conftest import ROOT
from tests.scripted_model import ScriptedModel, calls

CHECK = """
import sys
from importlib.util import find_spec
assert find_spec("graphs") is None and find_spec("configs") is None, "leaks a top-level package"
import bayeslora_tool
assert "{prefix}" in bayeslora_tool.__file__, bayeslora_tool.__file__
assert "torch" not in sys.modules
from bayeslora_tool import Policy, create_escalation_graph
for name in ("default", "sentiment", "intents", "cautious"):
    Policy.from_preset(name)
assert "torch" not in sys.modules, "policy or graph imports torch"
from bayeslora_tool.training.recipe import load_recipe
load_recipe("intents")
from bayeslora_tool import BayesLoRAClassifier
for name in ("sentiment", "intents"):
    assert BayesLoRAClassifier.from_pretrained(name).predict(["hello there"])[0].variance > 0
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert len(list(folder.glob("*.tar.gz"))) == 1
    (wheel,) = folder.glob("*.whl")  # built from the sdist, so both are complete
    return wheel


def test_wheel_holds_what_it_should_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "bayeslora_tool",
        f"{wheel.name.split('-py3')[0]}.dist-info",
    }
    for expected in (
        "bayeslora_tool/py.typed",
        "bayeslora_tool/graphs/escalation.py",
        "bayeslora_tool/configs/default.yaml",
        "bayeslora_tool/configs/recipes/sentiment.yaml",
        "bayeslora_tool/adapters/sentiment/adapter_model.safetensors",
        "bayeslora_tool/adapters/intents/bayeslora.json",
        "bayeslora_tool/serving/desk/static/desk.css",
        "bayeslora_tool/serving/desk/static/desk.js",
        "bayeslora_tool/serving/desk/static/icon.svg",
        "bayeslora_tool/serving/desk/static/vendor/htmx.min.js",
        "bayeslora_tool/serving/desk/templates/review.html",
    ):
        assert expected in names
    code = [*(ROOT / "bayeslora_tool").rglob("*.py*"), *(ROOT / "graphs").glob("*.py*")]
    for file in code:
        inside = file.relative_to(ROOT).as_posix().replace("graphs/", "bayeslora_tool/graphs/", 1)
        assert file.suffix == ".pyc" or inside in names


def test_wheel_installs_and_works_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=False)
    scripts = tmp_path / "env" / "bin"

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env={"HF_HUB_OFFLINE": "1", "PATH": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    pip = [sys.executable, "-m", "pip", "--python", str(scripts / "python")]
    run(*pip, "install", "--no-index", "--no-deps", wheel)
    # The dependencies come from this environment: a plain path entry, so that its own editable
    # install (a .pth hook) stays out of sight.
    packages = tmp_path / "env" / "lib" / f"python{sysconfig.get_python_version()}/site-packages"
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(scripts / "python", "-c", CHECK.format(prefix=tmp_path))
    assert "calibrate" in run(scripts / "bayeslora", "--help")


def test_importing_the_package_and_the_command_line_stays_light() -> None:
    code = "import sys, bayeslora_tool, bayeslora_tool.cli; print([m for m in ('torch', "
    code += "'transformers', 'langgraph', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


ROOMS = sorted(path.parent.name for path in (ROOT / "bayeslora_tool").glob("*/__init__.pyi"))


@pytest.mark.parametrize("room", ["", *ROOMS, "graphs"])
def test_every_name_that_a_room_offers_resolves(room: str) -> None:
    module = importlib.import_module(f"bayeslora_tool.{room}".rstrip("."))
    assert module.__doc__
    for name in module.__all__:
        assert getattr(module, name) is not None
    assert len(module.__all__) <= (26 if not room else 12)
    with pytest.raises(AttributeError, match="attribute nothing"):
        module.nothing  # noqa: B018


def readme_blocks() -> list[str]:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)


def test_readme_code_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """The blocks run in order, in one namespace, as a reader would type them."""
    request = calls(("freeze_account", {"reason": "lost"}))
    namespace: dict[str, object] = {"model": ScriptedModel(script=[request, AIMessage("done")])}
    blocks = readme_blocks()
    assert len(blocks) >= 3
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    printed = capsys.readouterr().out
    assert "action='proceed'" in printed  # the three lines
    assert printed.count("Not sure enough") == 2  # the gated call, and the graph
    assert "human opened a ticket for report_lost_card" in printed


def test_readme_commands_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^make (\w+)", readme, flags=re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"demo", "test"} <= targets
    assert all(f"\n{target}:" in makefile for target in targets)
