"""Run every experiment over its seeds and rewrite the table of results in README.md.

    python experiments/reproduce.py [--table-only]

Each folder with config.yaml goes through over_seeds.py (finished runs under runs/ are taken up);
the table is made of the results.json beside them and stands between two comments in README.md.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- results of experiments/reproduce.py -->", "<!-- end of results -->"
# Folder -> what the row is about.
ROWS = {
    "polis": "Polis, Bowling Green, seen people",
    "polis_cold": "the same, statements that training never saw",
    "pluriharms": "PluriHarms",
}
NAMES = ("bradley_terry", "pal_a")
SEEN, JOINED = "seen users, accuracy", "unseen users with 20 comparisons, accuracy"


def table() -> str:
    """A row for every experiment that has results."""
    lines = [
        "| data | seeds | shared reward | PAL, validation | PAL, test |",
        "|---|---|---|---|---|",
    ]
    for folder, about in ROWS.items():
        path = HERE / folder / "results.json"
        if not path.exists():
            continue
        record = json.loads(path.read_text(encoding="utf-8"))
        scores, seeds = record["scores"], record["seeds"]
        cells = [
            _percent(scores[f"bradley_terry, {SEEN}"]),
            _percent(scores["pal_a, validation part, accuracy"]),
            _percent(scores[f"pal_a, {SEEN}"]),
        ]
        lines.append(f"| {about} | {seeds} | {' | '.join(cells)} |")
        if f"pal_a, {JOINED}" in scores:
            shared, pal = (_percent(scores[f"{name}, {JOINED}"]) for name in NAMES)
            lines.append(f"| the same, new people with 20 votes | {seeds} | {shared} | | {pal} |")
    return "\n".join(lines)


def _percent(score: dict[str, Any]) -> str:
    spread = score["standard_deviation"]
    mean = f"{100 * score['mean']:.1f}"
    return mean if spread is None else f"{mean} ± {100 * spread:.1f}"


def rewrite(text: str, rows: str) -> str:
    """The text with the rows between the two comments."""
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{README.name}: wanted the comments {BEGIN} and {END}")
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{rows}\n{END}{rest.split(END, 1)[1]}"


def main() -> None:
    """Run what is not there yet and rewrite the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table-only", action="store_true", help="from the results that are there")
    if not parser.parse_args().table_only:
        for folder in ROWS:
            config = HERE / folder / "config.yaml"
            subprocess.run([sys.executable, HERE / "over_seeds.py", config], check=True)
        subprocess.run([sys.executable, HERE / "personas" / "sweep.py"], check=True)
    README.write_text(rewrite(README.read_text(encoding="utf-8"), table()), encoding="utf-8")


if __name__ == "__main__":
    main()
