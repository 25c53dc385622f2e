"""What `make docs` adds to the pages as they are written: the API, and pictures of the diagrams.

A hook of MkDocs and an extension of Griffe, both named in mkdocs.yml.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import griffe
import mermaidx
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = "bayeslora_tool"
NO_PAGE = {"cli", "configs"}  # `--help` explains the one, comments the other


class References(griffe.Extension):
    """Sphinx roles in docstrings become links, or plain code where there is nothing to link to."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Rewrite each docstring of the package, once all of it is loaded."""
        if pkg.path == PACKAGE:
            _link(pkg)


def on_config(config: MkDocsConfig) -> None:
    """Put the API into the navigation, and have diagrams drawn."""
    pages = [{name: f"api/{name}.md"} for name in _children(_package())]
    config.nav = [*(config.nav or []), {"API": ["api/index.md", *pages]}]
    fence = {"name": "mermaid", "class": "diagram", "format": _draw}
    config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [fence]}


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Write the pages of the API."""
    package = _package()
    pages = {"index": _index(package)}
    pages |= {name: _page(child) for name, child in _children(package).items()}
    for name, text in pages.items():
        files.append(File.generated(config, f"api/{name}.md", content=text))


@cache
def _package() -> griffe.Module:
    extensions = griffe.load_extensions(References)
    package = griffe.load(
        PACKAGE, search_paths=[".mypy_cache/src"], extensions=extensions, try_relative_path=False
    )
    assert isinstance(package, griffe.Module)
    return package


def _children(module: griffe.Module) -> dict[str, griffe.Module]:
    found = {name: child for name, child in module.modules.items() if not child.is_alias}
    return {name: found[name] for name in sorted(found) if name[0] != "_" and name not in NO_PAGE}


def _index(package: griffe.Module) -> str:
    said = (
        "What `from bayeslora_tool import ...` gives. The pages below have the rest, a room each."
    )
    return f"# API\n\n{said}\n\n{_offered(package)}"


def _page(module: griffe.Module) -> str:
    if not module.is_init_module:
        return f"::: {module.path}\n    options: {{heading_level: 1}}\n"
    parts = [f"# {module.name}", module.docstring.value if module.docstring else ""]
    parts += [_offered(module), *(f"::: {child.path}" for child in _children(module).values())]
    return "\n\n".join(parts) + "\n"


def _offered(module: griffe.Module) -> str:
    """A row for each name that the stub beside ``__init__.py`` imports."""
    rows = ["| name | what it is |", "| --- | --- |"]
    for name, member in module.members.items():
        if isinstance(member, griffe.Alias) and member.target_path.startswith(PACKAGE):
            text = member.docstring.value if member.docstring else ""
            first = " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")
            rows.append(f"| [`{name}`][{member.final_target.path}] | {first} |")
    return "\n".join(rows)


def _link(of: griffe.Object) -> None:
    for member in of.members.values():
        if not isinstance(member, griffe.Alias):
            _link(member)
    if of.docstring is not None:
        roles = r":(?:class|func|meth|attr|mod|data):`(~?)([\w.]+)`"
        linked = re.sub(roles, lambda found: _reference(of, *found.groups()), of.docstring.value)
        of.docstring.value = re.sub(r"::$", ":", linked, flags=re.MULTILINE)


def _reference(of: griffe.Object, short: str, name: str) -> str:
    shown = name.rpartition(".")[2] if short else name
    first, *rest = name.split(".")
    try:
        path = name if first == PACKAGE else ".".join([of.resolve(first), *rest])
        on_a_page = of.modules_collection.get_member(path).has_docstring
    except (griffe.NameResolutionError, KeyError):
        path, on_a_page = name, True  # nowhere: a link that leads nowhere makes the build fail
    return f"[`{shown}`][{path}]" if on_a_page else f"`{shown}`"


def _draw(source: str, language: str, css_class: str, options: Any, md: Any, **_: Any) -> str:
    return f'<div class="{css_class}">{mermaidx.render(source).svg()}</div>'
