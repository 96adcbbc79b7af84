"""Users built from personas: who prefers what, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from paljax.data.builders import load
from paljax.data.dataset import Dataset
from paljax.data.personas import PERSONAS, upstream_file
from paljax.errors import UserError

CHOSEN = ("agreeableness", "psychopathy", "interest-in-art")  # the first two share statements
SIZES = {"personas": CHOSEN, "users_per_persona": 4, "judgements_per_user": 90}


@pytest.fixture(scope="module")
def answers(upstream_copy: Callable[[object], Path]) -> dict[str, dict[str, bool]]:
    """By persona: whether who has it would say the statement."""
    held = {}
    for persona in CHOSEN:
        lines = upstream_copy(upstream_file(persona)).read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        assert len(records) == 1000
        held[persona] = {
            record["statement"]: record["answer_matching_behavior"] == " Yes" for record in records
        }
    return held


@pytest.fixture(scope="module", params=["statement_pair", "yes_no"])
def build(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def data(build: str, answers: dict, data_dir: Path) -> Dataset:
    return load("personas", data_dir=data_dir, build=build, **SIZES)


def of(answers: dict, text: str) -> str:
    """The one persona that has a statement."""
    (persona,) = [name for name, held in answers.items() if text in held]
    return persona


def test_users_judge_as_their_persona(data: Dataset, build: str, answers: dict):
    assert len(data.users) == 12
    groups = set()
    if build == "statement_pair":
        rows = data.comparisons
        for chosen, rejected, group in zip(rows.chosen, rows.rejected, data.group, strict=True):
            better, worse = data.items[chosen], data.items[rejected]
            assert answers[group][better]
            assert of(answers, better) == group != of(answers, worse)
            assert answers[of(answers, worse)][worse]
            groups.add((group, of(answers, worse)))
        assert len(groups) == 6  # everybody meets the statements of both others
        assert np.bincount(rows.user).tolist() == [90] * 12
    else:
        votes = data.votes
        for item, value, group in zip(votes.item, votes.value, votes.group, strict=True):
            text = data.items[item]
            persona = of(answers, text)
            assert (value == 1) == (answers[persona][text] == (persona == group))
            groups.add((group, persona, value))
        assert len(groups) == 18  # everybody agrees and disagrees about everything
        assert np.bincount(votes.user).tolist() == [90] * 12


def test_no_user_meets_a_statement_twice(data: Dataset, build: str):
    judged = data.votes if build == "yes_no" else data.comparisons
    sides = [judged.item] if build == "yes_no" else [judged.chosen, judged.rejected]
    for user in range(12):
        shown = np.concatenate([side[judged.user == user] for side in sides])
        assert len(set(shown)) == len(shown)


@pytest.mark.usefixtures("answers")
def test_the_seed_decides(build: str, data: Dataset, data_dir: Path):
    other = load("personas", data_dir=data_dir, build=build, **SIZES, seed=1)
    assert other.items != data.items


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"build": "own_persona"},
            "build 'own_persona' is refused: .* 98 to 99.7 %; choose",
        ),
        ({"build": "pairs"}, "build 'pairs' is unknown: choose one of 'statement_pair', 'yes_no'"),
        ({"personas": ("opennes", "extraversion")}, "persona 'opennes' .*did you mean 'openness'"),
        ({"personas": ("openness",)}, "are not two or more that differ"),
        ({"personas": ("openness", "openness")}, "are not two or more that differ"),
        ({"users_per_persona": 0}, "users_per_persona is 0, wanted a whole number from 1"),
    ],
)
def test_wrong_options_are_named(options: dict, line: str):
    with pytest.raises(UserError, match=line) as caught:
        load("personas", **options)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("answers")
def test_more_judgements_than_statements_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"judgements_per_user 600 would show .*at most 4"):
        load("personas", data_dir=tmp_path, **SIZES | {"judgements_per_user": 600})


def test_every_persona_is_pinned_and_there(upstream_copy: Callable[[object], Path]):
    assert len(PERSONAS) == 23
    for persona in PERSONAS:
        upstream_copy(upstream_file(persona))
