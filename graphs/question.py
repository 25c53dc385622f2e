"""One question to a person: its answer is checked before it counts, and answers nothing else.

LangGraph refuses an answer that does not fit the ``response_schema``, saves nothing of it, and
fails the run, which makes servers list the thread as broken and no longer as one that waits. So the
question is put once more instead, under its old id, with what was wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langgraph._internal._constants import CONFIG_KEY_RESUME_MAP, CONFIG_KEY_SCRATCHPAD
from langgraph.config import get_config
from langgraph.errors import is_invalid_resume
from langgraph.types import interrupt
from pydantic import ValidationError

from bayeslora_tool.review.answer_types import Kind, answer_type
from bayeslora_tool.review.requests import asked_again


def answer_to(
    request: Mapping[str, Any], kind: Kind, args_schema: Mapping[str, Any] | None = None
) -> Any:
    """Interrupt with a request until somebody gives an answer that makes sense.

    Args:
        request: What is asked.
        kind: As for ``answer_type`` in ``review/answer_types.py``, like ``args_schema``.
        args_schema: To be shown.

    Returns:
        What the reader of this kind of answer makes of it.
    """
    forget_old_answer()
    wanted = answer_type(kind, request, args_schema)
    try:
        return interrupt(request, response_schema=wanted)
    except ValidationError as error:
        if not is_invalid_resume(error):
            raise
        (refused,) = error.errors()
    answers = get_config()["configurable"][CONFIG_KEY_SCRATCHPAD].resume
    if answers and answers[-1] is refused["input"]:  # or else the id would be the next one's
        del answers[-1]
    return interrupt(asked_again(request, str(refused["ctx"]["error"])), response_schema=wanted)


def forget_old_answer() -> None:
    """Drop an answer without an id that an earlier run brought, if this one brings some by id.

    LangGraph keeps such an answer until the outermost step is over, heard or not, and would hand
    it to whatever asks next there: an approval that was sent to a question of the user's would
    settle the review after it, which nobody has seen.
    """
    state = get_config()["configurable"]
    if state.get(CONFIG_KEY_RESUME_MAP):
        state[CONFIG_KEY_SCRATCHPAD].get_null_resume(True)
