"""`python -m bayeslora_tool` is `bayeslora`; for launchers that want a module."""

from bayeslora_tool.cli import app

app()
