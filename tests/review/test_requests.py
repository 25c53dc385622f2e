from __future__ import annotations

from bayeslora_tool.policy import Policy
from tests.fakes import FakeClassifier
from tests.graphs.desk import build, request_of


def test_requests_are_langchains_hitl_request(fake: FakeClassifier, policy: Policy) -> None:
    from langchain.agents.middleware.human_in_the_loop import HITLRequest
    from pydantic import TypeAdapter

    graph = build(fake, policy)
    for thread, text in enumerate(["vague", "odd", "boom"]):
        config = {"configurable": {"thread_id": str(thread)}}
        request = request_of(graph.invoke({"text": text}, config))
        assert TypeAdapter(HITLRequest).validate_python(request) == request
