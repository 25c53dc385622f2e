"""The event of one decision: to the log, to callbacks and tracers, and to ``stream_mode="custom"``.

It names the text by its SHA-256 and length and never holds it; this is the one place that makes it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypedDict

from langchain_core.callbacks import adispatch_custom_event, dispatch_custom_event
from langchain_core.runnables import RunnableConfig
from langgraph.config import get_config, get_stream_writer
from langgraph.types import StreamWriter

from bayeslora_tool.review.answers import Decision, Review

EVENT = "bayeslora_decision"
"""Name of the custom event, and the only key of what ``stream_mode="custom"`` carries."""

logger = logging.getLogger(__name__)
_outside: ContextVar[StreamWriter | None] = ContextVar("outside", default=None)


class TextMarks(TypedDict):
    """What is told of a text; a short one can be guessed from it."""

    sha256: str | None
    length: int | None
    """In characters."""


class DecisionEvent(TextMarks):
    """What was decided about one text, or what a reviewer said to it."""

    gate: str | None
    """The gate, or a workflow's step; None for the tool."""

    tool: str | None
    """The tool whose call was judged; None in a graph."""

    action: str
    reason: str
    """Without anything that may quote the text."""

    label: str | None
    confidence: float | None
    variance: float | None
    novelty: float | None
    latency: float | None
    """Seconds that the scoring took."""

    thread: str | None
    policy: str | None
    """``policy_fingerprint`` of what decided."""

    decision: str | None
    """A reviewer's: approve, edit, reject or respond. None: nobody was asked yet."""

    reviewer: str | None
    """Who decided, as far as is known."""

    key: str | None
    """Idempotency key of what was decided, and of its audit."""

    audit: bool
    """It proceeds, and somebody should label it: see ``Policy.audit_rate``."""

    audit_rate: float | None
    """The policy's; None where nothing was decided by one."""


def decision_event(
    *,
    gate: str | None,
    action: str,
    reason: str,
    prediction: Mapping[str, Any] | None,
    text: TextMarks,
    latency: float | None,
    policy: str | None,
    key: str | None,
    audit: bool,
    audit_rate: float | None,
    tool: str | None = None,
    said: Decision | Review | None = None,
) -> DecisionEvent:
    """Log what was decided, and give the event.

    Args:
        gate: See :class:`DecisionEvent`, like all others but three.
        action: Of the policy.
        reason: Must not quote the text.
        prediction: ``Prediction.to_dict()``, if there is a score.
        text: Marks of what was decided about.
        latency: In seconds.
        policy: Its fingerprint.
        key: Of what was decided.
        audit: Whether somebody should label it.
        audit_rate: Of the policy.
        tool: Of the call.
        said: A reviewer's word, if this tells of one.
    """
    found = prediction or {}
    word: Mapping[str, Any] = said._asdict() if isinstance(said, Review) else said or {}
    event = DecisionEvent(
        gate=gate,
        tool=tool,
        action=action,
        reason=reason,
        label=found.get("label"),
        confidence=found.get("confidence"),
        variance=found.get("variance"),
        novelty=found.get("novelty"),
        latency=latency,
        thread=_thread(),
        policy=policy,
        sha256=text["sha256"],
        length=text["length"],
        decision=word.get("type"),
        reviewer=word.get("reviewer"),
        key=key,
        audit=audit,
        audit_rate=audit_rate,
    )
    logger.info("%s: %s", EVENT, event)
    return event


def tell(event: DecisionEvent, config: RunnableConfig | None = None) -> None:
    """Send an event to callbacks and to the stream; ``config`` is the run's, if it is not ours."""
    with suppress(RuntimeError):  # outside of a run there is nobody to tell
        dispatch_custom_event(EVENT, event, config=config)
    _stream(event)


async def atell(event: DecisionEvent, config: RunnableConfig | None = None) -> None:
    """:func:`tell` for async runs."""
    with suppress(RuntimeError):
        await adispatch_custom_event(EVENT, event, config=config)
    _stream(event)


def text_marks(text: str | None) -> TextMarks:
    """What stands for a text where it must not be kept."""
    if text is None:
        return TextMarks(sha256=None, length=None)
    # A lone surrogate has no UTF-8 form, but may come from a model.
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    return TextMarks(sha256=digest, length=len(text))


@contextmanager
def streaming_outside() -> Iterator[None]:
    """Let events from a graph that is run within a node go to the stream of the node's graph.

    LangGraph drops them otherwise, unless the stream was asked for with ``subgraphs=True``.
    """
    token = _outside.set(_writer())
    try:
        yield
    finally:
        _outside.reset(token)


def _stream(event: DecisionEvent) -> None:
    write = _outside.get() or _writer()
    if write is not None:
        write({EVENT: event})


def _writer() -> StreamWriter | None:
    with suppress(RuntimeError, KeyError):  # no run, or one that is no graph's
        return get_stream_writer()
    return None


def _thread() -> str | None:
    with suppress(RuntimeError):
        found = get_config().get("configurable", {}).get("thread_id")
        return None if found is None else str(found)
    return None
