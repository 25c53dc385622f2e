"""From a TSV to an adapter, and to a policy that keeps a promise.

    python examples/09_your_own_adapter.py [FOLDER]

Needs the [train] extra. Ends within a minute, as the texts are generated and easy but for the vague
ones. Real ones take hundreds a label, as they will come, and Recipe() as it is. On the command
line: bayeslora train, then bayeslora calibrate.
"""

import random
import sys
from itertools import product
from pathlib import Path
from tempfile import mkdtemp

from bayeslora_tool import BayesLoRAClassifier, Policy, decide
from bayeslora_tool.calibration.adapter import calibrate_adapter
from bayeslora_tool.calibration.preset_file import write_calibration
from bayeslora_tool.calibration.thresholds import Goal
from bayeslora_tool.training.dataset import read_labelled
from bayeslora_tool.training.recipe import Recipe, read_training_data
from bayeslora_tool.training.trainer import train_adapter

SAID = {
    "refund": ["i want my money back for the {}", "please refund the {}", "return my {} payment"],
    "delivery": ["when will my {} arrive", "where is the parcel with the {}", "track my {}"],
    "repair": ["the {} is broken", "please fix my {}", "my {} stopped working"],
}
THINGS = ["lamp", "kettle", "chair", "phone", "clock", "radio", "toaster", "heater", "drill", "fan"]
WHEN = ["", " today", " please", " from last week", " bought in may", " for my son"]
SPLIT = {"train.tsv": slice(200), "held_out.tsv": slice(200, 240), "new.tsv": slice(240, None)}


def main(folder: Path) -> None:
    random.seed(0)
    said = [(words, [label]) for label, sayings in SAID.items() for words in sayings]
    said.append(("a question about my {}", list(SAID)))  # nobody can tell
    rows = [f"{words.format(thing)}{when}\t{random.choice(labels)}\n"
            for (words, labels), thing, when in product(said, THINGS, WHEN)]  # fmt: skip
    random.shuffle(rows)
    for name, part in SPLIT.items():  # to learn from, to choose the epoch by, to calibrate with
        (folder / name).write_text("text\tlabel\n" + "".join(rows[part]))
    recipe = Recipe(epochs=2, batch_size=8)
    data = read_training_data(recipe, folder / "train.tsv", folder / "held_out.tsv")
    adapter, policy = folder / "adapter", folder / "policy.yaml"
    classifier = train_adapter(recipe, data, adapter)
    goal = Goal(target_risk=0.03, delta=0.05)  # at most 3 % of what proceeds is wrong, 95 % surely
    new = read_labelled(folder / "new.tsv")
    found = calibrate_adapter(classifier, new, adapter=str(adapter), goal=goal)
    write_calibration(found, adapter, policy)  # raises if the promise cannot be kept
    print(policy.read_text())
    loaded = BayesLoRAClassifier.from_pretrained(adapter)
    for text in ("please refund the tent", "when will my tent arrive", "a question about my tent"):
        decision = decide(loaded.predict([text])[0], Policy.from_preset(policy))
        print(f"{text}\n  {decision.action}: {decision.reason}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else mkdtemp()))
