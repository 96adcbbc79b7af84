"""The equations once more, in NumPy float64 and plain loops over single examples.

Every function is written from its equation in DESIGN.md and shares no code with paljax, so that a
mistake made while vectorising cannot be made twice. Slow on purpose. Axis letters are those of
paljax.kernels: B comparisons, U users, G groups, K prototypes, N items, d latent width; n
comparisons of one user or responses of one prompt.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def inner(a: Sequence[float] | Array, b: Sequence[float] | Array) -> float:
    assert len(a) == len(b)
    return math.fsum(float(a[i]) * float(b[i]) for i in range(len(a)))


def log_sum_exp(values: Sequence[float]) -> float:
    largest = max(values)
    if largest == -math.inf:
        return -math.inf
    return largest + math.log(math.fsum(math.exp(value - largest) for value in values))


def sigmoid(margin: float) -> float:
    if margin >= 0:
        return 1 / (1 + math.exp(-margin))
    return math.exp(margin) / (1 + math.exp(margin))


def log_sigmoid(margin: float) -> float:
    if margin >= 0:
        return -math.log1p(math.exp(-margin))
    return margin - math.log1p(math.exp(margin))


# --- public kernels ---------------------------------------------------------------------------


def squared_distances(items: Array, points: Array) -> Array:
    """‖x - p_k‖², from the differences."""
    distances = np.empty((len(items), len(points)))
    for i in range(len(items)):
        for k in range(len(points)):
            difference = [float(items[i][a]) - float(points[k][a]) for a in range(len(items[i]))]
            distances[i, k] = inner(difference, difference)
    return distances


def ideal_point_rewards(items: Array, prototypes: Array) -> Array:
    """r_k(x) = 2 x·p_k - ‖x‖²."""
    rewards = np.empty((len(items), len(prototypes)))
    for i in range(len(items)):
        for k in range(len(prototypes)):
            rewards[i, k] = 2 * inner(items[i], prototypes[k]) - inner(items[i], items[i])
    return rewards


def mix(rewards: Array, weights: Array) -> Array:
    """Σ_k w_k r_k over the last axis."""
    mixed = np.empty(rewards.shape[:-1])
    for place in np.ndindex(*mixed.shape):
        mixed[place] = inner(weights[place], rewards[place])
    return mixed


def log_choice(margins: Array) -> Array:
    """log σ(m)."""
    result = np.empty(margins.shape)
    for place in np.ndindex(*margins.shape):
        result[place] = log_sigmoid(float(margins[place]))
    return result


def _log_joint(margins: Array, users: Array, log_prior: Array, user: int) -> list[float]:
    """log η_k + Σ_{j of user} log σ(m_jk), for each k."""
    return [
        float(log_prior[k])
        + math.fsum(
            log_sigmoid(float(margins[j, k])) for j in range(len(users)) if users[j] == user
        )
        for k in range(len(log_prior))
    ]


def log_odds(margins: Array, log_weights: Array) -> Array:
    """log Σ_k w_k σ(m_k) - log Σ_k w_k σ(-m_k)."""
    odds = np.empty(margins.shape[:-1])
    for place in np.ndindex(*odds.shape):
        weights = [math.exp(value) for value in log_weights[place]]
        chosen = sum(w * sigmoid(m) for w, m in zip(weights, margins[place], strict=True))
        rejected = sum(w * sigmoid(-m) for w, m in zip(weights, margins[place], strict=True))
        odds[place] = math.log(chosen) - math.log(rejected)
    return odds


def sum_by_user(log_choices: Array, users: Array, *, num_users: int) -> Array:
    """Σ_{j of u} log σ(m_jk)."""
    sums = np.zeros((num_users, log_choices.shape[1]))
    for row, user in zip(log_choices, users, strict=True):
        for k, value in enumerate(row):
            sums[user, k] += value
    return sums


def log_evidence(margins: Array, users: Array, log_prior: Array, *, num_users: int) -> Array:
    """log Σ_k η_k Π_{j of u} σ(m_jk)."""
    return np.array(
        [log_sum_exp(_log_joint(margins, users, log_prior, user)) for user in range(num_users)]
    )


def responsibilities(margins: Array, users: Array, log_prior: Array, *, num_users: int) -> Array:
    """q_uk ∝ η_k Π_{j of u} σ(m_jk), normalised over k."""
    result = np.empty((num_users, len(log_prior)))
    for user in range(num_users):
        log_joint = _log_joint(margins, users, log_prior, user)
        for k in range(len(log_prior)):
            result[user, k] = math.exp(log_joint[k] - log_sum_exp(log_joint))
    return result


class SimplexFit(NamedTuple):
    weights: Array  # [U, K]
    gap: Array  # [U], nats
    covariance: Array  # [U, K, K]


def simplex_objective(margins: Array, prior: Array, strength: float, weights: Array) -> float:
    """Σ_j -log σ(Δ_j · w) - λ Σ_k w̄_k log w_k for one user's margins [n, K]."""
    loss = math.fsum(-log_sigmoid(inner(row, weights)) for row in margins)
    return loss - strength * math.fsum(
        float(prior[k]) * math.log(weights[k]) for k in range(len(prior))
    )


def simplex_gradient(margins: Array, prior: Array, strength: float, weights: Array) -> Array:
    """∂/∂w_k: -Σ_j σ(-Δ_j · w) Δ_jk - λ w̄_k / w_k."""
    slopes = [sigmoid(-inner(row, weights)) for row in margins]
    return np.array(
        [
            -math.fsum(slopes[j] * float(margins[j][k]) for j in range(len(margins)))
            - strength * float(prior[k]) / float(weights[k])
            for k in range(len(prior))
        ]
    )


def simplex_gap(margins: Array, prior: Array, strength: float, weights: Array) -> float:
    """⟨∇, w⟩ - min_k ∇_k."""
    return gap_of(simplex_gradient(margins, prior, strength, weights), weights)


def gap_of(gradient: Array, weights: Array) -> float:
    """⟨∇, w⟩ - min_k ∇_k of any function on the simplex."""
    return inner(gradient, weights) - min(float(slope) for slope in gradient)


def simplex_covariance(margins: Array, prior: Array, strength: float, weights: Array) -> Array:
    """Z (Zᵀ H Z)⁻¹ Zᵀ. the same for every basis Z of Σ_k w_k = 0; here e_k - e_K."""
    size = len(prior)
    hessian = np.zeros((size, size))
    for row in margins:
        margin = inner(row, weights)
        for k in range(size):
            for m in range(size):
                hessian[k, m] += sigmoid(margin) * sigmoid(-margin) * float(row[k]) * float(row[m])
    for k in range(size):
        hessian[k, k] += strength * float(prior[k]) / float(weights[k]) ** 2
    basis = np.vstack([np.eye(size - 1), -np.ones((1, size - 1))])
    return basis @ np.linalg.inv(basis.T @ hessian @ basis) @ basis.T


def _exponentiated_gradient_descent(
    value_of: Callable[[Array], float],
    gradient_of: Callable[[Array], Array],
    start: Array,
    tolerance: float,
) -> Array:
    """Minimise a function on the simplex by w_k ∝ w_k exp(-step ∇_k): first order, no Hessian."""
    size, weights = len(start), start
    value = value_of(weights)
    gap = last_gap = gap_of(gradient_of(weights), weights)
    step = 1.0
    for iteration in range(1, 200_001):
        if gap <= tolerance:
            return weights
        gradient = gradient_of(weights)
        # No weight changes by more than a factor e in one step, far from the optimum.
        length = min(step, 1 / (max(gradient) - min(gradient)))
        logits = [math.log(weights[k]) - length * float(gradient[k]) for k in range(size)]
        moved = np.array([math.exp(logit - log_sum_exp(logits)) for logit in logits])
        moved_value = value_of(moved)
        if moved_value > value + 1e-13 * (1 + abs(value)):
            step /= 2
            continue
        weights, value = moved, moved_value
        gap = gap_of(gradient_of(weights), weights)
        # Near the optimum the value is flat to rounding and no longer refuses an oscillating step.
        if iteration % 500 == 0:
            if gap > last_gap / 2:
                step /= 2
            last_gap = gap
    raise AssertionError(f"the twin stopped at gap {gap}")


def fit_simplex(
    margins: Array, mask: Array, *, prior: Array, strength: float, tolerance: float = 1e-10
) -> SimplexFit:
    """argmin over the simplex of Σ_j -log σ(Δ_j · w) - λ Σ_k w̄_k log w_k, one user at a time."""
    fits = []
    for user in range(len(margins)):
        own = np.array([margins[user, j] for j in range(len(mask[user])) if mask[user, j]])
        weights = _exponentiated_gradient_descent(
            lambda w, own=own: simplex_objective(own, prior, strength, w),
            lambda w, own=own: simplex_gradient(own, prior, strength, w),
            np.full(len(prior), 1 / len(prior)),
            tolerance,
        )
        gap = simplex_gap(own, prior, strength, weights)
        fits.append((weights, gap, simplex_covariance(own, prior, strength, weights)))
    return SimplexFit(*(np.array(column) for column in zip(*fits, strict=True)))


class NonlinearFit(NamedTuple):
    weights: Array  # [U, K]
    gap: Array  # [U], nats


def cosine_margins(
    inner_products: Array, gram: Array, scale: float, weights: Array
) -> tuple[Array, Array]:
    """m_j = s c_j · w / ν, ν² = w · G w, and ∂m_j/∂w_k = s (c_jk / ν - (c_j · w)(G w)_k / ν³)."""
    size = len(weights)
    pulled = [inner(gram[k], weights) for k in range(size)]
    norm = math.sqrt(inner(weights, np.array(pulled)))
    margins, slopes = [], []
    for row in inner_products:
        product = inner(row, weights)
        margins.append(scale * product / norm)
        slopes.append(
            [scale * (float(row[k]) / norm - product * pulled[k] / norm**3) for k in range(size)]
        )
    return np.array(margins), np.array(slopes)


def fit_simplex_nonlinear(
    margins_and_slopes: Callable[[int, Array], tuple[Array, Array]],
    mask: Array,
    *,
    prior: Array,
    strength: float,
    tolerance: float = 1e-10,
) -> NonlinearFit:
    """A stationary point of Σ_j -mask_j log σ(m_j(w)) - λ Σ_k w̄_k log w_k, downhill from w̄."""
    fits = []
    for user in range(len(mask)):

        def value(w: Array, user: int = user) -> float:
            margins, _ = margins_and_slopes(user, w)
            losses = [-float(mask[user][j]) * log_sigmoid(m) for j, m in enumerate(margins)]
            barrier = [float(prior[k]) * math.log(w[k]) for k in range(len(prior))]
            return math.fsum(losses) - strength * math.fsum(barrier)

        def gradient(w: Array, user: int = user) -> Array:
            margins, slopes = margins_and_slopes(user, w)
            pulls = [float(mask[user][j]) * sigmoid(-m) for j, m in enumerate(margins)]
            return np.array(
                [
                    -math.fsum(pull * float(slopes[j][k]) for j, pull in enumerate(pulls))
                    - strength * float(prior[k]) / float(w[k])
                    for k in range(len(prior))
                ]
            )

        weights = _exponentiated_gradient_descent(value, gradient, np.array(prior), tolerance)
        fits.append((weights, gap_of(gradient(weights), weights)))
    return NonlinearFit(*(np.array(column) for column in zip(*fits, strict=True)))


def exponentiated_gradient(log_q: Array, utilities: Array, *, step_size: float) -> Array:
    """q_g ∝ q_g exp(-step · U_g)."""
    moved = [float(log_q[g]) - step_size * float(utilities[g]) for g in range(len(log_q))]
    return np.array([value - log_sum_exp(moved) for value in moved])


def worst_case_weights(utilities: Array, *, cap: float = 1.0) -> Array:
    """argmin q·U with q_g <= cap: one is poured out, the worst-off first."""
    left, weights = 1.0, np.zeros(len(utilities))
    for group in sorted(range(len(utilities)), key=lambda group: float(utilities[group])):
        weights[group] = min(cap, left)
        left -= weights[group]
    return weights


def cap_weights(log_q: Array, *, cap: float) -> Array:
    """log min(cap, c q_g); c by bisection, so that the weights sum to one."""
    q = [math.exp(float(value)) for value in log_q]
    low, high = 0.0, 1 / min(q)
    for _ in range(200):
        middle = (low + high) / 2
        total = math.fsum(min(cap, middle * weight) for weight in q)
        low, high = (middle, high) if total < 1 else (low, middle)
    return np.log([min(cap, high * weight) for weight in q])


def tilted_policy(
    rewards: Array, log_reference: Array, weights: Sequence[float] | Array, beta: float
) -> tuple[Array, list[float]]:
    """π ∝ π_ref exp(λ·r / β) of every prompt, and the log of what it is divided by."""
    policy, log_normalizers = np.zeros(log_reference.shape), []
    for x in range(len(rewards)):
        scores = [
            float(log_reference[x][y]) + inner(weights, rewards[x][y]) / beta
            for y in range(len(rewards[x]))
        ]
        log_normalizers.append(log_sum_exp(scores))
        policy[x] = [math.exp(score - log_normalizers[-1]) for score in scores]
    return policy, log_normalizers


def expected_rewards(policy: Array, rewards: Array, prompt_weights: Array) -> list[float]:
    """U_k = E_x E_{y ~ π} r_k."""
    num_prompts, num_actions, num_rewards = rewards.shape
    return [
        math.fsum(
            float(prompt_weights[x] * policy[x][y] * rewards[x][y][k])
            for x in range(num_prompts)
            for y in range(num_actions)
        )
        for k in range(num_rewards)
    ]


def policy_kl(policy: Array, log_reference: Array, prompt_weights: Array) -> float:
    """E_x KL(π ‖ π_ref)."""
    return math.fsum(
        float(prompt_weights[x] * policy[x][y] * (math.log(policy[x][y]) - log_reference[x][y]))
        for x in range(len(policy))
        for y in range(len(policy[x]))
        if policy[x][y] > 0
    )


def policy_value(
    policy: Array,
    rewards: Array,
    log_reference: Array,
    prompt_weights: Array,
    *,
    beta: float,
    group_matrix: Array,
    cap: float = 1.0,
) -> float:
    """min over q of q·(A U) - β KL."""
    utilities = expected_rewards(policy, rewards, prompt_weights)
    of_groups = np.array([inner(row, utilities) for row in group_matrix])
    worst = inner(worst_case_weights(of_groups, cap=cap), of_groups)
    return worst - beta * policy_kl(policy, log_reference, prompt_weights)


def maxmin_dual(
    rewards: Array,
    log_reference: Array,
    prompt_weights: Array,
    *,
    beta: float,
    group_matrix: Array,
    tolerance: float = 0.0,
    cap: float = 1.0,
) -> tuple[Array, Array, Array, float, float, float]:
    """min over q of β E_x log E_ref exp((Aᵀq)·r / β), by mirror descent; `tolerance` is not used.

    A different method from the kernel's and far slower: probabilities are good to about 1e-3.
    """
    num_groups = len(group_matrix)
    log_q = np.log(np.full(num_groups, 1 / num_groups))
    of_groups = [[inner(row, reward) for row in group_matrix] for x in rewards for reward in x]
    step_size = beta / float(np.ptp(of_groups)) ** 2  # one over the largest curvature
    for _ in range(2000):
        weights = [inner(np.exp(log_q), column) for column in group_matrix.T]
        policy, log_normalizers = tilted_policy(rewards, log_reference, weights, beta)
        utilities = expected_rewards(policy, rewards, prompt_weights)
        of_groups = np.array([inner(row, utilities) for row in group_matrix])
        q = np.exp(log_q)
        log_q = log_q - step_size * of_groups
        log_q = cap_weights(log_q - log_sum_exp(list(log_q)), cap=cap)
    dual = beta * inner(prompt_weights, log_normalizers)
    settings = {"beta": beta, "group_matrix": group_matrix, "cap": cap}
    value = policy_value(policy, rewards, log_reference, prompt_weights, **settings)
    kl_of_policy = policy_kl(policy, log_reference, prompt_weights)
    return q, policy, np.array(utilities), kl_of_policy, value, dual - value


def leave_one_out(rewards: Array) -> Array:
    """r_i minus the mean of the other rewards of its row."""
    advantages = np.empty(rewards.shape)
    for b in range(rewards.shape[0]):
        for i in range(rewards.shape[1]):
            others = [float(rewards[b, j]) for j in range(rewards.shape[1]) if j != i]
            advantages[b, i] = float(rewards[b, i]) - math.fsum(others) / len(others)
    return advantages


# --- EM, one user, one comparison, one group at a time -------------------------------------------


class Expected(NamedTuple):
    responsibilities: Array  # [U, K]
    sizes: Array  # [K]
    evidence: float  # nats a comparison


def expect(
    margins: Array,
    users: Array,
    weights: Array,
    targets: Array,
    sizes: Array,
    *,
    num_users: int,
    hard: bool = False,
) -> Expected:
    """q_uk ∝ η_k exp Σ_j ω_j (t_j log σ(m_jk) + (1 - t_j) log σ(-m_jk)), and η from it.

    Hard: one for the group with the highest likelihood. A user whose comparisons weigh nothing
    keeps η and has no say in the new one.
    """
    num_groups = len(sizes)
    responsibilities = np.empty((num_users, num_groups))
    totals, evidence, heard = np.zeros(num_groups), 0.0, 0
    for user in range(num_users):
        own = [j for j in range(len(users)) if users[j] == user]
        likelihoods = [
            math.fsum(
                weights[j]
                * (
                    targets[j] * log_sigmoid(float(margins[j, k]))
                    + (1 - targets[j]) * log_sigmoid(-float(margins[j, k]))
                )
                for j in own
            )
            for k in range(num_groups)
        ]
        observed = sum(weights[j] for j in own) > 0
        if hard and observed:
            best = max(range(num_groups), key=likelihoods.__getitem__)
            row = [float(k == best) for k in range(num_groups)]
        else:
            joint = [math.log(sizes[k]) + likelihoods[k] for k in range(num_groups)]
            row = [math.exp(value - log_sum_exp(joint)) for value in joint]
        evidence += max(likelihoods) if hard else log_sum_exp(joint)
        responsibilities[user] = row
        if observed:
            totals += row
            heard += 1
    return Expected(responsibilities, totals / heard, evidence / math.fsum(weights))


def expected_loss_of_groups(
    margins: Array, responsibilities: Array, weights: Array, targets: Array
) -> float:
    """-1/n Σ_j ω_j Σ_k q_jk (t_j log σ(m_jk) + (1 - t_j) log σ(-m_jk)); q_j of j's user."""
    terms = [
        -weights[j]
        * responsibilities[j, k]
        * (
            targets[j] * log_sigmoid(float(margins[j, k]))
            + (1 - targets[j]) * log_sigmoid(-float(margins[j, k]))
        )
        for j in range(len(margins))
        for k in range(margins.shape[1])
    ]
    return math.fsum(terms) / len(margins)


# --- rewards that groups can be compared by ----------------------------------------------------


def normalize(
    rewards: Array, log_reference: Array, prompt_weights: Array, *, kind: str, beta: float
) -> Array:
    """Rewards [X, Y, K] against the reference policy, one prompt and one group at a time."""
    num_prompts, num_responses, num_groups = rewards.shape
    reference = [[math.exp(value) for value in row] for row in log_reference]
    normalized = np.empty(rewards.shape)
    for k in range(num_groups):
        centers = [inner(reference[x], rewards[x, :, k]) for x in range(num_prompts)]
        variance = math.fsum(
            prompt_weights[x] * reference[x][y] * (float(rewards[x, y, k]) - centers[x]) ** 2
            for x in range(num_prompts)
            for y in range(num_responses)
        )
        deviation = math.sqrt(variance)
        for x in range(num_prompts):
            optimum = beta * log_sum_exp(
                [float(log_reference[x, y] + rewards[x, y, k] / beta) for y in range(num_responses)]
            )
            for y in range(num_responses):
                reward = float(rewards[x, y, k])
                normalized[x, y, k] = {
                    "none": reward,
                    "reference": (reward - centers[x]) / deviation,
                    "regret": reward - optimum,
                    "win_rate": math.fsum(
                        reference[x][other] * sigmoid(reward - float(rewards[x, other, k]))
                        for other in range(num_responses)
                    ),
                }[kind]
    return normalized


# --- reward models, for one item and one user ---------------------------------------------------


def cosine(a: Array | Sequence[float], b: Array | Sequence[float]) -> float:
    return inner(a, b) / math.sqrt(inner(a, a)) / math.sqrt(inner(b, b))


def _mixed_point(points: Array, w: Array) -> list[float]:
    """Σ_k w_k p_k."""
    return [inner(w, [points[k][a] for k in range(len(w))]) for a in range(len(points[0]))]


def _scale(log_scale: float) -> float:
    return min(math.exp(min(log_scale, 700.0)), 100.0)


def reward_pal_a(
    z: Array, prototypes: Array, w: Array, *, distance: str, log_scale: float = 0.0
) -> float:
    """The reward of the projected item z [d] under latent prototypes [K, d] and weights w [K]."""
    point = _mixed_point(prototypes, w)
    difference = [float(z[a]) - point[a] for a in range(len(z))]
    if distance == "squared":
        return -inner(difference, difference)
    if distance == "euclidean":
        return -math.sqrt(inner(difference, difference))
    if distance == "cosine":
        return _scale(log_scale) * cosine(z, point)
    raise ValueError(distance)


def reward_pal_b(z: Array, g: Array, w: Array, *, similarity: str, log_scale: float = 0.0) -> float:
    """The reward of the projected item z [d] where the K maps of the prompt give g [K, d]."""
    point = _mixed_point(g, w)
    if similarity == "inner":
        return inner(z, point)
    if similarity == "cosine":
        return _scale(log_scale) * cosine(z, point)
    raise ValueError(similarity)


# --- losses and divergences ---------------------------------------------------------------------


def _logistic(margin: float) -> float:
    return -log_sigmoid(margin)


def _hinge(margin: float) -> float:
    return max(0.0, 1 - margin)


def _smooth_hinge(margin: float) -> float:
    if margin >= 1:
        return 0.0
    if margin <= 0:
        return 0.5 - margin
    return (1 - margin) ** 2 / 2


_LOSSES: dict[str, Callable[[float], float]] = {
    "logistic": _logistic,
    "hinge": _hinge,
    "smooth_hinge": _smooth_hinge,
}


def loss(margin: float, *, kind: str, target: float = 1.0) -> float:
    """target · l(m) + (1 - target) · l(-m); target is the probability that chosen is preferred.

    1 is a plain comparison, 1/2 a tie, 1 - ε a comparison with label smoothing ε.
    """
    one_side = _LOSSES[kind]
    return target * one_side(margin) + (1 - target) * one_side(-margin)


def kl(p: Sequence[float] | Array, q: Sequence[float] | Array) -> float:
    """Σ_k p_k log(p_k / q_k), nats."""
    terms = []
    for k in range(len(p)):
        if p[k] > 0 and q[k] == 0:
            return math.inf
        if p[k] > 0:
            terms.append(float(p[k]) * (math.log(p[k]) - math.log(q[k])))
    return math.fsum(terms)


# --- scores -------------------------------------------------------------------------------------


def expected_calibration_error(probabilities: Sequence[float] | Array, *, bins: int = 10) -> float:
    """Mean over comparisons of |accuracy - mean confidence| in the comparison's bin.

    `probabilities` are P(chosen), the confidence is max(p, 1 - p), and the bins divide its range
    [1/2, 1] into equal widths, each closed below (the last one on both sides). A comparison is
    right when p > 1/2 and half right when p = 1/2.
    """
    members: list[list[float]] = [[] for _ in range(bins)]
    for p in probabilities:
        confidence = max(float(p), 1 - float(p))
        members[min(int((confidence - 0.5) / (0.5 / bins)), bins - 1)].append(float(p))
    error = 0.0
    for inside in members:
        if inside:
            accuracy = math.fsum(1.0 if p > 0.5 else 0.5 if p == 0.5 else 0.0 for p in inside)
            confidence = math.fsum(max(p, 1 - p) for p in inside)
            error += abs(accuracy - confidence) / len(probabilities)
    return error


def adjusted_rand_index(labels_a: Sequence[Any] | Array, labels_b: Sequence[Any] | Array) -> float:
    """Agreement of two partitions over all pairs of members: 1 when equal, 0 in expectation."""
    assert len(labels_a) == len(labels_b)
    both = only_a = only_b = neither = 0
    for i in range(len(labels_a)):
        for j in range(i):
            together_a, together_b = labels_a[i] == labels_a[j], labels_b[i] == labels_b[j]
            both += together_a and together_b
            only_a += together_a and not together_b
            only_b += together_b and not together_a
            neither += not together_a and not together_b
    if only_a == only_b == 0:
        return 1.0
    spread = (both + only_a) * (only_a + neither) + (both + only_b) * (only_b + neither)
    return 2 * (both * neither - only_a * only_b) / spread


def user_accuracies(
    margins: Sequence[float] | Array, users: Sequence[Any] | Array
) -> dict[Any, float]:
    """Each user's share of positive margins, a margin of 0 counting half."""
    credits: dict[Any, list[float]] = {}
    for margin, user in zip(margins, users, strict=True):
        credits.setdefault(user, []).append(1.0 if margin > 0 else 0.5 if margin == 0 else 0.0)
    return {user: math.fsum(values) / len(values) for user, values in credits.items()}


def percentile(values: Sequence[float] | Array, percent: float) -> float:
    """The value `percent` of the way through the sorted values, linear between neighbours."""
    ordered = sorted(float(value) for value in values)
    place = percent / 100 * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def user_accuracy_percentile(
    margins: Sequence[float] | Array, users: Sequence[Any] | Array, percent: float = 10
) -> float:
    """The percentile over users of their accuracies."""
    return percentile(list(user_accuracies(margins, users).values()), percent)


def product(left: Array, right: Array) -> Array:
    """Σ_d a_nd b_de, number by number."""
    outputs = np.zeros((left.shape[0], right.shape[1]))
    for n, e in np.ndindex(*outputs.shape):
        for d in range(left.shape[1]):
            outputs[n, e] += left[n, d] * right[d, e]
    return outputs
