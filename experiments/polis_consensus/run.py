"""The statements that serve the worst-off group best, chosen from real votes by six rules.

    python -m experiments.polis_consensus.run [--folds 3] [--conversations NAME ...]

Six Polis conversations. In each fold a third of every group's people is held out. From the others'
votes PAL learns what each person would agree with (reward.yaml); a group's reward is the mean
probability that its people agree; MaxMin (policy.yaml, and the exact dual) and five other rules
choose distributions over statements, equally concentrated. What counts is how many of the held-out
people of each group agreed with what was chosen. Intervals: bootstrap over the held-out people,
within groups. Writes results.json and figure.png beside this file; runs go to runs/polis_consensus.
Ten minutes of a core, most of it compiling.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.polis_consensus import figure, rules, votes
from experiments.polis_consensus.held_out import (
    Agreements,
    agreements,
    compare,
    over_conversations,
)
from paljax import train
from paljax.policy.group_rewards import group_rewards
from paljax.reward.trained_model import load_model
from paljax.runs import METRICS, POLICY, versions
from paljax.storage import read_table

HERE = Path(__file__).parent
RUNS = Path("runs") / "polis_consensus"
CONVERSATIONS = (
    "american-assembly.bowling-green",
    "scoop-hivemind.biodiversity",
    "scoop-hivemind.taxes",
    "brexit-consensus",
    "scoop-hivemind.affordable-housing",
    "15-per-hour-seattle",
)
SHORTLISTS = (3.0, 5.0, 10.0)  # statements; the figure and the policy runs are of MAIN
MAIN = 5.0
LISTED = 5


class Learned(NamedTuple):
    """What the reward runs of one fold predict."""

    agreement: np.ndarray[Any, Any]  # [G, Y] mean probability that a group's people agree
    num_prototypes: int  # 1: validation left it open whether people differ
    accuracy: float  # on votes of known people that were not learned from
    shared_accuracy: float  # of one reward for everybody


def learn(talk: votes.Conversation, part: Any, folder: Path) -> Learned:
    """Fit PAL to the votes of a fold."""
    votes.write_comparisons(talk, part, folder / "votes.parquet")
    data = f"data.path={folder / 'votes.parquet'}"
    _train(str(HERE / "reward.yaml"), folder / "reward", data)
    texts = (*(talk.statements[row] for row in talk.candidates), votes.SILENCE)

    found = group_rewards(load_model(folder / "reward"), "users")
    rewards = np.asarray(found.table(texts)[0], float)  # [Y + 1, C]
    log_odds = (rewards[:-1] - rewards[-1]) @ found.groups.matrix.T  # [Y, U]
    place = {person: row for row, person in enumerate(talk.people)}
    group = talk.group[[place[person] for person in found.groups.names]]
    agree = 1 / (1 + np.exp(-log_odds))
    by_group = [agree[:, group == g].mean(axis=1) for g in range(len(talk.groups))]

    scores = json.loads((folder / "reward" / METRICS).read_text(encoding="utf-8"))
    return Learned(
        np.stack(by_group),
        scores["selection"]["num_prototypes"] if scores["selection"]["personal"] else 1,
        scores["test"]["accuracy"],
        scores["baselines"]["bradley_terry"]["test"]["accuracy"],
    )


def policy_stage(
    talk: votes.Conversation, learned: Learned, exact: rules.Chosen, shares: Any, folder: Path
) -> float:
    """Train the policy by the policy stage; its total variation from the exact one."""
    table = learned.agreement.T[None]
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "agreement.npz", rewards=table)
    _train(
        str(HERE / "policy.yaml"),
        folder / "policy",
        f"rewards.path={folder / 'agreement.npz'}",
        f"groups={json.dumps({'names': talk.groups, 'shares': shares.tolist()})}",
        f"beta={exact.temperature!r}",
    )
    columns = read_table(folder / "policy" / POLICY)
    trained = np.asarray(columns["probability"], float)
    return float(np.abs(trained - exact.policy).sum() / 2)


def measure(name: str, options: argparse.Namespace) -> tuple[dict[str, Any], Agreements]:
    """All of one conversation: its record, and what the comparison over conversations needs."""
    talk = votes.read(name, options.folds, options.seed)
    shares = np.bincount(talk.group) / len(talk.group)
    by_size: dict[float, list[dict[str, Any]]] = {size: [] for size in SHORTLISTS}
    folds = []
    for fold in range(options.folds):
        folder = RUNS / name / f"fold-{fold}"
        part = votes.learned_from(talk, fold, options.seed)
        learned = learn(talk, part, folder)
        counted = votes.count(talk, np.isin(part, ("train", "validation")))
        for size in SHORTLISTS:
            chosen = rules.choose(learned.agreement, shares, counted, size)
            by_size[size].append({rule: found.policy for rule, found in chosen.items()})
            if size == MAIN and not fold:
                distance = policy_stage(talk, learned, chosen[rules.MAXMIN], shares, folder)
        folds.append({"prototypes": learned.num_prototypes,
                      "reward_accuracy": learned.accuracy,
                      "shared_reward_accuracy": learned.shared_accuracy})  # fmt: skip
    settings = {"resamples": options.resamples, "seed": options.seed}
    found = {size: agreements(talk, by_size[size], **settings) for size in SHORTLISTS}
    record = {
        "people": dict(zip(talk.groups, np.bincount(talk.group).tolist(), strict=True)),
        "votes": int(talk.voted.sum()),
        "candidates": len(talk.candidates),
        "folds": folds,
        "trained_policy_total_variation": distance,
        "shortlists": {f"{size:g}": compare(talk, found[size], shares) for size in SHORTLISTS},
        "statements": _statements(talk, by_size[MAIN]),
    }
    return record, found[MAIN]


def _statements(talk: votes.Conversation, policies: list[dict[str, Any]]) -> dict[str, Any]:
    """The likeliest statements of every rule, averaged over folds, with everybody's votes."""
    counts = votes.count(talk, np.ones_like(talk.voted))
    rates = counts.agreed / counts.voted
    listed = {}
    for rule in rules.NAMES:
        mean = np.mean([policy[rule] for policy in policies], axis=0)
        listed[rule] = [
            {
                "statement": talk.statements[talk.candidates[place]],
                "probability": float(mean[place]),
                "agreement": dict(zip(talk.groups, rates[:, place].tolist(), strict=True)),
            }
            for place in np.argsort(-mean, kind="stable")[:LISTED]
        ]
    return listed


def _train(config: str, run_dir: Path, *overrides: str) -> None:
    status = train.main(["--config", config, "--run-dir", str(run_dir), *overrides])
    if status:
        raise SystemExit(status)


def main() -> None:
    """Measure every conversation, write the results and draw them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--conversations", nargs="+", default=list(CONVERSATIONS))
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    records, found = {}, {}
    for name in options.conversations:
        records[name], found[name] = measure(name, options)
        for rule, row in records[name]["shortlists"][f"{MAIN:g}"].items():
            low, high = row["maxmin_ahead_interval"]
            print(f"{name:<34} {rule:<30} worst {row['worst']:.3f} mean {row['mean']:.3f} "
                  f"MaxMin ahead {row['maxmin_ahead']:+.3f} [{low:+.3f}, {high:+.3f}]",
                  flush=True)  # fmt: skip
        record = {
            "settings": vars(options) | {"main": MAIN, "least_votes": votes.LEAST_VOTES},
            "versions": versions(),
            "over_conversations": over_conversations(list(found.values())),
            "conversations": records,
        }
        # After every conversation: a run that is stopped keeps what it has.
        text = json.dumps(record, indent=2) + "\n"
        (HERE / "results.json").write_text(text, encoding="utf-8")
        figure.draw(json.loads(text), HERE / "figure.png")


if __name__ == "__main__":
    main()
