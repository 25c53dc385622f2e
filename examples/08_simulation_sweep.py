"""Before an agent meets people: how often will it err, and how often will it ask?

    python examples/08_simulation_sweep.py [FOLDER]

Plays scenarios.yaml through the real graph, tries a grid of thresholds, and draws what each error
less costs in people's time. Needs the [report] extra. Seven scenarios show how it works; base a
choice on hundreds. The same on the command line: bayeslora simulate ... --sweep -o FOLDER.
"""

import sys
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

from bayeslora_tool import BayesLoRAClassifier, load_preset
from bayeslora_tool.simulation.report import write_simulation
from bayeslora_tool.simulation.scenarios import Prices, Reviewer, read_scenarios
from bayeslora_tool.simulation.simulator import simulate


def main(folder: Path) -> None:
    preset = load_preset("intents")
    # Scores for many thresholds: not the preset's, which are for its own thresholds alone.
    classifier = BayesLoRAClassifier.from_pretrained(preset.adapter)
    policy = replace(preset.policy, calibrated_for=None)
    path = Path(__file__).with_name("scenarios.yaml")
    file = read_scenarios(path, labels=classifier.labels)
    found = simulate(
        file.scenarios,
        classifier=classifier,
        policies={"intents": policy},
        reviewer=Reviewer(**file.reviewer),
        prices=Prices(**file.prices),
        sweep=True,
    )
    for row in found.rows:
        print(f"{row.name}: {row.errors} of {row.n} wrong, {row.asked} asked, cost {row.cost:.1f}")
    assert found.sweep is not None
    best = found.sweep.best
    print(f"cheapest of {len(found.sweep.grid)} tried: {best.name}, cost {best.cost:.1f}")
    print("written:", *write_simulation(found, folder), sep="\n  ")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(mkdtemp()))
