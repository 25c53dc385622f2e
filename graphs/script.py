"""One text for sync and async: a script yields the calls that it needs, and a driver makes them.

Knows no graph. ``async`` twins have LangChain's names: ``get_state``, ``aget_state``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Call(NamedTuple):
    """A method to call, by its sync name."""

    target: Any
    method: str
    args: tuple[Any, ...]
    options: dict[str, Any]


Script = Generator[Call, Any, T]


def call(target: Any, method: str, *args: Any, **options: Any) -> Script[Any]:
    """Have one method called; in a script, after ``yield from``."""
    return (yield Call(target, method, args, options))


def run(script: Script[T]) -> T:
    """Make the calls of a script.

    Raises:
        TypeError: An async checkpointer refuses to be called on its own event loop.
    """
    step, value = script.send, None
    while True:
        try:
            wanted = step(value)
        except StopIteration as done:
            result: T = done.value
            return result
        try:
            value = getattr(wanted.target, wanted.method)(*wanted.args, **wanted.options)
            step = script.send
        except asyncio.InvalidStateError as error:
            hint = f"{error} Here: await the async twin: astart, apending, aresume, arecover"
            value, step = TypeError(hint), script.throw
        except BaseException as error:
            value, step = error, script.throw


async def arun(script: Script[T]) -> T:
    """The same by the async twins of the methods."""
    step, value = script.send, None
    while True:
        try:
            wanted = step(value)
        except StopIteration as done:
            result: T = done.value
            return result
        try:
            value = await getattr(wanted.target, f"a{wanted.method}")(
                *wanted.args, **wanted.options
            )
            step = script.send
        except GeneratorExit:  # the event loop is gone: nothing more can be awaited
            script.close()
            raise
        except BaseException as error:
            value, step = error, script.throw
