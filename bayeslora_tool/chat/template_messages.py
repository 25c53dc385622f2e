"""LangChain's messages as chat templates take them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage, convert_to_openai_messages


def for_template(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Messages as chat templates take them: OpenAI's format, but arguments are objects.

    Raises:
        ValueError: A part of a message that is no text.
    """
    converted = convert_to_openai_messages(messages, text_format="string")
    for message in converted:
        content = message.get("content")
        if not isinstance(content, str | None):
            kinds = {part.get("type") for part in content if isinstance(part, dict)} - {"text"}
            raise ValueError(
                f"a message holds {', '.join(map(str, sorted(kinds, key=str)))}; this model reads "
                f"text alone, so leave it out"
            )
        for call in message.get("tool_calls", ()):
            function = call["function"]
            if isinstance(function["arguments"], str):
                function["arguments"] = json.loads(function["arguments"])
    return converted
