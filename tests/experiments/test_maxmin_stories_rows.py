"""The sweep of the experiment with stories: its plan, its rows, its comparison at equal KL."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.maxmin_stories.comparisons import write_comparisons
from experiments.maxmin_stories.matched import at_kl, head_to_head, matched, summary
from experiments.maxmin_stories.run import POLICIES, SPLITS, Results, Setting, plan


def options(**changes: Any) -> argparse.Namespace:
    given: dict[str, Any] = {
        "seeds": 3, "first_seed": 0, "betas": [0.3, 0.8], "policies": list(POLICIES),
        "conflicts": ["lengths", "sentiments"], "splits": list(SPLITS),
    }  # fmt: skip
    return argparse.Namespace(**(given | changes))


def row(policy: str, seed: int, beta: float, kl: float, gains: tuple[float, float]) -> Any:
    true = {
        group: {"gain": gain, "win_rate": 0.5 + gain / 10}
        for group, gain in zip(("positive", "concise"), gains, strict=True)
    }
    names = Setting("lengths", "80/20", seed, beta, policy)._asdict()
    return names | {"people": ["positive", "concise"], "kl": kl, "true": true}


def test_every_run_is_planned_once_and_what_the_claim_is_about_first() -> None:
    planned = list(plan(options()))
    assert len(planned) == len(set(planned)) == 3 * 2 * (5 + 2) * 2
    first = planned[: 3 * 2 * (2 + 2) * 2]
    assert {setting.policy for setting in first} == {"single", "maxmin"}
    few = options(conflicts=["sentiments"], splits=["10/11"], betas=[0.3])
    assert list(plan(few)) == [
        Setting("sentiments", "10/11", seed, 0.3, policy)
        for seed in range(3)
        for policy in ("single", "maxmin")
    ]


def test_rows_that_are_there_are_known_and_other_options_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results = Results(path, {"users": 220})
    done = row("single", 1, 0.3, 2.0, (1.0, -1.0))
    results.add("stage_1", {"conflict": "lengths", "split": "80/20", "seed": 1, "found": 1.0})
    results.add("rows", done)
    again = Results(path, {"users": 220})
    assert again.has(Setting("lengths", "80/20", 1, 0.3, "single"))
    assert not again.has(Setting("lengths", "80/20", 1, 0.8, "single"))
    assert again.has_rewards(Setting("lengths", "80/20", 1, 0.8, "maxmin"))
    assert not again.has_rewards(Setting("lengths", "10/11", 1, 0.8, "maxmin"))
    with pytest.raises(SystemExit, match="made with other users"):
        Results(path, {"users": 110})


def test_scores_at_a_kl_are_on_the_line_in_its_root() -> None:
    rows = [row("single", 0, 0.3, 4.0, (2.0, -2.0)), row("single", 0, 0.8, 1.0, (1.0, 0.0))]
    assert at_kl(rows, "positive", "gain", 1.0) == pytest.approx(1.0)
    assert at_kl(rows, "positive", "gain", 0.25) == pytest.approx(0.5)  # from the reference's 0
    assert at_kl(rows, "concise", "gain", 2.25) == pytest.approx(-1.0)
    assert at_kl(rows, "concise", "win_rate", 0.0) == 0.5
    assert at_kl(rows, "concise", "gain", 4.1) is None


def test_policies_are_compared_at_maxmins_kl_seed_by_seed() -> None:
    rows = [
        row("single", 0, 0.3, 4.0, (2.0, -2.0)),
        row("single", 1, 0.3, 1.0, (1.0, -1.0)),
        row("maxmin", 0, 0.3, 1.0, (0.5, 0.5)),
        row("maxmin", 1, 0.3, 1.0, (0.7, 0.1)),
        row("maxmin", 2, 0.3, 1.0, (9.0, 9.0)),  # without a single-reward run: left out
        row("maxmin", 1, 0.1, 9.0, (9.0, 9.0)),  # beyond what the other reached: left out
    ]
    (found,) = matched(rows)
    assert (found["beta"], found["against"], found["n"]) == (0.3, "single", 2)
    minority = found["minority"]["gain"]
    assert minority["maxmin"]["mean"] == pytest.approx(0.3)
    assert minority["other"]["mean"] == pytest.approx(-1.0)
    assert minority["difference"]["mean"] == pytest.approx(1.3)
    assert minority["difference"]["standard_error"] == pytest.approx(0.2)
    assert found["majority"]["gain"]["difference"]["mean"] == pytest.approx(-0.4)
    # Student's t with one degree of freedom.
    assert minority["difference"]["interval"] == pytest.approx([1.3 - 2.541, 1.3 + 2.541], abs=1e-3)
    # Win rates .55 and .51 of the minority against .4, of the majority .55 and .57 against .6.
    assert found["relative_win_rate"]["minority"]["mean"] == pytest.approx(0.325)
    average = [(0.55 + 0.55) / (0.6 + 0.4) - 1, (0.57 + 0.51) / (0.6 + 0.4) - 1]
    assert found["relative_win_rate"]["average"]["mean"] == pytest.approx(np.mean(average))
    assert summary([1.0])["standard_error"] == 0
    assert "interval" not in summary([1.0])


def test_win_rates_head_to_head_are_read_off_at_the_runs_own_kl() -> None:
    rows = [row("single", seed, 0.3, 4.0, (2.0, -2.0)) for seed in range(2)]
    for seed, kl in enumerate((1.0, 2.25)):
        mine = row("maxmin", seed, 0.8, kl, (0.5, 0.5))  # wins .55 against the reference, KL 0
        mine["against_singles"] = [
            {"kl": 4.0, "wins": {"positive": {"win_rate": 0.35}, "concise": {"win_rate": 0.75}}},
            {"kl": 1.0, "wins": {"positive": {"win_rate": 0.45}, "concise": {"win_rate": 0.65}}},
        ]
        rows.append(mine)
    assert head_to_head(rows[2], "concise") == pytest.approx(0.65)
    assert head_to_head(rows[3], "concise") == pytest.approx(0.70)  # halfway between roots 1 and 2
    assert head_to_head(rows[2] | {"kl": 0.25}, "positive") == pytest.approx(0.5)
    assert head_to_head(rows[2] | {"kl": 4.1}, "positive") is None
    (found,) = matched(rows)
    met = found["head_to_head"]
    assert met["majority"]["mean"] == pytest.approx((0.45 + 0.40) / 2)
    assert met["minority"]["mean"] == pytest.approx(0.675)


def test_people_choose_by_what_their_group_wants(tmp_path: Path) -> None:
    stories = [["Lily was happy and loved it.", "Tom was sad and hurt."]]
    write_comparisons(
        tmp_path / "c.jsonl", ["One day"], stories, groups=("positive", "negative"),
        majority=0.75, users=8, per_user=5, sharpness=50.0, seed=0,
    )  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    groups = np.array([row["group"] for row in rows])
    assert (groups == "positive").sum() == 6 * 5
    for row in rows:
        assert row["chosen"] == stories[0][0 if row["group"] == "positive" else 1]
