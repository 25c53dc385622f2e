"""LangChain's chat model over a language model whose adapter says how much it doubts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal
from uuid import uuid4

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import invalid_tool_call, tool_call
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field, field_validator

from bayeslora_tool.chat.call_doubt import Written, doubt_of_call, pieces_of, plain_token
from bayeslora_tool.chat.response_template import TemplateReader
from bayeslora_tool.chat.template_messages import for_template
from bayeslora_tool.chat.tool_format import (
    FORMATS,
    NO_JSON,
    BrokenCall,
    MarkedReader,
    Plain,
    Reader,
    ToolFormat,
    WrittenCall,
)
from bayeslora_tool.policy import Scoring


class ChatBayesLoRA(BaseChatModel):
    """A local chat model that says how much it doubts its own calls.

    ``response_metadata["doubt"]`` of each message is plain data: ``tokens``, a dict for each token
    (``token``, ``text``, ``probability``, and the moments under the draws, None without any), and
    ``calls``, for each tool call its ``id``, ``name`` and ``args``, ``choice``, the
    ``Prediction.to_dict()`` over the bound tools and "(something else)", and ``arguments``, one for
    each argument whose place is known. ``UncertaintyGate(signal="model")`` reads it.

    A call that cannot be read is an ``invalid_tool_call`` of the message. ``finish_reason`` is
    ``stop``, ``tool_calls``, ``length``, or ``doubt`` where ``doubtful`` ended the text; the token
    that it stopped at is the last of the trace, and not in the text.
    """

    model: Any = Field(exclude=True, repr=False)
    """A ``LanguageModel`` of the room ``language``."""

    model_name: str = ""
    """As tracers show it; empty: the tokenizer's."""

    max_tokens: int = 256
    """Of an answer, at most."""

    temperature: float = 0.0
    """0 takes the likeliest token each time."""

    seed: int = 0
    """Of the sampling, and of the draws."""

    n_draws: int = 0
    """Draws of the adapter for the trace. The doubt of a call needs none."""

    stop: list[str] | None = None
    """Texts that end an answer, and are not in it."""

    doubtful: Callable[[Any], bool] | None = Field(default=None, exclude=True)
    """Told of each token before it is written (a ``TokenDoubt``): True ends the answer there."""

    scoring: Scoring | None = Field(default=None, exclude=True)
    """How the doubt of a call is computed; None: linearized."""

    tool_format: Literal["hermes", "llama", "mistral"] | None = None
    """How the model writes calls. None: as its tokenizer's response or chat template says."""

    @field_validator("model")
    @classmethod
    def _check_model(cls, model: Any) -> Any:
        if not all(hasattr(model, name) for name in ("tokenizer", "prompt", "generate", "choice")):
            raise ValueError(
                f"`model` (={model!r:.80}) must be a LanguageModel: import it from "
                f"bayeslora_tool.language, and load it by from_pretrained('owner/adapter')"
            )
        return model

    @field_validator("scoring")
    @classmethod
    def _check_scoring(cls, scoring: Scoring | None) -> Scoring | None:
        if scoring is not None and scoring.estimator == "adaptive":
            raise ValueError("`scoring`: 'adaptive' works for thresholds; take 'linearized'")
        return scoring

    @property
    def _llm_type(self) -> str:
        return "bayeslora"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        scored_by = getattr(self.model, "scored_by", None)
        adapter = scored_by(self.scoring or Scoring()) if callable(scored_by) else None
        names = ("max_tokens", "temperature", "seed", "n_draws", "stop", "tool_format")
        return {"adapter": adapter, **{name: getattr(self, name) for name in names}}

    @property
    def _name_shown(self) -> str:
        named = self.model_name or str(getattr(self.model.tokenizer, "name_or_path", "") or "")
        return named.replace("\\", "/").rstrip("/").rpartition("/")[2] or "bayeslora"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = LangSmithParams(
            ls_provider="bayeslora",
            ls_model_name=kwargs.get("model") or self._name_shown,
            ls_model_type="chat",
            ls_temperature=kwargs.get("temperature", self.temperature),
            ls_max_tokens=kwargs.get("max_tokens", self.max_tokens),
        )
        if stops := stop or self.stop:
            params["ls_stop"] = stops
        return params

    def get_token_ids(self, text: str) -> list[int]:
        """Of a text alone, without what the chat template puts around it."""
        return list(self.model.tokens(text)) if text else []

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | Any],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Let the model call tools.

        Args:
            tools: Tools, functions, Pydantic classes or schemas.
            tool_choice: None, False or "auto": the model decides. "none": it may not call any.
                "any", "required" or True: it must call one; a name: that one. To force a call its
                beginning is written for the model, and its doubt stays that of a free choice.
            kwargs: For the model's calls, such as ``temperature``.

        Raises:
            ValueError: No such tool, no way to force it, or a model whose format is not known.
        """
        schemas = [convert_to_openai_tool(tool) for tool in tools]
        names = list(dict.fromkeys(schema["function"]["name"] for schema in schemas))
        if isinstance(tool_choice, dict):
            tool_choice = tool_choice.get("function", {}).get("name", str(tool_choice))
        forced: str | None = None
        if tool_choice in ("any", "required", True):
            forced = names[0] if len(names) == 1 else ""
        elif tool_choice not in (None, False, "auto", "none"):
            if tool_choice not in names:
                raise ValueError(
                    f"`tool_choice` (={tool_choice!r:.80}) must be 'auto', 'none', 'any' or one of "
                    f"{', '.join(map(repr, names))}"
                )
            forced = str(tool_choice)
        if schemas and not self._templated:
            self._format()
        if forced is not None:
            if not names:
                raise ValueError(f"`tool_choice` (={tool_choice!r:.80}) needs `tools` to choose of")
            self._opening(forced)
        given = [] if tool_choice == "none" else schemas
        return self.bind(tools=given, forced=forced, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        shown, end = "", {}
        for piece in self._write(messages, stop, **kwargs):
            if isinstance(piece, str):
                shown += piece
            else:
                end = piece
        message = AIMessage(**{**end, "content": shown + end["content"]})
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for piece in self._write(messages, stop, **kwargs):
            fields = {"content": piece} if isinstance(piece, str) else piece
            last = None if isinstance(piece, str) else "last"
            chunk = ChatGenerationChunk(message=AIMessageChunk(chunk_position=last, **fields))
            if run_manager is not None:
                run_manager.on_llm_new_token(str(chunk.text), chunk=chunk)
            yield chunk

    def _write(
        self,
        messages: Sequence[BaseMessage],
        stop: list[str] | None,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        forced: str | None = None,
        **kwargs: Any,
    ) -> Iterator[str | dict[str, Any]]:
        """What can be shown, as it comes, and last the fields of the end of the message."""
        prompt = self.model.prompt(for_template(messages), tools=list(tools) or None)
        reader = self._reader(prompt, tools)
        opening = "" if forced is None else self._opening(forced)
        pieces = pieces_of(self.model, opening)
        shown = reader.feed(opening)
        trace: list[dict[str, Any]] = []
        limit, doubtful = kwargs.get("max_tokens", self.max_tokens), False
        begun = [*prompt, *(token for token, _ in pieces)]
        for doubt in self.model.generate(
            begun,
            max_tokens=limit,
            temperature=kwargs.get("temperature", self.temperature),
            seed=kwargs.get("seed", self.seed),
            n_draws=kwargs.get("n_draws", self.n_draws),
            stop=stop or self.stop or (),
        ):
            trace.append(plain_token(doubt))
            if self.doubtful is not None and self.doubtful(doubt):
                doubtful = True
                break
            pieces.append((doubt.token, doubt.text))
            shown += reader.feed(doubt.text)
            if shown:
                yield shown
            shown = ""
        rest, calls = reader.finish()
        named = [(uuid4().hex[:9], call) for call in calls]  # as Mistral's templates want them
        written = Written(prompt, pieces)
        names = list(dict.fromkeys(tool["function"]["name"] for tool in tools))
        made = [(key, call) for key, call in named if isinstance(call, WrittenCall)]
        reason = "tool_calls" if made else "stop"
        if not made and len(trace) >= min(limit, self.model.max_tokens - len(begun)):
            reason = "length"
        doubts = [
            {"id": key, "name": call.name, "args": call.args}
            | doubt_of_call(self.model, written, call, names, self.scoring)
            for key, call in made
        ]
        yield {
            "content": shown + rest,
            "tool_calls": [tool_call(name=call.name, args=call.args, id=key) for key, call in made],
            "invalid_tool_calls": [
                invalid_tool_call(name=call.name, args=call.text, id=key, error=call.error)
                for key, call in named
                if isinstance(call, BrokenCall)
            ],
            "usage_metadata": {
                "input_tokens": len(begun),
                "output_tokens": len(trace),
                "total_tokens": len(begun) + len(trace),
            },
            "response_metadata": {
                "model_name": self._name_shown,
                "finish_reason": "doubt" if doubtful else reason,
                "doubt": {"tokens": trace, "calls": doubts},
            },
        }

    def _reader(self, prompt: Sequence[int], tools: Sequence[Mapping[str, Any]]) -> Reader:
        if not tools:
            return Plain()
        if self._templated:
            new = partial(self.model.tokenizer.get_response_parser, prefix=list(prompt))
            return TemplateReader(new, list(tools))
        return MarkedReader(self._format())

    @property
    def _templated(self) -> bool:
        tokenizer = self.model.tokenizer
        return self.tool_format is None and bool(getattr(tokenizer, "response_template", None))

    def _format(self) -> ToolFormat:
        if self.tool_format is not None:
            return FORMATS[self.tool_format]
        template = str(getattr(self.model.tokenizer, "chat_template", None) or "")
        known = not any(mark in template for mark in NO_JSON)
        for form in FORMATS.values():
            if known and form.known_by in template:
                return form
        raise ValueError(
            f"how this model writes tool calls cannot be told from its chat template; name its "
            f"`tool_format`: {', '.join(map(repr, FORMATS))}, or set the tokenizer's "
            f"response_template"
        )

    def _opening(self, forced: str) -> str:
        """How the call begins that the model must make; with a name, up to its arguments."""
        form = None if self._templated else self._format()
        if form is None or form.forced is None:
            raise ValueError(
                "`tool_choice` cannot be forced in the format in which this model writes calls; "
                "leave it out, or choose 'auto'"
            )
        return form.forced + (f'{forced}", "{form.arguments}": ' if forced else "")
