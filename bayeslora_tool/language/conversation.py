"""A conversation as its model's chat template puts it: messages and tools in, tokens out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from bayeslora_tool.documents import shown
from bayeslora_tool.language.template_tokenizer import TemplateTokenizer

_OF_THE_AGENT = ("system", "developer", "assistant")  # whose words may speak of the model's format


def rendered(
    tokenizer: PreTrainedTokenizerBase,
    tokens: TemplateTokenizer,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
) -> str:
    """The text that the model goes on from: all messages, and the beginning of its own.

    No message can end its own turn: special tokens in it are words, and so is what the model would
    write to call a tool where a user or a tool says it.

    Args:
        tokenizer: With the chat template.
        tokens: Of the same tokenizer.
        messages: As the template takes them: ``role``, ``content``, ``tool_calls``.
        tools: JSON schemas: ``{"type": "function", "function": {...}}``.

    Raises:
        TypeError: ``messages`` are none.
        ValueError: No chat template, or it does not take these messages.
    """
    if not isinstance(messages, Sequence) or not all(isinstance(m, Mapping) for m in messages):
        raise TypeError(
            f"expected a text or messages such as [{{'role': 'user', 'content': 'hello'}}], got "
            f"{messages!r:.80}"
        )
    if not tokenizer.chat_template:
        raise ValueError(
            f"{type(tokenizer).__name__} has no chat template, so no conversation can be put to "
            f"the model; pass a text as it was trained with, or set tokenizer.chat_template"
        )
    safe = [
        _as_words(_in_one(message), tokens, message.get("role") not in _OF_THE_AGENT)
        for message in messages
    ]
    try:
        text: str = tokenizer.apply_chat_template(
            safe, tools=list(tools) if tools else None, add_generation_prompt=True, tokenize=False
        )
    except (KeyError, TemplateError, TypeError, ValueError) as error:
        raise ValueError(
            f"the model's chat template does not take these messages: {shown(error)}; see "
            f"tokenizer.chat_template for what it asks for"
        ) from None
    return text


def _in_one(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message whose parts of text are one: where they meet, they might spell a token."""
    content = message.get("content")
    if not isinstance(content, list | tuple):
        return {**message}
    texts: list[Any] = [part.get("text") if isinstance(part, Mapping) else part for part in content]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(
            f"a message holds a part that is no text ({shown(content)}); this model reads text "
            f"alone, so leave it out"
        )
    return {**message, "content": "\n".join(texts)}


def _as_words(value: Any, tokens: TemplateTokenizer, added: bool) -> Any:
    if isinstance(value, str):
        return tokens.as_words(value, added=added)
    if isinstance(value, Mapping):
        return {key: _as_words(inner, tokens, added) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_as_words(inner, tokens, added) for inner in value]
    return value
