"""Run every experiment over its seeds and rewrite the table of results in README.md.

    python experiments/reproduce.py [--table-only]

Each experiment of the table goes through over_seeds.py (finished runs under runs/ are taken up);
the table is made of the results beside the configurations and stands between two comments in
README.md. The others follow, each with its own results.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- results of experiments/reproduce.py -->", "<!-- end of results -->"


class Experiment(NamedTuple):
    """What a row of the table is about, and how it comes about."""

    about: str
    config: str
    name: str | None = None  # of the results, where they are not results.json
    overrides: tuple[str, ...] = ()
    seeds: int = 5

    @property
    def results(self) -> Path:
        """Where its scores are."""
        name = f"results-{self.name}.json" if self.name else "results.json"
        return (HERE / self.config).with_name(name)

    @property
    def command(self) -> list[str]:
        """What makes them."""
        named = ["--name", self.name] if self.name else []
        seeds = ["--seeds", str(self.seeds)]
        script = [sys.executable, str(HERE / "over_seeds.py")]
        return [*script, str(HERE / self.config), *named, *seeds, *self.overrides]


# Of Polis, beside Bowling Green.
CONVERSATIONS = (
    "15-per-hour-seattle",
    "bg2050-volunteers",
    "brexit-consensus",
    "canadian-electoral-reform",
    "scoop-hivemind.affordable-housing",
    "scoop-hivemind.biodiversity",
    "scoop-hivemind.freshwater",
    "scoop-hivemind.taxes",
    "scoop-hivemind.ubi",
)
# Too few people voted often enough to learn from 20 votes of each and score others.
OVERRIDES = {"15-per-hour-seattle": ("splits.unseen_users=0.0", "splits.validation_users=0.0")}
EXPERIMENTS = (
    Experiment("Electricity, all people seen", "electricity/config.yaml"),
    Experiment("Electricity, most choices for training", "electricity/unseen.yaml", "unseen"),
    Experiment("Electricity, the quick start", "quickstart/config.yaml"),
    Experiment("Polis, Bowling Green, seen people", "polis/config.yaml"),
    Experiment("Polis, Bowling Green, cold statements", "polis_cold/config.yaml"),
    *(
        Experiment(
            f"Polis, {name}, seen people",
            "polis/config.yaml",
            name,
            (
                f"data.conversation={name}",
                "evaluation.published_pal=false",
                *OVERRIDES.get(name, ()),
            ),
        )
        for name in CONVERSATIONS
    ),
    Experiment("UKPConvArg, held-out pairs", "ukpconvarg/config.yaml"),
    Experiment("UKPConvArg, held-out debates", "ukpconvarg/debates.yaml", "debates"),
    Experiment("UKPConvArg, answers of seen workers", "ukpconvarg/workers.yaml", "workers"),
    Experiment("PluriHarms", "pluriharms/config.yaml"),
    Experiment("Planted people who want the same", "controls/config.yaml"),
    Experiment(
        "Planted people who toss coins", "controls/config.yaml", "noise", ("data.temperature=1e6",)
    ),
)
# What writes results and figures of its own, and no row of the table.
SCRIPTS = (
    ("experiments/synthetic/study.py",),
    ("experiments/personas/sweep.py",),
    ("experiments/hard_against_soft/run.py",),
    ("experiments/maxmin_exact/compare.py",),
    ("experiments/diversity/minority.py",),
    ("-m", "experiments.polis_consensus.run"),
    ("-m", "experiments.maxmin_stories.run"),
)
NAMES = ("bradley_terry", "pal_a")
PUBLISHED = "pal_as_published"
SEEN = "seen users, accuracy"
# Baselines that are neither a shared reward nor PAL, as the table calls them.
OTHERS = {
    "item_majority": "item majority",
    "user_and_item_intercepts": "intercepts",
    "per_user_logistic_regression": "regression a user",
    "mixed_logit": "mixed logit",
}


def table() -> str:
    """Rows of every experiment; people who join have their own."""
    columns = ["shared reward", "PAL as published", "best other", "PAL, validation", "PAL, test"]
    lines = [f"| data | seeds | {' | '.join(columns)} |", "|---" * (2 + len(columns)) + "|"]
    for experiment in EXPERIMENTS:
        record = json.loads(experiment.results.read_text(encoding="utf-8"))
        scores, seeds = record["scores"], record["seeds"]
        validated = _percent(scores["pal_a, validation part, accuracy"])
        lines.append(_row(experiment.about, seeds, scores, SEEN, validated))
        for shots in (0, 20):
            where = f"unseen users with {shots} comparisons, accuracy"
            if f"pal_a, {where}" in scores:
                about = f"the same, new people with {shots}"
                lines.append(_row(about, seeds, scores, where, ""))
    return "\n".join(lines)


def _row(about: str, seeds: int, scores: dict[str, Any], where: str, validated: str) -> str:
    shared, pal = (_percent(scores[f"{name}, {where}"]) for name in NAMES)
    published = scores.get(f"{PUBLISHED}, {where}")
    others = {key: scores[f"{key}, {where}"] for key in OTHERS if f"{key}, {where}" in scores}
    best = max(others, key=lambda key: float(others[key]["mean"]), default=None)
    cells = [
        about,
        str(seeds),
        shared,
        "" if published is None else _percent(published),
        "" if best is None else f"{_percent(others[best])} ({OTHERS[best]})",
        validated,
        pal,
    ]
    return f"| {' | '.join(cell or '–' for cell in cells)} |"


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
        for experiment in EXPERIMENTS:
            subprocess.run(experiment.command, check=True, cwd=HERE.parent)
        for script in SCRIPTS:
            subprocess.run([sys.executable, *script], check=True, cwd=HERE.parent)
    README.write_text(rewrite(README.read_text(encoding="utf-8"), table()), encoding="utf-8")


if __name__ == "__main__":
    main()
