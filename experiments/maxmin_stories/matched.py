"""Policies of `maxmin_stories` at equal KL: what MaxMin gives each group beside the others.

    python experiments/maxmin_stories/matched.py [RESULTS] [OUT]

Another policy at MaxMin's KL is read off its own runs of the same seed, linearly in the root of the
KL: near the reference gains grow with it. The reference itself, KL 0, is one of the points. So is,
head to head, how often a story of MaxMin's is preferred to one of the single reward's policy. Where
gains bend down between far points the other policy is read off a little too low, for both groups. A
seed whose runs don't reach that KL is left out of the row; n says how many are in it. Errors are
over seeds, intervals 95 % of Student's t. Prints the table and writes matched.json.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from paljax import storage

HERE = Path(__file__).parent
Row = dict[str, Any]
# Of each group: gain in standard deviations of the reference's stories, win rate against it.
AT_REFERENCE = {"gain": 0.0, "win_rate": 0.5}


def at_kl(rows: Sequence[Row], group: str, score: str, kl: float) -> float | None:
    """A score of a group by one policy at some KL.

    Args:
        rows: Runs of one policy and seed, for several β.
        group: Whose score.
        score: A key of `AT_REFERENCE`.
        kl: In nats; beyond the largest of the runs there is no answer.
    """
    points = [(row["kl"], row["true"][group][score]) for row in rows]
    return _read_off([(0.0, AT_REFERENCE[score]), *points], kl)


def head_to_head(row: Row, group: str) -> float | None:
    """How often a group prefers a story of a run to the single reward's at the run's own KL."""
    points = [(each["kl"], each["wins"][group]["win_rate"]) for each in row["against_singles"]]
    return _read_off([(0.0, row["true"][group]["win_rate"]), *points], row["kl"])


def matched(rows: Sequence[Row]) -> list[Row]:
    """MaxMin and every other policy at MaxMin's KL, a row for each people, policy and β."""
    found = []
    for key in dict.fromkeys((row["conflict"], row["split"], row["beta"]) for row in rows):
        conflict, split, beta = key
        same = [row for row in rows if (row["conflict"], row["split"]) == (conflict, split)]
        ours = [row for row in same if row["policy"] == "maxmin" and row["beta"] == beta]
        for policy in dict.fromkeys(row["policy"] for row in same if row["policy"] != "maxmin"):
            pairs = []
            for row in ours:
                others = [other for other in same
                          if (other["policy"], other["seed"]) == (policy, row["seed"])]  # fmt: skip
                if others and at_kl(others, row["people"][0], "gain", row["kl"]) is not None:
                    pairs.append((row, others))
            if pairs:
                names = {"conflict": conflict, "split": split, "beta": beta, "against": policy}
                record = names | _compared(pairs)
                # Runs of before these win rates were kept have none.
                if policy == "single" and all("against_singles" in row for row, _ in pairs):
                    record["head_to_head"] = _met([row for row, _ in pairs])
                found.append(record)
    return found


def summary(values: Sequence[float]) -> Row:
    """Mean with its standard error, 0 for a single value, and the interval that several have."""
    many: NDArray[np.float64] = np.array(values, float)
    mean, count = float(many.mean()), len(many)
    if count == 1:
        return {"mean": mean, "standard_error": 0.0}
    error = float(many.std(ddof=1) / np.sqrt(count))
    reach = float(student.ppf(0.975, count - 1)) * error
    return {"mean": mean, "standard_error": error, "interval": [mean - reach, mean + reach]}


def _read_off(points: Sequence[tuple[float, float]], kl: float) -> float | None:
    """A score at some KL, linear in its root between (KL, score); None beyond the last."""
    places, scores = zip(*sorted(points), strict=True)
    if kl > places[-1]:
        return None
    return float(np.interp(np.sqrt(kl), np.sqrt(np.maximum(places, 0)), scores))


def _compared(pairs: Sequence[tuple[Row, Sequence[Row]]]) -> Row:
    record: Row = {"n": len(pairs), "kl": summary([row["kl"] for row, _ in pairs])}
    majority, minority = pairs[0][0]["people"]
    wins = {}
    for name, group in (("majority", majority), ("minority", minority)):
        record[name] = {"wants": group}
        for score in AT_REFERENCE:
            own = np.array([row["true"][group][score] for row, _ in pairs])
            other = np.array([at_kl(rows, group, score, row["kl"]) for row, rows in pairs], float)
            record[name][score] = {
                "maxmin": summary(own.tolist()),
                "other": summary(other.tolist()),
                "difference": summary((own - other).tolist()),
            }
            if score == "win_rate":
                wins[name] = np.stack([own, other])
    # As MaxMin-RLHF reports: the minority's win rate, and the mean of both, by the other policy's.
    wins["average"] = (wins["majority"] + wins["minority"]) / 2
    record["relative_win_rate"] = {
        name: summary((wins[name][0] / wins[name][1] - 1).tolist())
        for name in ("minority", "average")
    }
    return record


def _met(rows: Sequence[Row]) -> Row:
    """How often each group prefers MaxMin's story to the single reward's at the same KL."""
    found = {}
    for name, group in zip(("majority", "minority"), rows[0]["people"], strict=True):
        rates = [head_to_head(row, group) for row in rows]
        found[name] = summary([rate for rate in rates if rate is not None])
    return found


def main() -> None:
    """Print and write what is matched."""
    results = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results.json"
    out = Path(sys.argv[2]) if len(sys.argv) > 2 else HERE / "matched.json"
    found = matched(json.loads(results.read_text(encoding="utf-8"))["rows"])
    for row in found:
        line = f"{row['conflict']} {row['split']} β {row['beta']:g}"
        line += f" KL {row['kl']['mean']:.2f}, n {row['n']}"
        for name in ("majority", "minority"):
            gain, wins = row[name]["gain"], row[name]["win_rate"]
            line += (
                f" | {name} ({row[name]['wants']}) maxmin {gain['maxmin']['mean']:+.2f}"
                f" ± {gain['maxmin']['standard_error']:.2f} (wins"
                f" {100 * wins['maxmin']['mean']:.0f} %), {row['against']}"
                f" {gain['other']['mean']:+.2f} ± {gain['other']['standard_error']:.2f}"
                f" ({100 * wins['other']['mean']:.0f} %)"
            )
        relative = row["relative_win_rate"]
        line += f" | win rate of the minority {100 * relative['minority']['mean']:+.0f} %"
        line += f", of both {100 * relative['average']['mean']:+.0f} %"
        for name, rate in row.get("head_to_head", {}).items():
            line += f" | {name} prefers it head to head {100 * rate['mean']:.0f} %"
        print(line)
    storage.write_json(out, found)


if __name__ == "__main__":
    main()
