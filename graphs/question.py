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
from bayeslora_tool.review.answers import Review
from bayeslora_tool.review.messages import MESSAGES
from bayeslora_tool.review.requests import asked_again


def answer_to(
    request: Mapping[str, Any],
    kind: Kind,
    args_schema: Mapping[str, Any] | None = None,
    *,
    not_understood: str = MESSAGES["en"]["not_understood"],
) -> Any:
    """Interrupt with a request until somebody gives an answer that makes sense.

    Args:
        request: What is asked.
        kind: As for ``answer_type`` in ``review/answer_types.py``, like ``args_schema``.
        args_schema: To be shown.
        not_understood: Template of what is said before a question that is put again.

    Returns:
        What the reader of this kind of answer makes of it; its ``reviewer`` is whom the config
        of the run names, or else who the answer says it is from.
    """
    forget_old_answer()
    wanted = answer_type(kind, request, args_schema)
    try:
        return _signed(interrupt(request, response_schema=wanted))
    except ValidationError as error:
        if not is_invalid_resume(error):
            raise
        (refused,) = error.errors()
    answers = get_config()["configurable"][CONFIG_KEY_SCRATCHPAD].resume
    if answers and answers[-1] is refused["input"]:  # or else the id would be the next one's
        del answers[-1]
    again = asked_again(request, str(refused["ctx"]["error"]), not_understood)
    return _signed(interrupt(again, response_schema=wanted))


def known_reviewer(config: Mapping[str, Any]) -> str | None:
    """Who runs this, by ``configurable``: whom a server logged in, or else its ``reviewer``.

    A LangGraph server with a login sets ``langgraph_auth_user`` itself, whatever a client sends;
    ``reviewer`` is the word of whoever made the config.
    """
    where = config.get("configurable") or {}
    user = where.get("langgraph_auth_user")
    known = user.get("identity") if isinstance(user, Mapping) else getattr(user, "identity", None)
    found = (known, where.get("langgraph_auth_user_id"), where.get("reviewer"))
    return next((name for name in found if isinstance(name, str) and name), None)


def _signed(answer: Any) -> Any:
    name = known_reviewer(get_config())
    if name is None:
        return answer
    if isinstance(answer, Review):
        return answer._replace(reviewer=name)
    if isinstance(answer, list):  # of decisions
        return [{**one, "reviewer": name} for one in answer]
    return {**answer, "reviewer": name} if isinstance(answer, dict) else answer


def forget_old_answer() -> None:
    """Drop an answer without an id that an earlier run brought, if this one brings some by id.

    LangGraph keeps such an answer until the outermost step is over, heard or not, and would hand
    it to whatever asks next there: an approval that was sent to a question of the user's would
    settle the review after it, which nobody has seen.
    """
    state = get_config()["configurable"]
    if state.get(CONFIG_KEY_RESUME_MAP):
        state[CONFIG_KEY_SCRATCHPAD].get_null_resume(True)
