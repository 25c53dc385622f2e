from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import (
    AIMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    trim_messages,
)
from langchain_core.tools import tool
from pydantic import BaseModel
from transformers.utils.chat_parsing import ResponseParser

from bayeslora_tool import language
from bayeslora_tool.chat import call_doubt
from bayeslora_tool.chat.call_doubt import AS_WRITTEN, Written, doubt_of_call
from bayeslora_tool.chat.chat_model import ChatBayesLoRA
from bayeslora_tool.chat.template_messages import for_template
from bayeslora_tool.chat.tool_format import WrittenCall
from bayeslora_tool.policy import Scoring
from bayeslora_tool.prediction import Prediction
from tests.chat.fake_language_model import OTHER, FakeLanguageModel, FakeTokenizer
from tests.chat.test_tool_format import HERMES


@tool
def transfer(to: str, amount: int) -> str:
    """Send money."""
    return f"sent {amount} to {to}"


@tool
def transfer_all(to: str) -> str:
    """Send all money."""
    return f"sent all to {to}"


TOOLS = [transfer, transfer_all]
CALL = '<tool_call>\n{"name": "transfer", "arguments": {"to": "Ada", "amount": 3}}\n</tool_call>'


def chat(
    says: str | Callable[..., str], *, template: str = "<tool_call>", **fields: Any
) -> ChatBayesLoRA:
    reply = says if callable(says) else lambda _: says
    return ChatBayesLoRA(
        model=FakeLanguageModel(reply, tokenizer=FakeTokenizer(template)), **fields
    )


def ask(model: ChatBayesLoRA, *, tools: Any = TOOLS, **kwargs: Any) -> AIMessage:
    answer = model.bind_tools(tools, **kwargs).invoke("pay Ada")
    assert isinstance(answer, AIMessage)
    return answer


def named(call: Any) -> tuple[str, Any]:
    return call["name"], call["args"]


def test_a_call_is_a_tool_call_and_its_doubt_is_told_under_its_id() -> None:
    model = chat("Gladly." + CALL)
    answer = ask(model)
    assert answer.content == "Gladly."
    (call,) = answer.tool_calls
    assert named(call) == ("transfer", {"to": "Ada", "amount": 3})
    (doubt,) = answer.response_metadata["doubt"]["calls"]
    assert (doubt["id"], *named(doubt)) == (call["id"], *named(call))
    choice = Prediction.from_dict(doubt["choice"])
    assert choice.label == "transfer"
    assert set(choice.probabilities) == {"transfer", "transfer_all", OTHER}
    assert {name: belief["label"] for name, belief in doubt["arguments"].items()} == {
        "to": "(as written)",
        "amount": "(as written)",
    }
    assert answer.response_metadata["finish_reason"] == "tool_calls"
    assert answer.response_metadata["model_name"] == "tiny"
    json.dumps(answer.response_metadata, allow_nan=False)


def test_the_tools_compete_where_the_call_begins_and_no_name_begins_another() -> None:
    model = chat("Gladly." + CALL)
    ask(model)
    before, options, scoring = model.model.scored[0]
    assert before.endswith("Gladly.")
    assert options == {
        name: f'<tool_call>\n{{"name": "{name}"' for name in ("transfer", "transfer_all")
    }
    assert scoring is None


def test_an_argument_competes_with_whatever_else_could_stand_in_its_place() -> None:
    model = chat(CALL, scoring=Scoring("deterministic"))
    ask(model)
    (_, _, scoring), to, amount = model.model.scored
    assert scoring == Scoring("deterministic")
    assert (to[0] + to[1]["(as written)"]).endswith('"to": "Ada"')
    assert "Ada" not in to[0].partition("<tool_call>")[2]
    # Of a number, only what follows says that it ends.
    assert amount[1] == {"(as written)": "3}"}
    assert amount[0].endswith('"amount": ')


@pytest.mark.parametrize(
    ("span", "tokens"),
    [((0, 1), (0, 2)), ((0, 2), (0, 3)), ((1, 2), (2, 3)), ((2, 3), (3, 6)), ((2, 9), (3, 7))],
)
def test_all_tokens_of_a_character_belong_to_it(
    span: tuple[int, int], tokens: tuple[int, int]
) -> None:
    pieces = [(1, ""), (2, "é"), (3, "a"), (4, ""), (5, ""), (6, "한"), (7, "b")]
    assert call_doubt.Written([9], pieces).tokens(span) == tokens


def test_of_words_without_quotes_what_follows_says_that_they_end() -> None:
    text = '<call>transfer<to>say "hi"</to>'
    model = FakeLanguageModel(lambda _: text)
    tokens = model.tokens(text)
    pieces = [(token, model.tokenizer.known[token]) for token in tokens]
    start = text.index("say")
    call = WrittenCall("transfer", {}, 0, (6, 14), {"to": (start, start + len('say "hi"'))})
    doubt_of_call(model, Written([], pieces), call, ["transfer"], None)
    _, options, _ = model.scored[-1]
    assert options == {AS_WRITTEN: 'say "hi"<'}


def test_two_calls_of_a_message_have_a_doubt_each_given_what_stands_before() -> None:
    model = chat(CALL + "\n" + CALL.replace("Ada", "Bob"))
    answer = ask(model)
    assert [call["args"]["to"] for call in answer.tool_calls] == ["Ada", "Bob"]
    doubts = answer.response_metadata["doubt"]["calls"]
    assert [doubt["id"] for doubt in doubts] == [call["id"] for call in answer.tool_calls]
    assert len({doubt["id"] for doubt in doubts}) == 2
    assert "Ada" in model.model.scored[3][0]


def test_a_call_of_a_tool_that_nobody_bound_has_no_doubt_and_says_why() -> None:
    (doubt,) = ask(chat(CALL.replace('"transfer"', '"steal"'))).response_metadata["doubt"]["calls"]
    assert doubt["choice"] is None
    assert "no tool 'steal' was bound" in doubt["failure"]


def test_a_doubt_that_cannot_be_measured_takes_no_call_away() -> None:
    model = chat(CALL)

    def too_long(*_: Any) -> Any:
        raise ValueError("5,000 tokens are asked for")

    model.model.choice = too_long
    answer = ask(model)
    assert [call["name"] for call in answer.tool_calls] == ["transfer"]
    assert answer.response_metadata["doubt"]["calls"][0]["failure"] == "5,000 tokens are asked for"


def test_half_a_call_is_an_invalid_one_and_nothing_of_it_is_lost() -> None:
    answer = ask(chat("Gladly." + CALL), max_tokens=12)
    assert answer.tool_calls == []
    (broken,) = answer.invalid_tool_calls
    assert answer.content == "Gladly."
    assert CALL.startswith(str(broken["args"]))
    assert (broken["name"], bool(broken["error"])) == ("transfer", True)
    assert answer.response_metadata["finish_reason"] == "length"
    assert answer.response_metadata["doubt"]["calls"] == []


@pytest.mark.parametrize(
    "text",
    [
        "Hello you.",
        "Gladly." + CALL,
        CALL + "\n" + CALL,
        CALL + '<tool_call>{"name": "x", "argum',
        "",
        'a <b> "c" {d}',
    ],
)
async def test_a_stream_comes_to_what_generate_gives(text: str) -> None:
    bound = chat(text).bind_tools(TOOLS)
    whole = bound.invoke("pay Ada")
    chunks = list(bound.stream("pay Ada"))
    later = [chunk async for chunk in bound.astream("pay Ada")]
    for parts in (chunks, later):
        total = parts[0]
        for part in parts[1:]:
            total += part
        assert total.content == whole.content
        assert [named(call) for call in total.tool_calls] == [named(c) for c in whole.tool_calls]
        assert [call["args"] for call in total.invalid_tool_calls] == [
            call["args"] for call in whole.invalid_tool_calls
        ]
        assert total.usage_metadata == whole.usage_metadata
        told, same = total.response_metadata["doubt"], whole.response_metadata["doubt"]
        assert told["tokens"] == same["tokens"]
        assert [d["choice"] for d in told["calls"]] == [d["choice"] for d in same["calls"]]
        assert [d["id"] for d in told["calls"]] == [call["id"] for call in total.tool_calls]
    assert (await bound.ainvoke("pay Ada")).content == whole.content


@pytest.mark.parametrize("broken", ['{"name": "transfer", "argum', '{"name": "transfer"}, 3', "3"])
def test_a_call_that_a_response_template_cannot_read_is_none_in_a_stream_either(
    broken: str,
) -> None:
    model = chat(f"Gladly.<tool_call>{broken}</tool_call>", template="nothing")
    tokenizer = model.model.tokenizer
    tokenizer.response_template = HERMES
    tokenizer.get_response_parser = lambda prefix, tools=None: ResponseParser(
        HERMES, prefix=tokenizer.decode(prefix) + "<|im_start|>assistant\n", tools=tools
    )
    first, *others = model.bind_tools(TOOLS).stream("pay Ada")
    total = sum(others, start=first)
    assert (total.content, total.tool_calls) == ("Gladly.", [])
    (call,) = total.invalid_tool_calls
    assert broken in str(call["args"])


def test_words_are_streamed_token_by_token_and_a_call_is_not_words() -> None:
    shown = [str(c.text) for c in chat("Gladly I do." + CALL).bind_tools(TOOLS).stream("pay Ada")]
    assert [text for text in shown if text] == ["Gladly", " ", "I", " ", "do", "."]


def test_without_tools_all_is_text() -> None:
    answer = chat(CALL).invoke("how do I write a call?")
    assert (answer.content, answer.tool_calls) == (CALL, [])
    assert answer.response_metadata["finish_reason"] == "stop"


def test_the_trace_is_plain_and_whole() -> None:
    answer = chat("Hello you.").invoke("hi")
    trace = answer.response_metadata["doubt"]["tokens"]
    assert "".join(token["text"] for token in trace) == "Hello you."
    assert trace[0]["probability"] == 0.9
    assert trace[0]["variance"] is None
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == len(trace)


def test_a_doubtful_token_ends_the_answer_before_it() -> None:
    answer = chat("It is Monday.", doubtful=lambda token: token.text == "Monday").invoke("hi")
    assert answer.content == "It is "
    assert answer.response_metadata["finish_reason"] == "doubt"
    assert answer.response_metadata["doubt"]["tokens"][-1]["text"] == "Monday"


def test_what_the_model_is_told_reaches_it() -> None:
    model = chat("one. two.", max_tokens=7, temperature=0.5, seed=3, n_draws=4, stop=["two"])
    assert model.invoke("hi").content == "one. "
    assert model.invoke("hi", stop=["."]).content == "one"
    model.bind(max_tokens=1, temperature=0.0, seed=9, n_draws=0).invoke("hi")
    told = [
        [each[name] for name in ("max_tokens", "temperature", "seed", "n_draws", "stop")]
        for each in model.model.generated
    ]
    assert told == [
        [7, 0.5, 3, 4, ["two"]],
        [7, 0.5, 3, 4, ["."]],
        [1, 0.0, 9, 0, ["two"]],
    ]


def test_tokens_are_counted_by_the_models_own_tokenizer() -> None:
    model = chat("")
    assert model.get_num_tokens("pay Ada 5") == len(model.model.tokens("pay Ada 5")) == 5
    short = trim_messages(
        [HumanMessage("pay " * 50), HumanMessage("hi")], max_tokens=20, token_counter=model
    )
    assert [message.content for message in short] == ["hi"]


def test_earlier_calls_reach_the_template_as_objects() -> None:
    call = {"name": "transfer", "args": {"to": "Zoë"}, "id": "7"}
    messages = [
        SystemMessage("Be kind."),
        HumanMessage([{"type": "text", "text": "pay"}]),
        AIMessage("", tool_calls=[call]),
        ToolMessage("sent", tool_call_id="7"),
    ]
    system, user, assistant, answer = for_template(messages)
    assert (system["role"], user["content"]) == ("system", "pay")
    assert assistant["tool_calls"][0]["function"] == {
        "name": "transfer",
        "arguments": {"to": "Zoë"},
    }
    assert (answer["role"], answer["content"], answer["tool_call_id"]) == ("tool", "sent", "7")


def test_a_picture_is_refused() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    with pytest.raises(ValueError, match="image_url; this model reads text alone"):
        chat("hi").invoke([HumanMessage([picture])])


@pytest.mark.parametrize(
    ("choice", "opening"),
    [
        ("any", '<tool_call>\n{"name": "'),
        ("required", '<tool_call>\n{"name": "'),
        (True, '<tool_call>\n{"name": "'),
        ("transfer", '<tool_call>\n{"name": "transfer", "arguments": '),
        (
            {"type": "function", "function": {"name": "transfer"}},
            '<tool_call>\n{"name": "transfer", "arguments": ',
        ),
    ],
)
def test_a_forced_call_begins_as_the_model_begins_one(choice: Any, opening: str) -> None:
    model = chat(CALL.removeprefix(opening))
    answer = ask(model, tool_choice=choice)
    assert model.model.generated[0]["prompt"].endswith(opening)
    assert [named(call) for call in answer.tool_calls] == [("transfer", {"to": "Ada", "amount": 3})]
    # Its doubt is that of a model that is free to do something else.
    assert "<tool_call>" not in model.model.scored[0][0]
    assert model.model.scored[0][1]["transfer"] == '<tool_call>\n{"name": "transfer"'


def test_no_tools_are_offered_where_none_may_be_called() -> None:
    model = chat("hello")
    ask(model, tool_choice="none")
    assert model.model.asked[0][1] is None
    ask(model)
    offered = [schema["function"]["name"] for schema in model.model.asked[1][1]]
    assert offered == ["transfer", "transfer_all"]


def test_what_cannot_be_forced_says_so() -> None:
    with pytest.raises(ValueError, match=r"'steal'.*must be 'auto'.*'transfer'"):
        chat("").bind_tools(TOOLS, tool_choice="steal")
    with pytest.raises(ValueError, match="cannot be forced in the format"):
        chat("", template="[TOOL_CALLS]").bind_tools(TOOLS, tool_choice="any")
    with pytest.raises(ValueError, match=r"`tool_choice` .*'steal'.*must be 'auto'"):
        chat("").bind_tools(TOOLS, tool_choice={"type": "tool", "name": "steal"})
    with pytest.raises(ValueError, match=r"`tool_choice` \(='any'\) needs `tools`"):
        chat("").bind_tools([], tool_choice="any")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model": None}, r"`model` \(=None\) must be a LanguageModel"),
        ({"model": "owner/adapter"}, "must be a LanguageModel"),
        ({"scoring": Scoring("adaptive")}, "take 'linearized'"),
    ],
)
def test_what_could_never_tell_a_doubt_is_refused_at_once(fields: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ChatBayesLoRA(**{"model": FakeLanguageModel(str)} | fields)


def test_a_model_of_an_unknown_format_is_refused_until_it_is_named() -> None:
    for template in ("nothing", "<tool_call><function=name>", "<tool_call>name<arg_key>"):
        with pytest.raises(ValueError, match="`tool_format`: 'hermes', 'mistral', 'llama'"):
            chat(CALL, template=template).bind_tools(TOOLS)
    assert ask(chat(CALL, template="nothing", tool_format="hermes")).tool_calls


def test_the_tokenizers_own_response_template_comes_first() -> None:
    model = chat("Gladly." + CALL, template="nothing")
    tokenizer = model.model.tokenizer
    tokenizer.response_template = HERMES
    tokenizer.get_response_parser = lambda prefix, tools=None: ResponseParser(
        HERMES, prefix=tokenizer.decode(prefix) + "<|im_start|>assistant\n", tools=tools
    )
    answer = ask(model)
    assert answer.content == "Gladly."
    (doubt,) = answer.response_metadata["doubt"]["calls"]
    assert doubt["choice"]["label"] == "transfer"
    assert set(doubt["arguments"]) == {"to", "amount"}
    with pytest.raises(ValueError, match="cannot be forced"):
        model.bind_tools(TOOLS, tool_choice="any")


def test_a_structured_answer_is_read_from_a_forced_call() -> None:
    class Payment(BaseModel):
        """A payment."""

        to: str

    text = 'Payment", "arguments": {"to": "Ada"}}</tool_call>'
    opening = '<tool_call>\n{"name": "Payment", "arguments": '
    model = chat(('<tool_call>\n{"name": "' + text).removeprefix(opening))
    assert model.with_structured_output(Payment).invoke("pay Ada") == Payment(to="Ada")


def test_the_rest_has_the_same_name_in_both_rooms() -> None:
    assert call_doubt.OTHER == language.OTHER


def test_an_agent_runs_on_it() -> None:
    def says(messages: Any) -> str:
        return "It is " + messages[-1]["content"] if messages[-1]["role"] == "tool" else CALL

    state = create_agent(chat(says), TOOLS).invoke({"messages": [("user", "pay Ada")]})
    assert state["messages"][-1].content == "It is sent 3 to Ada"
