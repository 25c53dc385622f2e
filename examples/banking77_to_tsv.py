"""Banking77 as TSV files, ten intents left out: python banking77_to_tsv.py train.csv FOLDER.

Of the other 67, one text in five is held out: every tenth to choose the epoch by and to calibrate
with (val.tsv), every tenth to judge (test.tsv). The ten are strangers: half to fit with, half to
judge.
"""

import csv
import random
import sys
from pathlib import Path

STRANGERS = 10


def main(source: str, folder: str) -> None:
    with Path(source).open(encoding="utf-8", newline="") as file:
        rows = [(" ".join(row["text"].split()), row["category"]) for row in csv.DictReader(file)]
    draw = random.Random(0)
    draw.shuffle(rows)
    outside = set(draw.sample(sorted({label for _, label in rows}), STRANGERS))
    known = [row for row in rows if row[1] not in outside]
    strangers = [text for text, label in rows if label in outside]
    half = len(strangers) // 2
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, lines in {
        "train": ["text\tlabel", *("\t".join(r) for i, r in enumerate(known) if i % 10 > 1)],
        "val": ["text\tlabel", *("\t".join(r) for r in known[0::10])],
        "test": ["text\tlabel", *("\t".join(r) for r in known[1::10])],
        "oos_val": ["text", *strangers[:half]],
        "oos_test": ["text", *strangers[half:]],
    }.items():
        (Path(folder) / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{name}.tsv: {len(lines) - 1} texts")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
