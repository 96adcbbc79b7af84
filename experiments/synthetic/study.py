"""The synthetic study: every setting over several seeds, and what was recovered of it.

    python experiments/synthetic/study.py [--seeds 5] [--settings partition mixture ...]

Runs config.yaml with the overrides of each setting, and writes results-SETTING.json beside it:
scores by `over_seeds`, and under `recovered` the agreement with what was planted. Finished runs
under runs/ are taken up. `figure.py` draws the results.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from recover import recovered

HERE = Path(__file__).parent
MANY = "data.comparisons_per_user=1000"
SETTINGS = {
    "partition": [],
    "partition-one": ["model.num_prototypes=1"],
    "mixture": ["data.setting=mixture"],
    "mixture-one": ["data.setting=mixture", "model.num_prototypes=1"],
    "mixture-1000": ["data.setting=mixture", MANY, "training.batch_size=2048"],
}


def study(setting: str, seeds: int) -> None:
    """Run one setting and add to its results what was recovered."""
    command = [sys.executable, HERE.parent / "over_seeds.py", HERE / "config.yaml"]
    options = ["--seeds", str(seeds), "--name", setting, *SETTINGS[setting]]
    subprocess.run([*command, *options], check=True)
    if setting.endswith("-one"):
        return  # nothing but the mean user could be recovered
    by_seed = [recovered(Path("runs") / f"{setting}-seed-{seed}") for seed in range(seeds)]
    path = HERE / f"results-{setting}.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["recovered"] = {
        name: {"mean": statistics.mean(values), "by_seed": values}
        for name in by_seed[0]
        for values in [[scores[name] for scores in by_seed]]
    }
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Run the settings."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    options = parser.parse_args()
    for setting in options.settings:
        study(setting, options.seeds)


if __name__ == "__main__":
    main()
