"""The exact MaxMin policy against the design's cases, scipy on the primal, and its own algebra."""

import itertools
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.test_util import check_grads
from numpy.testing import assert_allclose, assert_array_equal

from paljax.kernels import MaxMinSolution, maxmin_dual
from tests.kernels import twins


class Problem(NamedTuple):
    rewards: np.ndarray  # [X, Y, K]
    log_reference: np.ndarray  # [X, Y]
    prompt_weights: np.ndarray  # [X]
    beta: float
    group_matrix: np.ndarray  # [G, K]
    cap: float = 1.0


def one_prompt(rewards: Any, reference: Any, beta: float) -> Problem:
    rewards = np.array(rewards, float)[None]
    return Problem(rewards, np.log([reference]), np.ones(1), beta, np.eye(rewards.shape[2]))


CASE_A = one_prompt([[1, 0], [0, 1], [0.4, 0.4]], np.full(3, 1 / 3), 0.1)
CASE_B = one_prompt(
    [[1, -0.5, 0.3], [-0.6, 1.2, 0.2], [0.4, 0.5, 0.9], [0.1, 0, -0.4], [0.7, -0.1, 1.5]],
    [0.10, 0.15, 0.20, 0.40, 0.15],
    0.5,
)


def case_d() -> Problem:
    """Sequences over {a, b, end} of at most 4 tokens; the last may be any."""
    texts = [
        (*letters, end)
        for length in range(4)
        for letters in itertools.product("ab", repeat=length)
        for end in ("." if length < 3 else ".ab")
    ]
    rewards = [[text.count("a"), 2 - 0.5 * (len(text) - 1)] for text in texts]
    return one_prompt(rewards, [3.0 ** -len(text) for text in texts], 0.5)


def random_problem(seed: int) -> Problem:
    """Unequal axes; forbidden actions, prompts of weight 0, many groups and caps among them."""
    random = np.random.default_rng(seed)
    X, Y, K, G = [(1, 6, 3, 3), (2, 5, 3, 4), (3, 4, 2, 7), (2, 3, 4, 40)][seed % 4]
    reference = random.dirichlet(np.ones(Y), X)
    if seed % 3 == 1:
        reference[0, 1] = 0
        reference[0] /= reference[0].sum()
    prompt_weights = random.dirichlet(np.ones(X))
    if seed % 5 == 2 and X > 1:
        prompt_weights[1] = 0
        prompt_weights /= prompt_weights.sum()
    with np.errstate(divide="ignore"):
        log_reference = np.log(reference)
    return Problem(
        rewards=random.normal(size=(X, Y, K)),
        log_reference=log_reference,
        prompt_weights=prompt_weights,
        beta=float(random.choice([0.1, 0.3, 1.0, 5.0])),
        group_matrix=np.eye(K) if G == K else random.dirichlet(np.ones(K), G),
        cap=1.0 if seed % 2 else 1 / (0.6 * G),
    )


def solved(problem: Problem, tolerance: float = 1e-9, **changes: Any) -> MaxMinSolution:
    given = problem._replace(**changes)
    arrays = (given.rewards, given.log_reference, given.prompt_weights, given.group_matrix)
    return MaxMinSolution(*map(np.asarray, _solve(*arrays, given.beta, given.cap, tolerance)))


@jax.jit
def _solve(
    rewards: Any, log_reference: Any, prompt_weights: Any, group_matrix: Any,
    beta: Any, cap: Any, tolerance: Any,
) -> MaxMinSolution:  # fmt: skip
    settings = {"beta": beta, "group_matrix": group_matrix, "cap": cap, "tolerance": tolerance}
    return maxmin_dual(rewards, log_reference, prompt_weights, **settings)


def primal(problem: Problem) -> float:
    """max t - β KL by scipy over policies, t, and, under a cap, the groups' shortfalls."""
    allowed = np.isfinite(problem.log_reference) & (problem.prompt_weights[:, None] > 0)
    prompt = np.nonzero(allowed)[0]
    rewards, log_reference = problem.rewards[allowed], problem.log_reference[allowed]
    share = problem.prompt_weights[prompt]
    num_groups, size = len(problem.group_matrix), len(prompt)
    of_groups = (share[:, None] * rewards) @ problem.group_matrix.T

    def split(point: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
        return point[:size], point[size], point[size + 1 :]

    def loss(point: np.ndarray) -> float:
        policy, level, shortfalls = split(point)
        kl = share @ (policy * (np.log(np.maximum(policy, 1e-300)) - log_reference))
        return float(problem.beta * kl - level + problem.cap * shortfalls.sum())

    def slope(point: np.ndarray) -> np.ndarray:
        policy = split(point)[0]
        inner = problem.beta * share * (np.log(np.maximum(policy, 1e-300)) - log_reference + 1)
        return np.concatenate([inner, [-1], np.full(num_groups, problem.cap)])

    rows = (prompt == np.unique(prompt)[:, None]).astype(float)
    sums = np.hstack([rows, np.zeros((len(rows), 1 + num_groups))])
    served = np.hstack([of_groups.T, -np.ones((num_groups, 1)), np.eye(num_groups)])
    policy = np.exp(log_reference)
    level = (of_groups.T @ policy).min()
    result = scipy.optimize.minimize(
        loss, np.concatenate([policy, [level], np.zeros(num_groups)]), jac=slope, method="SLSQP",
        bounds=[(1e-14, 1)] * size + [(None, None)] + [(0, None)] * num_groups,
        constraints=[
            {"type": "eq", "fun": lambda x: sums @ x - 1, "jac": lambda x: sums},
            {"type": "ineq", "fun": lambda x: served @ x, "jac": lambda x: served},
        ],
        options={"ftol": 1e-13, "maxiter": 1000},
    )  # fmt: skip
    assert result.success, result.message
    return -float(result.fun)


def rounded(numbers: Any) -> list[float]:
    return [float(np.round(number, 6)) + 0.0 for number in np.ravel(numbers)]


def test_case_a_of_the_design(x64: None) -> None:
    solution = solved(CASE_A)
    assert rounded(solution.q) == [0.5, 0.5]
    assert rounded(solution.policy) == [0.422319, 0.422319, 0.155362]
    assert rounded(solution.value) == [0.476338]
    value = partial(
        twins.policy_value, rewards=CASE_A.rewards, log_reference=CASE_A.log_reference,
        prompt_weights=CASE_A.prompt_weights, beta=0.1, group_matrix=np.eye(2),
    )  # fmt: skip
    worst_sample = CASE_A.rewards.min(axis=2)[..., None]
    policy, _ = twins.tilted_policy(worst_sample, CASE_A.log_reference, [1.0], 0.1)
    assert rounded(value(policy)) == [0.311405]
    policy, _ = twins.tilted_policy(CASE_A.rewards, CASE_A.log_reference, [0.8, 0.2], 0.1)
    assert rounded(value(policy)) == [-0.089564]


def test_case_b_of_the_design(x64: None) -> None:
    solution = solved(CASE_B)
    assert rounded(solution.q) == [0.510827, 0.489173, 0]
    assert rounded(solution.utilities) == [0.272256, 0.272256, 0.477381]
    assert rounded([solution.kl, solution.value]) == [0.046673, 0.248919]


def test_case_d_of_the_design(x64: None) -> None:
    solution = solved(case_d())
    assert rounded(solution.q) == [0.427818, 0.572182]
    assert rounded(solution.utilities) == [1.246576, 1.246576]
    assert rounded([solution.kl, solution.value]) == [0.165111, 1.164021]


@pytest.mark.parametrize("seed", range(14))
def test_the_value_is_that_of_the_primal(seed: int, x64: None) -> None:
    problem = random_problem(seed)
    solution = solved(problem, 1e-8)
    assert -1e-12 <= solution.gap <= 1e-8
    assert_allclose(solution.value, primal(problem), atol=2e-7)
    # And the certificate is what it says, by definitions in loops.
    value = twins.policy_value(
        solution.policy, *problem[:3],
        beta=problem.beta, group_matrix=problem.group_matrix, cap=problem.cap,
    )  # fmt: skip
    assert_allclose(solution.value, value, atol=1e-11)
    assert_allclose(
        solution.utilities,
        twins.expected_rewards(solution.policy, problem.rewards, problem.prompt_weights),
        atol=1e-12,
    )
    kl = twins.policy_kl(solution.policy, problem.log_reference, problem.prompt_weights)
    assert_allclose(solution.kl, kl, atol=1e-11)
    assert_allclose(solution.policy.sum(axis=1), 1, atol=1e-12)
    assert_allclose(solution.q.sum(), 1, atol=1e-12)
    assert solution.q.min() >= 0
    assert solution.q.max() <= problem.cap + 1e-12


@pytest.mark.parametrize("seed", [1, 2])
def test_equals_its_twin(seed: int, x64: None) -> None:
    problem = random_problem(seed)
    weights = np.arange(1.0, 1 + len(problem.rewards)) / sum(range(1 + len(problem.rewards)))
    problem = problem._replace(prompt_weights=weights, beta=1.0)
    expected = twins.maxmin_dual(
        *problem[:3], beta=1.0, group_matrix=problem.group_matrix, cap=problem.cap
    )
    solution = solved(problem)
    for found, wanted in zip(solution[1:5], expected[1:5], strict=True):
        assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize("beta", [1e-4, 1e-2, 1.0, 1e3])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_the_gap_closes_whatever_the_temperature_and_the_unit(
    beta: float, scale: float, x64: None
) -> None:
    random = np.random.default_rng(5)
    many_users = random.dirichlet(np.full(3, 0.5), 3000)
    problem = Problem(
        rewards=scale * random.normal(size=(3, 6, 3)),
        log_reference=np.log(random.dirichlet(np.ones(6), 3)),
        prompt_weights=random.dirichlet(np.ones(3)),
        beta=beta * scale,
        group_matrix=many_users,
        cap=10 / 3000,
    )
    for given in (problem, problem._replace(cap=1.0)):
        assert abs(solved(given, 1e-8 * scale).gap) <= 1e-8 * scale


def test_float32_comes_as_near_as_rounding_lets_it() -> None:
    problem = random_problem(3)
    arrays = [jnp.asarray(array, jnp.float32) for array in problem[:3]]
    matrix = jnp.asarray(problem.group_matrix, jnp.float32)
    solution = maxmin_dual(*arrays, beta=problem.beta, group_matrix=matrix, tolerance=1e-8)
    assert solution.value.dtype == jnp.float32
    assert abs(solution.gap) < 1e-5
    with jax.enable_x64(True):
        assert_allclose(solution.value, solved(problem).value, atol=1e-5)
        assert_allclose(solution.policy, solved(problem).policy, atol=2e-3)


def test_the_caps_between_worst_group_and_mean(x64: None) -> None:
    problem = random_problem(1)
    G = len(problem.group_matrix)
    values = [solved(problem, cap=1 / (alpha * G)).value for alpha in (1 / G, 0.5, 0.8, 1.0)]
    assert_array_equal(np.sort(values), values)
    assert_allclose(values[0], solved(problem, cap=2.0).value, atol=1e-8)
    mean = solved(problem, cap=1 / G)
    assert_array_equal(mean.q, np.full(G, 1 / G))
    assert_allclose(solved(problem, cap=1.000001 / G).value, mean.value, atol=1e-5)


def test_groups_prompts_and_constants(x64: None) -> None:
    problem = random_problem(1)
    solution = solved(problem)
    order = np.array([2, 0, 3, 1])
    assert_allclose(
        solved(problem, group_matrix=problem.group_matrix[order]).q, solution.q[order], atol=1e-6
    )
    # All rewards of a prompt up by a constant: everyone gains, no choice changes.
    shifted = solved(problem, rewards=problem.rewards + np.array([3.0, 0])[:, None, None])
    assert_allclose(shifted.value, solution.value + 3 * problem.prompt_weights[0], atol=1e-8)
    assert_allclose(shifted.policy, solution.policy, atol=1e-6)
    doubled = solved(problem, rewards=2 * problem.rewards, beta=2 * problem.beta)
    assert_allclose(doubled.policy, solution.policy, atol=1e-6)
    # A group twice is that group.
    twice = np.vstack([problem.group_matrix, problem.group_matrix[:1]])
    assert_allclose(solved(problem, group_matrix=twice).value, solution.value, atol=1e-8)


def test_what_has_no_probability_is_not_read(x64: None) -> None:
    problem = random_problem(2)  # prompt 1 has weight 0
    rewards = problem.rewards.copy()
    rewards[1] = np.nan
    forbidden = problem.log_reference.copy()
    forbidden[0, 2] = -np.inf
    rewards[0, 2] = np.nan
    solution = solved(problem, rewards=rewards, log_reference=forbidden)
    assert all(np.isfinite(part).all() for part in solution)
    assert solution.policy[0, 2] == 0
    assert_allclose(solution.policy[1], np.exp(problem.log_reference[1]))


@pytest.mark.parametrize("rewards", [np.zeros((2, 3, 2)), np.ones((2, 3, 2)) * np.array([1.0, 2])])
def test_rewards_that_tell_no_actions_apart_keep_the_reference(
    rewards: np.ndarray, x64: None
) -> None:
    log_reference = np.log([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    problem = Problem(rewards, log_reference, np.array([0.4, 0.6]), 0.5, np.eye(2))
    solution = solved(problem)
    assert_allclose(solution.policy, np.exp(log_reference), atol=1e-12)
    assert_allclose(solution.value, rewards.min(), atol=1e-8)
    assert solution.gap <= 1e-8


def test_one_group_needs_no_fairness(x64: None) -> None:
    problem = random_problem(0)._replace(group_matrix=np.array([[0.2, 0.5, 0.3]]), cap=1.0)
    solution = solved(problem)
    policy, _ = twins.tilted_policy(
        problem.rewards, problem.log_reference, [0.2, 0.5, 0.3], problem.beta
    )
    assert_allclose(solution.policy, policy, atol=1e-12)
    assert_array_equal(solution.q, [1])


def test_vmap_equals_a_loop(x64: None) -> None:
    problem = random_problem(1)
    betas = np.array([0.1, 1.0, 10.0])
    together = jax.vmap(
        lambda beta: maxmin_dual(
            *map(jnp.asarray, problem[:3]),
            beta=beta, group_matrix=jnp.asarray(problem.group_matrix), tolerance=1e-9,
        )
    )(jnp.asarray(betas))  # fmt: skip
    for place, beta in enumerate(betas):
        alone = solved(problem, beta=beta)
        assert_allclose(together.value[place], alone.value, atol=1e-10)
        assert_allclose(together.policy[place], alone.policy, atol=1e-8)


@pytest.mark.parametrize("cap", [1.0, 0.5])
def test_gradients_are_those_of_the_optimum(cap: float, x64: None) -> None:
    problem = random_problem(4)  # as many groups as rewards: only one q is best

    def outcome(rewards: Any, log_reference: Any, weights: Any, matrix: Any, beta: Any) -> Any:
        solution = maxmin_dual(
            rewards, jax.nn.log_softmax(log_reference, axis=1), weights,
            beta=beta, group_matrix=matrix, tolerance=1e-13, cap=cap,
        )  # fmt: skip
        return solution.q, solution.policy, solution.utilities, solution.kl, solution.value

    log_reference = np.where(np.isfinite(problem.log_reference), problem.log_reference, -2.0)
    arguments = (problem.rewards, log_reference, problem.prompt_weights, problem.group_matrix)
    jitted = jax.jit(outcome)
    check_grads(
        jitted, (*map(jnp.asarray, arguments), jnp.asarray(0.3)), order=1, modes=("rev",),
        atol=1e-4, rtol=1e-4, eps=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": jnp.zeros((2, 3))}, r"rewards \(2, 3\) must be \[X, Y, K\]"),
        ({"log_reference": jnp.zeros((3, 2))}, r"log_reference \(3, 2\) must be \[X, Y\]"),
        ({"prompt_weights": jnp.zeros(3)}, r"prompt_weights \(3,\) must be \[X\]"),
        ({"group_matrix": jnp.zeros((4, 3))}, r"group_matrix \(4, 3\) must be \[G, K\]"),
        ({"cap": 0.4}, r"cap 0\.4: 2 weights .* at least 0\.5"),
    ],
)
def test_refuses_what_does_not_fit(change: dict[str, Any], message: str) -> None:
    given = {
        "rewards": jnp.zeros((2, 3, 2)), "log_reference": jnp.zeros((2, 3)),
        "prompt_weights": jnp.ones(2) / 2, "beta": 1.0, "group_matrix": jnp.eye(2),
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        maxmin_dual(**(given | change))
