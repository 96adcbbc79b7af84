"""What groups make of rewards, before rewards are measured: tables and texts alike."""

from functools import partial
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from paljax.config import parse
from paljax.errors import UserError
from paljax.policy.normalize_rewards import calibrate, of_groups
from paljax.policy.problems import build_problem
from paljax.policy.results import exact_scores, optima
from paljax.policy.text_policy import TextPrompts
from paljax.policy.text_problems import normalised, weighed_by_groups
from tests.kernels import twins

X, Y, BETA = 2, 4, 0.4
# The first reward is ten times the second: measured by itself, it would weigh ten times less.
REWARDS = np.random.default_rng(3).normal(size=(X, Y, 2)) * [10.0, 1.0]
MATRIX = np.array([[1.0, 0.0], [0.3, 0.7], [-0.2, 1.2]])
RAW = np.array([[[sum(MATRIX[g, k] * REWARDS[x, y, k] for k in range(2)) for g in range(3)]
                 for y in range(Y)] for x in range(X)])  # fmt: skip
EVEN = np.full((X, Y), -np.log(Y))
ALIKE = np.full(X, 1 / X)  # prompts
KINDS = ("reference", "regret", "win_rate", "none")
every_kind = pytest.mark.parametrize("kind", KINDS)


def problem_of(kind: str, **changes: Any) -> Any:
    record = {
        "stage": "policy",
        "rewards": {"name": "table", "rewards": REWARDS.tolist()},
        "normalize": kind,
        "groups": {"matrix": MATRIX.tolist()},
        "beta": BETA,
    }
    return build_problem(parse(record | changes, where="here"))


@every_kind
def test_a_table_is_measured_group_by_group(kind: str) -> None:
    tables = problem_of(kind).tables
    expected = twins.normalize(RAW, EVEN, ALIKE, kind=kind, beta=BETA)
    assert_allclose(tables.rewards, expected, rtol=1e-5, atol=1e-5)
    # Every group keeps its own order of the actions, which the other way round would not.
    order = np.argsort(RAW, axis=1)
    assert_array_equal(np.argsort(tables.rewards, axis=1), order)
    if kind in ("reference", "win_rate"):
        other = twins.normalize(REWARDS, EVEN, ALIKE, kind=kind, beta=BETA) @ MATRIX.T
        assert (np.argsort(other, axis=1) != order).any()


def test_a_prompt_of_no_weight_beside_a_table_changes_nothing() -> None:
    raw = REWARDS[:1].tolist()
    alone = problem_of("reference", rewards={"name": "table", "rewards": raw})
    beside = problem_of(
        "reference",
        rewards={
            "name": "table",
            "rewards": raw + REWARDS[1:].tolist(),
            "prompt_weights": [1.0, 0.0],
        },
    )
    assert_allclose(beside.tables.rewards[:1], alone.tables.rewards, rtol=1e-6)


@every_kind
def test_texts_are_measured_as_the_table_is(kind: str) -> None:
    """Each action once is an even reference, sampled; its variance counts n - 1."""

    def in_nats(prompts: Any, tokens: Any, mask: Any) -> Any:
        return jnp.take_along_axis(jnp.asarray(REWARDS, jnp.float32), tokens, axis=1)

    tokens = jnp.tile(jnp.arange(Y)[None, :, None], (X, 1, 1))
    matrix = jnp.asarray(MATRIX, jnp.float32)
    sampled = of_groups(in_nats(None, tokens, None), matrix)
    prompts = TextPrompts(
        cast(Any, None), None, calibrate(sampled, kind=cast(Any, kind), beta=BETA), None
    )
    found = normalised(partial(weighed_by_groups, in_nats, matrix), prompts, tokens, tokens > 0)
    factor = np.sqrt((Y - 1) / Y) if kind == "reference" else 1.0
    assert_allclose(found, factor * problem_of(kind).tables.rewards, rtol=1e-4, atol=1e-5)


@every_kind
def test_a_group_alone_gets_the_policy_that_its_own_rewards_ask_for(kind: str) -> None:
    problem = problem_of(kind, groups={"matrix": MATRIX.tolist(), "shares": [0.2, 0.7, 0.1]})
    policy = optima(problem, BETA, 0.5)["majority"].policy
    assert_array_equal(np.argsort(policy, axis=1), np.argsort(RAW[:, :, 1], axis=1))
    utilities = exact_scores(problem, policy, {}, BETA)["utilities"]
    expected = twins.normalize(RAW, EVEN, ALIKE, kind=kind, beta=BETA)
    for g, name in enumerate(problem.groups.names):
        by_loops = sum(policy[x, y] * expected[x, y, g] for x in range(X) for y in range(Y)) / X
        assert utilities[name] == pytest.approx(by_loops, rel=1e-4, abs=1e-5)


def test_prototypes_as_groups_are_as_they_were_bit_for_bit() -> None:
    for kind in KINDS:
        left, right = (
            problem_of(kind, groups=groups).tables.rewards
            for groups in ({}, {"matrix": [[1.0, 0.0], [0.0, 1.0]]})
        )
        assert_array_equal(left, right)
    raw = jnp.asarray(REWARDS, jnp.float32)
    assert_array_equal(of_groups(raw, jnp.eye(2)), raw)


NOTHING_OF = {
    # Action 2 is forbidden: of what may be said, both rewards together are 1.
    "what may be said": ([[[1, 0], [0, 1], [9, 9]]], {"reference": [[0.5, 0.5, 0.0]]}),
    "prompts that count": (
        [[[1, 0], [0, 1], [3, -2]], [[1, 0], [2, 0], [0, 3]]],
        {"prompt_weights": [1.0, 0.0]},
    ),
    "what float32 tells apart": ([[[1e6 + 0.25, 0], [0, 1e6], [1e6, 0]]], {}),
}


@pytest.mark.parametrize("of", NOTHING_OF)
def test_a_group_is_refused_that_has_no_spread_in(of: str) -> None:
    table, others = NOTHING_OF[of]
    rewards = {"name": "table", "rewards": table} | others
    groups = {"names": ["a", "b"], "matrix": [[1, 0], [1, 1]]}
    with pytest.raises(UserError, match="group 'b': its reward is the same for all responses"):
        problem_of("reference", rewards=rewards, groups=groups)
    problem_of("regret", rewards=rewards, groups=groups)


def test_rewards_that_a_group_makes_nothing_of_are_refused() -> None:
    opposed = np.stack([REWARDS[:, :, 0], -REWARDS[:, :, 0]], axis=2).tolist()
    rewards = {"name": "table", "rewards": opposed}
    groups = {"names": ["torn", "left"], "matrix": [[0.5, 0.5], [1.0, 0.0]]}
    with pytest.raises(UserError, match="group 'torn': its reward is the same for all responses"):
        problem_of("reference", rewards=rewards, groups=groups)
