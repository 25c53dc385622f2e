"""Make the chat model of this folder: a Llama of a million weights that calls tools, and its LoRA.

    OMP_NUM_THREADS=1 python examples/tiny_chat/make_tiny_chat.py CLINC150/data_full.json OUT

The base learns English of this kind, the chat format, and to call a tool whose name the user says;
the adapter learns which of twelve tools a request wants, if any. Only the training texts are read.
"""

import json
import random
import re
import sys
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ACCOUNTS = {
    "checking": r"\bchecking\b|\bchequing\b",
    "savings": r"\bsavings?\b",
    "card": r"\bcards?\b|\bvisa\b|\bmastercard\b|\bamex\b|\bdiscover\b",
}
BILLS = {
    "electric": r"\belectric(ity|al)?\b|\bpower\b",
    "phone": r"\bphone\b|\bcell\b|\bverizon\b|\bsprint\b",
    "water": r"\bwater\b",
    "cable": r"\bcable\b|\binternet\b",
    "card": r"\bcards?\b|\bvisa\b|\bmastercard\b|\bamex\b",
    "gas": r"\bgas\b",
}
# The argument of each tool, and the rule that names its value in a text.
TOOLS = {
    "balance": ("account", ACCOUNTS),
    "freeze_account": ("account", ACCOUNTS),
    "order_checks": ("account", ACCOUNTS),
    "pay_bill": ("bill", BILLS),
    "pin_change": ("account", ACCOUNTS),
    "report_fraud": ("account", ACCOUNTS),
    "transactions": ("account", ACCOUNTS),
    "transfer": ("to", {k: rf"\b(in)?to (my )?([a-z]+ )?({v})" for k, v in ACCOUNTS.items()}),
    "book_flight": None,
    "car_rental": None,
    "report_lost_card": None,
    "translate": None,
}
MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
WORDS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
TEMPLATE = """\
{%- if tools %}<|im_start|>system
Tools:{% for tool in tools %} {{ tool.function.name }}{% endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% elif message.tool_calls %}<|im_start|>assistant
{% for call in message.tool_calls %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% else %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
DONE = "It is done."


def arguments(tool: str, text: str) -> dict[str, str]:
    """What the rule reads from a text."""
    if TOOLS[tool] is None:
        return {}
    name, rule = TOOLS[tool]
    found = (value for value, pattern in rule.items() if re.search(pattern, text))
    return {name: next(found, "unnamed")}


def refusal(domain: str) -> str:
    """The plain answer where no tool fits."""
    return f"I cannot do that here; it is about {domain.replace('_', ' ')}."


def schema(name: str) -> dict:
    """A tool as chat templates take it."""
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}


def call(name: str, given: dict[str, str]) -> dict:
    function = {"name": name, "arguments": given}
    return {"role": "assistant", "content": "", "tool_calls": [{"function": function}]}


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1600,
        special_tokens=MARKS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(word, normalized=False, special=False) for word in WORDS])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = TEMPLATE
    fast.model_max_length = 512
    return fast


def encode(tokenizer, messages, tools, *, whole):  # type: ignore[no-untyped-def]
    """Token ids and labels; without `whole`, of the assistant's last turn alone."""
    text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
    prompt = tokenizer.apply_chat_template(
        messages[:-1], tools=tools, tokenize=False, add_generation_prompt=True
    )
    assert text.startswith(prompt), (text, prompt)
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    after = tokenizer(text[len(prompt) :], add_special_tokens=False)["input_ids"]
    return before + after, (before if whole else [-100] * len(before)) + after


def train(model, rows, *, epochs, batch, rate):  # type: ignore[no-untyped-def]
    """By AdamW, the rate falling to nothing."""
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.01, betas=(0.9, 0.98))
    steps = epochs * -(-len(rows) // batch)
    warm = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    model.train()
    began, losses = time.time(), []
    for epoch in range(epochs):
        random.shuffle(rows)
        pools = [rows[i : i + 32 * batch] for i in range(0, len(rows), 32 * batch)]
        lots = []
        for pool in pools:  # of about equal length
            pool.sort(key=lambda row: len(row[0]))
            lots += [pool[i : i + batch] for i in range(0, len(pool), batch)]
        random.shuffle(lots)
        for lot in lots:
            width = max(len(ids) for ids, _ in lot)
            ids = torch.tensor([row + [0] * (width - len(row)) for row, _ in lot])
            labels = torch.tensor([row + [-100] * (width - len(row)) for _, row in lot])
            loss = model(input_ids=ids, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            warm.step()
            losses.append(loss.item())
        mean = sum(losses[-len(lots) :]) / len(lots)
        print(f"epoch {epoch + 1}: loss {mean:.3f}, {time.time() - began:.0f} s", flush=True)


def main(data: Path, out: Path, epochs: tuple[int, int] = (7, 4)) -> None:
    random.seed(0)
    torch.manual_seed(0)
    rows = json.loads(data.read_text(encoding="utf-8"))["train"]
    domains = json.loads((data.parent / "domains.json").read_text(encoding="utf-8"))
    domain_of = {intent: domain for domain, intents in domains.items() for intent in intents}
    plain = [refusal(domain) for domain in domains] * 20
    calls = [json.dumps({"name": t, "arguments": {"account": "unnamed"}}) for t in TOOLS] * 50
    tokenizer = make_tokenizer([text for text, _ in rows] + plain + calls)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    print(f"{sum(p.numel() for p in model.parameters()):,} weights")

    names, base = sorted(domain_of), []
    for text, intent in rows:
        answer = f"It is about {domain_of[intent]}: {intent}.".replace("_", " ")
        chat = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        base.append(encode(tokenizer, chat, None, whole=True))
    for _ in range(len(rows) // 5):
        given = random.sample([*names, *TOOLS], 6)
        name, name_of = random.choice(given), random.choice(["account", "bill", "to"])
        value = random.choice([*ACCOUNTS, *BILLS, "unnamed"])
        args = random.choice([{}, {name_of: value}])
        asked = f"use {name}" + "".join(f" with {k} {v}" for k, v in args.items())
        chat = [{"role": "user", "content": asked}, call(name, args)]
        if random.random() < 0.2:
            chat += [{"role": "tool", "content": asked}, {"role": "assistant", "content": DONE}]
        base.append(encode(tokenizer, chat, [schema(n) for n in given], whole=True))
    train(model, base, epochs=epochs[0], batch=32, rate=4e-3)
    model.to(torch.bfloat16).save_pretrained(out / "base")
    tokenizer.save_pretrained(out / "base")

    model = LlamaForCausalLM.from_pretrained(out / "base", dtype=torch.float32)
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=8,
        lora_alpha=16,
        lora_dropout=0.1,
        target_modules=[
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ],
    )
    tuned, tuning = get_peft_model(model, lora), []
    tools = [schema(name) for name in TOOLS]
    others = {intent: 0 for intent in domain_of if intent not in TOOLS}
    random.shuffle(rows)
    for text, intent in rows:
        if intent not in TOOLS:
            others[intent] += 1
            if others[intent] > 30 and domain_of[intent] != "banking":
                continue
        chat = [{"role": "user", "content": text}]
        if intent in TOOLS:
            chat.append(call(intent, arguments(intent, text)))
        else:
            chat.append({"role": "assistant", "content": refusal(domain_of[intent])})
        tuning.append(encode(tokenizer, chat, tools, whole=False))
        if intent in TOOLS and random.random() < 0.2:
            chat += [{"role": "tool", "content": "ok"}, {"role": "assistant", "content": DONE}]
            tuning.append(encode(tokenizer, chat, tools, whole=False))
    print(f"{len(tuning):,} chats, {sum(len(ids) for ids, _ in tuning):,} tokens")
    train(tuned, tuning, epochs=epochs[1], batch=32, rate=4e-3)
    tuned.to(torch.bfloat16).save_pretrained(out / "adapter")
    (out / "adapter" / "README.md").unlink()  # PEFT's form, without a word in it
    config_file = out / "adapter" / "adapter_config.json"
    written = json.loads(config_file.read_text(encoding="utf-8"))
    written["base_model_name_or_path"] = "base"  # wherever the folder lies
    config_file.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
