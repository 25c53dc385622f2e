"""BayesLoRATool behind the Model Context Protocol: a structured answer with its schema."""

from __future__ import annotations

import math
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, redirect_stdout
from importlib.metadata import version
from typing import Annotated, Any, Literal

from mcp.server.fastmcp import FastMCP
from mcp.server.fastmcp.exceptions import ToolError
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field

from bayeslora_tool.agents.tool import BayesLoRATool
from bayeslora_tool.policy import Action, Policy
from bayeslora_tool.serving.door import serve_http
from bayeslora_tool.serving.library_logs import leave_words_out

TOP_K = 5
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class Classification(BaseModel):
    """What one text means, and whether that is certain enough to act on."""

    action: Action = Field(
        description="proceed = act on the label; clarify = ask the user what they mean first; "
        "escalate = do not act, hand over to a person."
    )
    reason: str = Field(description="Why this action, with the numbers.")
    label: str = Field(description="The likeliest label.")
    confidence: float = Field(description="Mean probability of the label, in [0, 1].")
    variance: float | None = Field(
        description="Variance of that probability over draws of the adapter, in [0, 0.25]; null if "
        "the estimator has none."
    )
    novelty: float | None = Field(
        description="Share of ordinary texts that are nearer to the training texts, in [0, 1]; "
        "null if the adapter does not know."
    )
    sureness: float | None = Field(
        description="Calibrated probability that the label is right and the text belongs here, in "
        "[0, 1]; null if the adapter was not calibrated for it."
    )
    probabilities: dict[str, float] = Field(
        description=f"The {TOP_K} likeliest labels and their mean probabilities."
    )


def create_mcp_server(*, classifier: Any, policy: Policy, **settings: Any) -> FastMCP:
    """An MCP server with one tool, ``classify_with_uncertainty(text) -> Classification``.

    Concurrent calls are scored together if the classifier has ``apredict``. What cannot be scored
    is a tool error that tells the model not to act. Nothing logs a text.

    Args:
        classifier: Anything with ``predict(texts) -> list[Prediction]``.
        policy: Thresholds and routes.
        settings: Passed on to ``FastMCP``.
    """
    tool = BayesLoRATool(classifier=classifier, policy=policy)
    leave_words_out()
    server = FastMCP("bayeslora", **settings)
    server._mcp_server.version = version("bayeslora-tool")  # else it gives the library's

    async def classify(
        text: Annotated[str, Field(description="The text to classify.")],
    ) -> Classification:
        call = {"type": "tool_call", "id": "mcp", "name": tool.name, "args": {"text": text}}
        message = await tool.ainvoke(call)
        if message.status == "error":
            raise ToolError(message.content)
        (result,) = message.artifact["results"]
        return _classification(result["prediction"], result["decision"])

    server.add_tool(
        classify,
        name=tool.name,
        description=tool.description.replace("a text (or a list of texts)", "a text"),
        annotations=ToolAnnotations(readOnlyHint=True, idempotentHint=True, openWorldHint=False),
    )
    return server


def serve(
    *,
    classifier: Any,
    policy: Policy,
    transport: Literal["stdio", "http"] = "stdio",
    host: str = "127.0.0.1",
    port: int = 8000,
) -> None:
    """Serve until the client leaves (stdio) or the process is told to stop (http).

    Args:
        classifier: As for :func:`create_mcp_server`.
        policy: As for :func:`create_mcp_server`.
        transport: ``stdio``, or streamable HTTP at ``http://host:port/mcp``.
        host: Address to bind, for http. Requests must name it or loopback as their host, and web
            pages from elsewhere are refused (DNS rebinding). Nobody is asked who they are: beyond
            loopback, put something in front that does. Who dawdles or sends too much is refused,
            see ``door.py``.
        port: For http, in [1, 65535].
    """
    if transport == "stdio":
        create_mcp_server(classifier=classifier, policy=policy, lifespan=_protocol_owns_stdout).run(
            "stdio"
        )
        return
    names = {*_LOOPBACK, f"[{host}]" if ":" in host else host}
    hosts = sorted(f"{name}{part}" for name in names for part in ("", ":*"))
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=True,
        allowed_hosts=hosts,
        allowed_origins=[f"http://{name}" for name in hosts],
    )
    server = create_mcp_server(
        classifier=classifier,
        policy=policy,
        transport_security=security,
        # A call needs nothing of the one before it: no sessions to keep, lose or run out of.
        stateless_http=True,
        json_response=True,
    )
    serve_http(server.streamable_http_app(), host=host, port=port)


@asynccontextmanager
async def _protocol_owns_stdout(server: FastMCP) -> AsyncIterator[None]:
    # The transport has taken its stream by now; a stray print would break into the protocol.
    with redirect_stdout(sys.stderr):
        yield


def _classification(prediction: dict[str, Any], decision: dict[str, Any]) -> Classification:
    likeliest = sorted(prediction["probabilities"].items(), key=lambda item: -item[1])
    return Classification(
        label=prediction["label"],
        confidence=prediction["confidence"],
        # JSON has no NaN; that there is none stands in action and reason.
        variance=None if math.isnan(prediction["variance"]) else prediction["variance"],
        novelty=prediction["novelty"],
        sureness=prediction["sureness"],
        probabilities=dict(likeliest[:TOP_K]),
        **decision,
    )
