"""Gate an agent by the doubt of its own model about the tool that it chose.

    python examples/14_doubt_of_a_tool_call.py

Needs [agents]. The model is real, and small enough to lie beside this file: tiny_chat/README.md.
Yours: LanguageModel.from_pretrained("owner/adapter"), of a Qwen, Llama or Mistral.
"""

from pathlib import Path

from langchain.agents import create_agent
from langchain_core.tools import StructuredTool
from langgraph.checkpoint.memory import InMemorySaver

from bayeslora_tool import Policy, UncertaintyGate, pending, resume, start
from bayeslora_tool.agents import Act
from bayeslora_tool.chat import ChatBayesLoRA
from bayeslora_tool.language import LanguageModel

HERE = Path(__file__).parent / "tiny_chat"
# What the model was tuned to call, in the order that it knows, and the name of the argument.
TOOLS = dict.fromkeys(["balance", "freeze_account", "order_checks"], "account")
TOOLS |= {"pay_bill": "bill", "pin_change": "account", "report_fraud": "account"}
TOOLS |= {"transactions": "account", "transfer": "to"}
TOOLS |= dict.fromkeys(["book_flight", "car_rental", "report_lost_card", "translate"])
SAID = {"freeze my checking account": None, "put my account on hold": "approve"}
SAID |= {"my money": "reject", "tell me a joke": None}


def desk(name: str, argument: str | None) -> StructuredTool:
    def run(**given: str) -> str:
        print(f"tool:     {name}({', '.join(given.values())})")
        return "ok"

    schema = {"type": "object", "properties": {argument: {"type": "string"}} if argument else {}}
    return StructuredTool.from_function(run, name=name, description=name, args_schema=schema)


def main() -> None:
    language = LanguageModel.from_pretrained(HERE / "adapter", base=HERE / "base")
    policy = Policy(tau_conf=0.9, tau_var=0.01, on_low_confidence="escalate")
    acts = {name: Act(sure_arguments=[of] if of else []) for name, of in TOOLS.items()}
    gate = UncertaintyGate(None, policy, signal="model", acts=acts)
    tools = [desk(*row) for row in TOOLS.items()]
    model, saver = ChatBayesLoRA(model=language), InMemorySaver()
    agent = create_agent(model, tools, middleware=[gate], checkpointer=saver)
    for text, decision in SAID.items():
        thread = {"configurable": {"thread_id": text}}
        print(f"user:     {text}")
        state = start(agent, {"messages": [{"role": "user", "content": text}]}, thread)
        for name, request in pending(agent, thread).items():  # none if the call ran
            asked = request["action_requests"][0]["description"].partition("\nText")[0]
            print(f"reviewer is asked: {asked}\nreviewer: {decision}")
            state = resume(agent, thread, {name: {"type": decision}})
        print(f"agent:    {state['messages'][-1].content}\n")


if __name__ == "__main__":
    main()
