"""The same request as an older ``HumanInterrupt``, for user interfaces that know no other.

These show one action and send back one answer. So several actions come as one, whose arguments
are the calls and a word on each, for the person to change: all in one form.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

_WORDS = ("approve", "reject")
_FLOATS = 2**1023


def older_request(
    actions: Sequence[Mapping[str, Any]], configs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The keys of a ``HumanInterrupt`` for the actions of a ``HITLRequest``."""
    allowed = set.intersection(*(set(config["allowed_decisions"]) for config in configs))
    several = len(actions) > 1
    if several:
        action = {"action": ", ".join(a["name"] for a in actions), "args": _form(actions)}
    else:
        action = {"action": actions[0]["name"], "args": actions[0]["args"]}
    return {
        "action_request": action,
        "config": {
            "allow_accept": "approve" in allowed,
            "allow_edit": {"approve", "reject"} <= allowed if several else "edit" in allowed,
            "allow_ignore": "reject" in allowed,
            "allow_respond": "respond" in allowed and not several,
        },
        "description": "\n\n".join(
            f"{i}. `{a['name']}`\n\n{a['description']}" if several else a["description"]
            for i, a in enumerate(actions, 1)
        ),
    }


def answer_for_each(answer: Mapping[str, Any], actions: Sequence[Mapping[str, Any]]) -> list[Any]:
    """One answer to several actions, as one for each of them.

    Raises:
        ValueError: A word that is no decision, or arguments that are none.
    """
    if answer.get("type") in ("accept", "ignore"):
        return [{"type": answer["type"], "args": None}] * len(actions)
    edited = answer.get("args")
    form = edited.get("args") if isinstance(edited, Mapping) else None
    if answer.get("type") != "edit" or not isinstance(form, Mapping):
        raise ValueError("accept all, ignore all, or edit the word on each to approve or reject")
    given: list[Any] = []
    for i, action in enumerate(actions, 1):
        word = str(form.get(f"decision_{i}")).strip().casefold()
        if word not in _WORDS:
            raise ValueError(f"`decision_{i}` must be approve or reject, got {word!r:.80}")
        args = _args(form, f"{i}_{action['name']}")
        if word == "reject":
            given.append({"type": "reject"})
        elif same(args, action["args"]):
            given.append({"type": "approve"})
        else:
            changed = {"name": action["name"], "args": args}
            given.append({"type": "edit", "edited_action": changed})
    return given


def same(given: Any, asked: Any) -> bool:
    """Whether a value came back as it was sent, by way of a browser's numbers and JSON."""
    if isinstance(asked, Mapping) and isinstance(given, Mapping):
        return given.keys() == asked.keys() and all(same(given[k], asked[k]) for k in asked)
    if isinstance(asked, list | tuple) and isinstance(given, list | tuple):
        return len(given) == len(asked) and all(map(same, given, asked))
    if isinstance(asked, float) and not math.isfinite(asked) and given is None:
        return True
    if isinstance(asked, bool) or isinstance(given, bool):
        return given is asked or given == str(asked)
    if given == asked or str(given) == str(asked):  # the latter from a field of text
        return True
    if not isinstance(asked, int) or not isinstance(given, int | float):
        return False
    # Of 20 digits a browser keeps 16.
    return max(abs(asked), abs(given)) < _FLOATS and float(asked) == float(given)


def _form(actions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    form: dict[str, Any] = {}
    for i, action in enumerate(actions, 1):
        form |= {f"{i}_{action['name']}": action["args"], f"decision_{i}": "approve"}
    return form


def _args(form: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    args = form.get(name)
    if isinstance(args, str):  # interfaces with text fields
        with suppress(ValueError):
            args = json.loads(args)
    if not isinstance(args, Mapping):
        raise ValueError(f"`{name}` must be the arguments as a JSON object, got {args!r:.80}")
    return args
