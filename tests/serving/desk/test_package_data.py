"""What the page needs besides Python is there, and is what it says it is."""

from __future__ import annotations

import re
from hashlib import sha256

from bayeslora_tool.serving import desk
from tests.conftest import ROOT

FOLDER = ROOT / "bayeslora_tool" / "serving" / "desk"
HTMX = ("2.0.11", "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717")


def test_htmx_is_the_file_that_npm_has() -> None:
    version, digest = HTMX
    file = FOLDER / "static" / "vendor" / "htmx.min.js"
    assert sha256(file.read_bytes()).hexdigest() == digest
    assert f'version:"{version}"' in file.read_text(encoding="utf-8")
    note = (file.parent / "README.md").read_text(encoding="utf-8")
    assert f"htmx.org {version}, Zero-Clause BSD" in note
    assert f"HTMX := {version}" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_pages_link_to_files_that_are_there() -> None:
    linked = set()
    for template in (FOLDER / "templates").iterdir():
        linked |= set(re.findall(r'"/(static/[^"]+)"', template.read_text(encoding="utf-8")))
    assert len(linked) >= 4
    assert all((FOLDER / file).is_file() for file in linked)


def test_every_name_that_the_room_offers_resolves() -> None:
    assert desk.__doc__
    for name in desk.__all__:
        assert getattr(desk, name) is not None
