"""Draw the synthetic study: K = K* against one shared reward, in both settings.

    python experiments/synthetic/figure.py [--out docs/synthetic.png]

Reads results-*.json beside this file, as study.py wrote them. A dot is a seed.
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt

HERE = Path(__file__).parent
ROWS = (
    ("partition", "partition, K = 3"),
    ("partition-one", "partition, K = 1"),
    ("mixture", "mixture, K = 3"),
    ("mixture-1000", "mixture, K = 3, 1,000 comparisons a user"),
    ("mixture-one", "mixture, K = 1"),
)
SCORE = "pal_a, seen users, accuracy"
WANTED = 0.97


def main() -> None:
    """Draw the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/synthetic.png"))
    out = parser.parse_args().out
    figure, axes = plt.subplots(figsize=(9, 0.6 + 0.45 * len(ROWS)), layout="constrained")
    for place, (setting, label) in enumerate(ROWS):
        record = json.loads((HERE / f"results-{setting}.json").read_text(encoding="utf-8"))
        score = record["scores"][SCORE]
        color = "#b3541e" if setting.endswith("-one") else "#1f5f8b"
        axes.plot(score["by_seed"], [place] * len(score["by_seed"]), "o", color=color, alpha=0.5)
        axes.text(score["mean"], place - 0.22, f"{100 * score['mean']:.1f} %", ha="center")
        axes.axhline(place, color="#e6e6e6", zorder=0)
        print(f"{label:<42} {100 * score['mean']:.1f} %")
    axes.axvline(WANTED, color="#777777", linestyle=":", label=f"wanted: {100 * WANTED:.0f} %")
    axes.set_yticks(range(len(ROWS)), [label for _, label in ROWS])
    axes.set_ylim(len(ROWS) - 0.4, -0.6)
    axes.set_xlabel("accuracy on unseen pairs of seen users (no noise)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper center", frameon=False)
    figure.savefig(out, dpi=160)


if __name__ == "__main__":
    main()
