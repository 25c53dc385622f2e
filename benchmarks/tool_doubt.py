"""How the tiny chat model's doubt of its own calls ranks the wrong ones, on CLINC150.

    python benchmarks/tool_doubt.py CLINC150/data_full.json [examples/tiny_chat]

Thresholds are chosen on the validation texts: those that let most calls run of which at most 5%
are wrong. Then the test texts are counted, once.
"""

import json
import sys
from pathlib import Path

import numpy as np
from langchain_core.messages import AIMessage
from rich.progress import track
from sklearn.metrics import roc_auc_score as auroc

from bayeslora_tool.chat import ChatBayesLoRA
from bayeslora_tool.language import LanguageModel

DOMAINS = ("banking", "credit_cards", "travel")
AT_MOST = 0.05


def main(data: Path, folder: Path) -> None:
    sys.path.insert(0, str(folder))
    from make_tiny_chat import TOOLS, arguments, schema  # beside the weights

    texts = json.loads(data.read_text(encoding="utf-8"))
    domains = json.loads((data.parent / "domains.json").read_text(encoding="utf-8"))
    known = {intent for domain in DOMAINS for intent in domains[domain]}
    model = LanguageModel.from_pretrained(folder / "adapter", base=folder / "base")
    chat = ChatBayesLoRA(model=model, max_tokens=48).bind_tools([schema(name) for name in TOOLS])

    def run(part: str) -> list[dict]:
        rows = []
        inside = [row for row in texts[part] if row[1] in known]
        for text, intent in track(inside + texts[f"oos_{part}"], part):
            message = chat.invoke(text)
            assert isinstance(message, AIMessage)
            wanted = intent if intent in TOOLS else None
            calls = message.response_metadata["doubt"]["calls"]
            first = calls[0] if calls else None
            rows.append(
                {
                    "intent": intent,
                    "wanted": wanted,
                    "called": first and first["name"],
                    "broken": len(message.invalid_tool_calls),
                    "calls": len(calls),
                    "choice": first and first["choice"],
                    "right_args": first and wanted and first["args"] == arguments(wanted, text),
                    "arguments": first and first["arguments"],
                }
            )
        return rows

    val, test = run("val"), run("test")
    tau_conf, tau_var = thresholds(val)
    alone, _ = thresholds(val, variances=(0.25,))
    print(f"thresholds from {len(val)} validation texts: {tau_conf:.4f}, {tau_var:g}")
    inside = [row for row in test if row["intent"] != "oos"]
    for name, rows in (
        ("a tool fits", [row for row in inside if row["wanted"]]),
        ("none fits, same domains", [row for row in inside if not row["wanted"]]),
        ("out of scope", [row for row in test if row["intent"] == "oos"]),
        ("all", test),
    ):
        right = sum(row["called"] == row["wanted"] for row in rows)
        print(f"{name}: n = {len(rows)}, right tool or none {right / len(rows):.3f}")
    made = [row for row in test if row["choice"]]
    wrong = np.array([row["called"] != row["wanted"] for row in made])
    conf, var = numbers(made)
    print(f"calls: {len(made)}, of them wrong {wrong.mean():.3f}, broken calls "
          f"{sum(row['broken'] for row in test)}, several calls "
          f"{sum(row['calls'] > 1 for row in test)}")  # fmt: skip
    print(f"AUROC of wrong calls: 1 - confidence {auroc(wrong, 1 - conf):.3f}, "
          f"variance {auroc(wrong, var):.3f}")  # fmt: skip
    for name, runs in (
        (f"confidence >= {alone:.4f}", conf >= alone),
        (f"confidence >= {tau_conf:.4f}, variance <= {tau_var:g}",
         (conf >= tau_conf) & (var <= tau_var)),
    ):  # fmt: skip
        print(f"{name}: {runs.sum()} of {len(made)} calls run ({runs.mean():.3f}), "
              f"{wrong[runs].sum()} of them wrong ({wrong[runs].mean():.3f})")  # fmt: skip
    fit = [row for row in made if row["called"] == row["wanted"] and row["arguments"]]
    lost = np.array([not row["right_args"] for row in fit])
    least = [
        min(a["probabilities"]["(as written)"] for a in row["arguments"].values()) for row in fit
    ]
    print(f"right tool with an argument: {len(fit)}, its value wrong {lost.mean():.3f}; AUROC of "
          f"1 - confidence {auroc(lost, 1 - np.array(least)):.3f}")  # fmt: skip


def numbers(rows: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Probability of the tool that is called, and its choice's variance."""
    conf = [row["choice"]["probabilities"][row["called"]] for row in rows]
    return np.array(conf), np.array([row["choice"]["variance"] for row in rows])


def thresholds(
    rows: list[dict], variances: tuple[float, ...] = (0.25, 0.05, 0.02, 0.01, 0.005, 0.002)
) -> tuple[float, float]:
    """Those that let most calls run, of which few are wrong."""
    made = [row for row in rows if row["choice"]]
    wrong = np.array([row["called"] != row["wanted"] for row in made])
    conf, var = numbers(made)
    best, most = (1.0, 0.0), 0
    for tau_var in variances:
        for tau_conf in np.unique(conf):
            runs = (conf >= tau_conf) & (var <= tau_var)
            if runs.sum() > most and wrong[runs].mean() <= AT_MOST:
                best, most = (float(tau_conf), tau_var), int(runs.sum())
    return best


if __name__ == "__main__":
    here = Path(__file__).parent.parent / "examples" / "tiny_chat"
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else here)
