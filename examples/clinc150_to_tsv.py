"""CLINC150's data_full.json as TSV files: python clinc150_to_tsv.py data_full.json FOLDER."""

import json
import sys
from pathlib import Path


def main(source: str, folder: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    for split, rows in json.loads(Path(source).read_text(encoding="utf-8")).items():
        lines = ["text\tlabel", *(f"{text}\t{label}" for text, label in rows)]
        (Path(folder) / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{split}.tsv: {len(rows)} texts")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
