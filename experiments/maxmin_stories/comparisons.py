"""Simulated people of `maxmin_stories`: two groups that compare stories by what they truly want.

A majority and a minority, each with a function of texts that it wants more of; all choose by
Bradley-Terry. U users, C comparisons of each.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from paljax.text_functions import TEXT_FUNCTIONS


def write_comparisons(
    path: Path,
    prompts: Sequence[str],
    stories: Sequence[Sequence[str]],
    *,
    groups: tuple[str, str],
    majority: float,
    users: int,
    per_user: int,
    sharpness: float,
    seed: int,
) -> None:
    """Write comparisons of pairs of stories that go on from one prompt.

    Args:
        path: A .jsonl file.
        prompts: X prompts.
        stories: Of each prompt, at least two different ones.
        groups: What the majority and the minority want, each a name of `TEXT_FUNCTIONS`.
        majority: Share of the users who are of the majority.
        users: U.
        per_user: C.
        sharpness: Nats of a reward for a standard deviation of it over all stories.
        seed: Of users, pairs and choices.
    """
    random = np.random.default_rng(seed)
    distinct = [sorted({story for story in of_prompt if story.strip()}) for of_prompt in stories]
    usable = [place for place, of_prompt in enumerate(distinct) if len(of_prompt) > 1]
    every = [story for of_prompt in distinct for story in of_prompt]
    rewards = {
        group: dict(zip(every, sharpness * values / values.std(), strict=True))
        for group in groups
        for values in [TEXT_FUNCTIONS[group](every)]
    }
    count = round(majority * users)
    rows = []
    for user in range(users):
        group = groups[0] if user < count else groups[1]
        for _ in range(per_user):
            place = random.choice(usable)
            left, right = random.choice(distinct[place], 2, replace=False)
            margin = float(rewards[group][left] - rewards[group][right])
            if random.random() >= 1 / (1 + np.exp(-margin)):
                left, right = right, left
            row = {"user_id": f"user {user}", "group": group, "prompt": prompts[place]}
            rows.append(row | {"chosen": str(left), "rejected": str(right)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
