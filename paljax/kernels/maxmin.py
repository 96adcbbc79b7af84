"""The exact MaxMin policy of a finite problem, by an interior-point method on its dual.

X prompts, Y actions of each, K rewards, G groups. U_k is the expected reward k of a policy, A the
group matrix, q the groups' weights on the simplex Q = {q >= 0, Σ q = 1, q <= cap}:

    max_π min_{q in Q} q·(A U(π)) - β KL(π ‖ π_ref)  =  min_{q in Q} f(q),
    f(q) = β E_x log E_{y ~ π_ref} exp((Aᵀq)·r(x, y) / β).

f is convex and its slope is A U(π_q), π_q ∝ π_ref exp((Aᵀq)·r / β): a certificate costs nothing.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int

from paljax.kernels.maxmin_system import solve_on_plane
from paljax.kernels.weights import worst_case_weights

MAX_STEPS = 300
# What the barrier and, with it, the temperature shrink by once the iterate is centred.
SHRINKAGE = 0.2
# Squared Newton decrement, in units of the barrier, below which an iterate counts as centred.
CENTRED = 0.25
# The part of the way to the boundary that a step may take.
FARTHEST = 0.99
# A step is short enough when the slope at its end is below this part of the slope at its start.
SLOPE_AT_END = 0.1
# Rounding errors, in units of the last place of a score, that a slope may carry.
SLOPE_ROUNDING = 16.0
# Multipliers stay within this factor of what the barrier makes of the weights.
MULTIPLIER_RANGE = 100.0
# Steps without a gap below nine tenths of the best one after which rounding is all that is left.
PATIENCE = 25


class MaxMinSolution(NamedTuple):
    """The optimum of a finite MaxMin problem, and its certificate."""

    q: Float[Array, "G"]  # weights of the groups
    policy: Float[Array, "X Y"]  # probabilities; each row sums to 1
    utilities: Float[Array, "K"]  # expected reward k under the policy
    kl: Float[Array, ""]  # E_x KL(π ‖ π_ref), nats
    value: Float[Array, ""]  # min over Q of q·(A U) - β KL: what the policy is worth
    gap: Float[Array, ""]  # the optimum is between value and value + gap


def maxmin_dual(
    rewards: Float[Array, "X Y K"],
    log_reference: Float[Array, "X Y"],
    prompt_weights: Float[Array, "X"],
    *,
    beta: float | Float[Array, ""],
    group_matrix: Float[Array, "G K"],
    tolerance: float | Float[Array, ""] = 1e-8,
    cap: float | Float[Array, ""] | None = None,
) -> MaxMinSolution:
    """The policy that serves the worst-off group best, with a primal-dual gap that proves it.

    Newton steps on f plus a logarithmic barrier, with the multipliers of primal-dual methods. While
    the barrier is wide the temperature is raised to its width: f with a small β has kinks that a
    barrier must not meet before it has narrowed to them.

    Derivatives of q, policy, utilities, kl and value with respect to all arrays and β, of first
    order, are those of the exact optimum (implicit function theorem); those with respect to the cap
    and of the gap are not defined. A problem with several optimal q has no derivative of q.

    Args:
        rewards: r_k(x, y), any unit. Where the reference or the prompt's weight is 0 they are not
            read and may be NaN.
        log_reference: Log of the reference policy, each row normalised; -inf forbids an action.
        prompt_weights: Distribution of the prompts, >= 0, summing to 1. A prompt of weight 0 keeps
            the reference policy.
        beta: β > 0, in the unit of the rewards.
        group_matrix: A; row g says how group g values the K rewards.
        tolerance: Gap at which to stop, in the unit of the rewards. What rounding puts out of reach
            (1e-6 of the rewards' range in float32) is not waited for.
        cap: Largest weight of a group, 1 / (αG) for CVaR_α; None for none. 1 / G leaves the mean.

    Returns:
        The solution in the dtype of the rewards. `value` is attained by `policy`; `gap` is the gap
        reached.

    Raises:
        ValueError: If the shapes don't fit each other, or the cap is a number below 1 / G.

    Source:
        MaxMin-RLHF, arXiv 2402.08925, equation 7; dual: paljax's design, section 2.5. Steps:
        Boyd and Vandenberghe (2004), section 11.7.

    Example:
        >>> rewards = jnp.array([[[1.0, 0.0], [0.0, 1.0], [0.4, 0.4]]])
        >>> solution = maxmin_dual(
        ...     rewards, jnp.log(jnp.ones((1, 3)) / 3), jnp.ones(1),
        ...     beta=0.1, group_matrix=jnp.eye(2), tolerance=1e-5,
        ... )
        >>> print(f"{solution.value:.4f}", *(f"{p:.4f}" for p in solution.policy[0]))
        0.4763 0.4223 0.4223 0.1554
    """
    rewards, log_reference = jnp.asarray(rewards), jnp.asarray(log_reference)
    prompt_weights, group_matrix = jnp.asarray(prompt_weights), jnp.asarray(group_matrix)
    _check_shapes(rewards, log_reference, prompt_weights, group_matrix, cap)
    returned = rewards.dtype
    compute = jnp.float64 if returned == jnp.float64 else jnp.float32
    problem = _problem(
        rewards.astype(compute),
        log_reference.astype(compute),
        prompt_weights.astype(compute),
        group_matrix.astype(compute),
        beta,
        cap,
    )
    fixed = lax.stop_gradient(problem)
    end = _minimize(fixed, jnp.asarray(tolerance, compute) / problem.unit)
    q = _differentiable(problem, fixed, end)
    solution = _solution(problem, q)
    return MaxMinSolution(*(leaf.astype(returned) for leaf in solution))


class _Problem(NamedTuple):
    """A problem in units in which A r has a range of at most 1."""

    rewards: Float[Array, "X Y K"]
    log_reference: Float[Array, "X Y"]
    prompt_weights: Float[Array, "X"]
    group_matrix: Float[Array, "G K"]
    beta: Float[Array, ""]
    cap: Float[Array, ""]  # 2 where there is none: a weight of 1 then is no boundary
    unit: Float[Array, ""]  # of the rewards


class _Point(NamedTuple):
    """Weights with their multipliers, all inside."""

    q: Float[Array, "G"]
    floor: Float[Array, "G"]  # multipliers of q >= 0
    ceiling: Float[Array, "G"]  # multipliers of q <= cap


class _State(NamedTuple):
    """The iteration."""

    point: _Point
    barrier: Float[Array, ""]  # μ
    best: _Point  # the one with the least gap
    gap: Float[Array, ""]  # of `best`
    waited: Int[Array, ""]  # steps since the gap last fell
    steps: Int[Array, ""]


class _Tilted(NamedTuple):
    """The policy at some weights, and what it is worth."""

    policy: Float[Array, "X Y"]
    log_normalizer: Float[Array, "X"]
    utilities: Float[Array, "K"]


def _problem(
    rewards: Array,
    log_reference: Array,
    prompt_weights: Array,
    group_matrix: Array,
    beta: ArrayLike,
    cap: ArrayLike | None,
) -> _Problem:
    dtype = rewards.dtype
    read = (prompt_weights[:, None] > 0) & (log_reference > -jnp.inf)
    rewards = jnp.where(read[:, :, None], rewards, 0)
    highest = jnp.max(jnp.where(read[:, :, None], rewards, -jnp.inf))
    lowest = jnp.min(jnp.where(read[:, :, None], rewards, jnp.inf))
    largest_row = jnp.max(jnp.sum(jnp.abs(group_matrix), axis=1))
    unit = (highest - lowest) * largest_row
    unit = lax.stop_gradient(jnp.where(unit > 0, unit, 1))
    return _Problem(
        rewards=rewards / unit,
        log_reference=log_reference,
        prompt_weights=prompt_weights,
        group_matrix=group_matrix,
        beta=jnp.asarray(beta, dtype) / unit,
        cap=jnp.asarray(2 if cap is None else cap, dtype),
        unit=unit,
    )


def _tilted(problem: _Problem, q: Float[Array, "G"], beta: Float[Array, ""]) -> _Tilted:
    """π ∝ π_ref exp((Aᵀq)·r / β)."""
    scores = problem.log_reference + problem.rewards @ (q @ problem.group_matrix) / beta
    log_normalizer = jax.nn.logsumexp(scores, axis=1)
    policy = jnp.exp(scores - log_normalizer[:, None])
    by_prompt = jnp.einsum("xy,xyk->xk", policy, problem.rewards)
    return _Tilted(policy, log_normalizer, problem.prompt_weights @ by_prompt)


def _curvature(problem: _Problem, policy: Float[Array, "X Y"], beta: Array) -> Float[Array, "K K"]:
    """Second derivative of f in λ = Aᵀq: the rewards' covariance within prompts, over β."""
    mean = jnp.einsum("xy,xyk->xk", policy, problem.rewards)
    share = jnp.sqrt(problem.prompt_weights[:, None] * policy)
    rows = share[:, :, None] * (problem.rewards - mean[:, None, :])
    rows = rows.reshape(-1, rows.shape[2])
    return rows.T @ rows / beta


def _minimize(problem: _Problem, tolerance: Float[Array, ""]) -> _Point:
    """Weights in Q whose gap is at most the tolerance, or as near as rounding lets them be."""
    dtype, num_groups = problem.rewards.dtype, problem.group_matrix.shape[0]
    # At cap = 1 / G the simplex is a point, which has no inside: solved without, replaced below.
    is_point = problem.cap * num_groups <= 1 + 16 * _eps(dtype)
    problem = problem._replace(cap=jnp.where(is_point, 2, problem.cap))
    narrowest = jnp.maximum(tolerance, _eps(dtype)) / (10 * num_groups)

    def unfinished(state: _State) -> Array:
        waiting = (state.waited < PATIENCE) & (state.steps < MAX_STEPS)
        return (state.gap > tolerance) & waiting & ~is_point

    def step(state: _State) -> _State:
        point, barrier = state.point, state.barrier
        beta = jnp.maximum(problem.beta, barrier * num_groups)
        tilted = _tilted(problem, point.q, beta)
        slope = problem.group_matrix @ tilted.utilities
        gap = jnp.where(beta > problem.beta, jnp.inf, _gap(point.q, slope, problem.cap))
        better = gap < state.gap
        room = problem.cap - point.q
        residual = slope - barrier / point.q + barrier / room
        curvature = _curvature(problem, tilted.policy, beta)
        direction = -solve_on_plane(
            problem.group_matrix, curvature, _diagonal(problem, point), residual
        )
        descent = residual @ direction
        moved = _moved(problem, point, direction, descent, barrier, beta)
        centred = -descent <= CENTRED * barrier
        return _State(
            point=moved,
            barrier=jnp.where(centred, jnp.maximum(SHRINKAGE * barrier, narrowest), barrier),
            best=jax.tree.map(lambda new, old: jnp.where(better, new, old), point, state.best),
            gap=jnp.where(better, gap, state.gap),
            waited=jnp.where(
                (gap > 0.9 * state.gap) & jnp.isfinite(state.gap), state.waited + 1, 0
            ),
            steps=state.steps + 1,
        )

    even = jnp.full(num_groups, 1 / num_groups, dtype)
    barrier = jnp.asarray(1 / num_groups, dtype)
    start = _Point(even, barrier / even, barrier / (problem.cap - even))
    zero = jnp.zeros((), jnp.int32)
    infinite = jnp.full((), jnp.inf, dtype)
    final = lax.while_loop(unfinished, step, _State(start, barrier, start, infinite, zero, zero))
    best: _Point = jax.tree.map(lambda a, b: jnp.where(is_point, a, b), start, final.best)
    return best


def _gap(q: Float[Array, "G"], slope: Float[Array, "G"], cap: Array) -> Float[Array, ""]:
    """The Frank-Wolfe gap, which is f(q) minus what π_q is worth. Differences, then products."""
    level = jnp.min(slope)
    return (q - worst_case_weights(slope, cap=cap)) @ (slope - level)


def _diagonal(problem: _Problem, point: _Point) -> Float[Array, "G"]:
    """What the constraints add to the curvature: next to nothing where they don't bind."""
    return point.floor / point.q + point.ceiling / (problem.cap - point.q)


def _moved(
    problem: _Problem,
    point: _Point,
    direction: Float[Array, "G"],
    descent: Float[Array, ""],
    barrier: Float[Array, ""],
    beta: Float[Array, ""],
) -> _Point:
    """A step that stays inside and ends before f plus the barrier rises again."""
    q, room = point.q, problem.cap - point.q
    floor_step = barrier / q - point.floor - point.floor / q * direction
    ceiling_step = barrier / room - point.ceiling + point.ceiling / room * direction
    scores = problem.log_reference + problem.rewards @ (q @ problem.group_matrix) / beta
    change = problem.rewards @ (direction @ problem.group_matrix)

    # Scores are as large as 1 / β in these units; what rounding them does to a slope is no rise.
    eps = _eps(q.dtype)
    rounding = SLOPE_ROUNDING * eps * (1 + 1 / beta) * jnp.sum(jnp.abs(direction))

    def too_long(length: Array) -> Array:
        policy = jax.nn.softmax(scores + length * change / beta, axis=1)
        slope = problem.prompt_weights @ jnp.sum(policy * change, axis=1)
        slope += barrier * jnp.sum(
            direction / (room - length * direction) - direction / (q + length * direction)
        )
        return (slope > SLOPE_AT_END * -descent + rounding) & (length > eps)

    longest = jnp.minimum(_room_for(q, direction), _room_for(room, -direction))
    length = lax.while_loop(too_long, lambda length: length / 2, longest)
    q = q + length * direction
    q = q / jnp.sum(q)
    room = problem.cap - q
    floor = point.floor + _room_for(point.floor, floor_step) * floor_step
    ceiling = point.ceiling + _room_for(point.ceiling, ceiling_step) * ceiling_step
    return _Point(q, _bounded(floor, barrier / q), _bounded(ceiling, barrier / room))


def _room_for(values: Float[Array, "G"], change: Float[Array, "G"]) -> Float[Array, ""]:
    """The step, at most 1, that keeps positive numbers positive."""
    shrinkage = jnp.max(-change / values)
    return jnp.where(shrinkage > FARTHEST, FARTHEST / jnp.maximum(shrinkage, FARTHEST), 1)


def _bounded(multipliers: Float[Array, "G"], central: Float[Array, "G"]) -> Float[Array, "G"]:
    return jnp.clip(multipliers, central / MULTIPLIER_RANGE, central * MULTIPLIER_RANGE)


def _differentiable(problem: _Problem, fixed: _Problem, end: _Point) -> Float[Array, "G"]:
    """The weights, moving with the problem as the optimum does.

    A change of the problem changes the slope of f at the weights; a Newton step answers it.
    """

    def slope(at: _Problem) -> Float[Array, "G"]:
        return at.group_matrix @ _tilted(at, end.q, at.beta).utilities

    policy = _tilted(fixed, end.q, fixed.beta).policy
    curvature = _curvature(fixed, policy, fixed.beta)
    change = slope(problem) - lax.stop_gradient(slope(fixed))
    is_point = fixed.cap * len(end.q) <= 1 + 16 * _eps(end.q.dtype)
    diagonal = _diagonal(fixed._replace(cap=jnp.where(is_point, 2, fixed.cap)), end)
    step = solve_on_plane(fixed.group_matrix, curvature, diagonal, change)
    return end.q - jnp.where(is_point, 0, step)


def _solution(problem: _Problem, q: Float[Array, "G"]) -> MaxMinSolution:
    tilted = _tilted(problem, q, problem.beta)
    dual = problem.beta * (problem.prompt_weights @ tilted.log_normalizer)
    slope = problem.group_matrix @ tilted.utilities
    kl = (q @ slope - dual) / problem.beta
    gap = lax.stop_gradient(_gap(q, slope, problem.cap))
    # The dual's derivative is the optimum's; that of a minimum over groups would be of one group.
    value = dual - gap
    return MaxMinSolution(
        q=q,
        policy=tilted.policy,
        utilities=tilted.utilities * problem.unit,
        kl=jnp.maximum(kl, 0),
        value=value * problem.unit,
        gap=gap * problem.unit,
    )


def _eps(dtype: Any) -> float:
    return float(np.finfo(dtype).eps)


def _check_shapes(
    rewards: Array,
    log_reference: Array,
    prompt_weights: Array,
    group_matrix: Array,
    cap: ArrayLike | None,
) -> None:
    if rewards.ndim != 3 or 0 in rewards.shape:
        raise ValueError(f"rewards {rewards.shape} must be [X, Y, K], no axis empty")
    if log_reference.shape != rewards.shape[:2]:
        raise ValueError(f"log_reference {log_reference.shape} must be [X, Y] of {rewards.shape}")
    if prompt_weights.shape != rewards.shape[:1]:
        raise ValueError(f"prompt_weights {prompt_weights.shape} must be [X] of {rewards.shape}")
    if group_matrix.ndim != 2 or group_matrix.shape[1] != rewards.shape[2]:
        raise ValueError(f"group_matrix {group_matrix.shape} must be [G, K], K of {rewards.shape}")
    is_number = isinstance(cap, (int, float))
    if is_number and cap * len(group_matrix) < 1 - 1e-9:  # type: ignore[operator]
        raise ValueError(
            f"cap {cap:g}: {len(group_matrix)} weights of at most that can't sum to 1; "
            f"wanted at least {1 / len(group_matrix):g}"
        )
