"""Where a user stands among the prototypes: weights on the simplex, fitted by damped Newton.

U users, n comparisons of a user, K prototypes. Margins are reward(chosen) - reward(rejected) in
nats of log-odds, w the weights of one user, b_k = strength * prior_k the barrier.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from paljax.kernels.simplex_blocks import SimplexFit, fit_from, fit_in_blocks
from paljax.kernels.simplex_newton import minimize_nonlinear
from paljax.kernels.simplex_objective import Derivatives, bent, derivatives_of

# A prior of 0 puts no barrier before 0, and choices may still want such a prototype: the optimum
# then is the limit for small priors. Here it is reached without dividing 0 by 0, and the barrier's
# share of F stays below what either precision can tell.
LEAST_PRIOR = 1e-12
# What a prior's sum may differ from 1 by: bfloat16 keeps 8 bits of each of its entries.
PRIOR_ROUNDING = 1 / 64


def fit_simplex(
    margins: Float[Array, "U n K"],
    mask: Float[Array, "U n"] | Bool[Array, "U n"],
    *,
    prior: Float[Array, "K"],
    strength: float | Float[Array, ""],
    tolerance: float | Float[Array, ""] = 1e-5,
) -> SimplexFit:
    """Weights of every user that explain the user's choices, shrunk towards a prior.

    Minimises F(w) = Σ_j -mask_j log σ(Δ_j · w) - λ Σ_k prior_k log w_k over the simplex, for each
    user alone; Δ_j is row j of the user's margins and λ the strength. F is strictly convex. Newton
    steps d on the plane Σ_k d_k = 0 start from the prior and have the length

        t = 1 / (1 + max(r, R/2)),   r = max_k -d_k / w_k,   R = max_j |Δ_j · d|,

    R over the rows that move towards margin 0. F descends along the whole step: a logistic
    curvature grows at most by e^{Rt}, that of the barrier by 1 / (1 - rt)², so the slope along d
    is negative up to t. A longer step is taken only where the slope is seen to be negative too.

    Derivatives with respect to margins, mask, prior and strength, of any order, are those of the
    exact optimum (implicit function theorem), not of the iterations. The gap carries none.

    Args:
        margins: Margin of each comparison under each prototype's reward, in nats.
        mask: Weight of each comparison, >= 0. A row with 0 is absent; its margins may be NaN.
        prior: Weights of the population, >= 0, summing to 1. Less than 1e-12 counts as 1e-12.
        strength: λ > 0, in pseudo-comparisons. 0 is not allowed: the prior is also the barrier
            that keeps the weights inside.
        tolerance: Gap at which to stop, in nats. In float32 a gap below about 1e-6 times the
            gradient (1e-5 at n = 20 and margins of 3) is out of reach; the iteration then ends
            where it makes no progress.

    Returns:
        Fit in the dtype of `margins` (narrower than float32: computed in float32, then cast). A
        user without comparisons gets exactly the prior with gap 0. The covariance is
        Z (Zᵀ H Z)⁻¹ Zᵀ, H the Hessian of F at the weights and Z a basis of the plane. `gap` is
        the gap reached, above `tolerance` where that was out of reach.

    Raises:
        ValueError: If the shapes don't fit each other, or, where they are known, the prior does not
            sum to 1 or the strength is not above 0; under `jit` such a strength gives NaN.

    Source:
        paljax's design, section 2.3. Step length: the argument of self-concordant functions
        (Bach, 2010, arXiv 0910.4627, proposition 1, for logistic losses), with the step at hand
        in place of a constant.

    Example:
        >>> margins = jnp.array([[[2.0, -2.0], [1.0, -1.0]]])
        >>> fit = fit_simplex(margins, jnp.ones((1, 2)), prior=jnp.array([0.5, 0.5]), strength=2.0)
        >>> print(f"{fit.weights[0, 0]:.3f} {fit.weights[0, 1]:.3f}")
        0.708 0.292
    """
    margins, mask, prior = jnp.asarray(margins), jnp.asarray(mask), jnp.asarray(prior)
    _check_shapes(margins, mask, prior, strength, tolerance)
    compute, returned = _dtypes(margins)
    present, mask = _presence(mask, compute)
    # Absent rows are zeroed before the mathematics: 0 * NaN is NaN, in gradients too.
    margins = jnp.where(present[..., None], margins, 0).astype(compute)
    prior, barrier = _start_and_barrier(prior, strength, compute)
    fit = fit_in_blocks(
        margins.transpose(1, 2, 0), mask.T, barrier, prior, jnp.asarray(tolerance, compute)
    )
    return _cast(fit, returned)


def fit_simplex_nonlinear(
    margin_fn: Callable[[Float[Array, "K"], Any], Float[Array, "n"]],
    features: Any,
    mask: Float[Array, "U n"] | Bool[Array, "U n"],
    *,
    prior: Float[Array, "K"],
    strength: float | Float[Array, ""],
    tolerance: float | Float[Array, ""] = 1e-5,
) -> SimplexFit:
    """Weights of every user when margins are not linear in the weights (cosine, euclidean).

    Minimises Σ_j -mask_j log σ(m_j(w)) - λ Σ_k prior_k log w_k over the simplex by Newton steps
    with backtracking on this objective, starting from the prior. Where the Hessian is not positive
    definite they are Gauss-Newton steps, which drop the margins' second derivatives; used
    throughout, those would take several times as many steps for cosines, and some never arrive.

    **The gap is no certificate.** The problem need not be convex: a gap of 0 says that the weights
    are stationary, not that no better weights exist. With margins linear in w the problem is that
    of `fit_simplex`, and so is the result.

    Unlike `fit_simplex`, not differentiable in reverse mode, and compiled at every call that is not
    itself under `jit`.

    Args:
        margin_fn: Margins of one user's comparisons in nats, from the weights and that user's
            features. Twice differentiable inside the simplex.
        features: Arrays that `margin_fn` needs, each with a leading axis of U users.
        mask: Weight of each comparison, >= 0. A row with 0 is absent; its margin may be NaN.
        prior: Weights of the population, >= 0, summing to 1. Less than 1e-12 counts as 1e-12.
        strength: λ > 0, in pseudo-comparisons.
        tolerance: Gap at which to stop, in nats.

    Returns:
        Fit in the dtype of the margins. The covariance is that of `fit_simplex`, with Gauss
        and Newton's Hessian where the exact one is not positive definite. A user without
        comparisons gets exactly the prior.

    Raises:
        ValueError: If the shapes don't fit each other, or, where they are known, the prior does not
            sum to 1 or the strength is not above 0; under `jit` such a strength gives NaN.

    Source:
        paljax's design, section 2.3.

    Example:
        >>> angles = jnp.array([[0.3, 0.9]])
        >>> fit = fit_simplex_nonlinear(
        ...     lambda w, angle: jnp.sin(angle * w[0]),
        ...     angles, jnp.ones((1, 2)), prior=jnp.array([0.5, 0.5]), strength=1.0,
        ... )
        >>> print(f"{fit.weights[0, 0]:.2f} {fit.weights[0, 1]:.2f}")
        0.60 0.40
    """
    mask, prior = jnp.asarray(mask), jnp.asarray(prior)
    given = jax.eval_shape(jax.vmap(margin_fn, in_axes=(None, 0)), prior, features)
    if given.shape != mask.shape:
        raise ValueError(
            f"margin_fn gave margins of shape {given.shape} for mask {mask.shape}: they must agree"
        )
    shape = jax.ShapeDtypeStruct((*mask.shape, *prior.shape), given.dtype)
    _check_shapes(shape, mask, prior, strength, tolerance)
    compute, returned = _dtypes(given)
    present, sample_weights = _presence(mask.T, compute)
    prior, barrier = _start_and_barrier(prior, strength, compute)
    curves = _Curves(margin_fn, features, present, sample_weights, barrier)
    weights, derivatives, iterations = minimize_nonlinear(
        partial(_margins_at, curves), partial(_derivatives_at, curves),
        sample_weights, barrier, prior, jnp.asarray(tolerance, compute),
    )  # fmt: skip
    return _cast(fit_from(weights, derivatives, barrier, sample_weights, iterations), returned)


class _Curves(NamedTuple):
    """Margins of all users as functions of their weights, users last."""

    margin_fn: Callable[[Float[Array, "K"], Any], Float[Array, "n"]]  # of one user
    features: Any
    present: Bool[Array, "n U"]
    sample_weights: Float[Array, "n U"]
    barrier: Float[Array, "K"]


def _margins_at(curves: _Curves, weights: Float[Array, "K U"]) -> Float[Array, "n U"]:
    margins = jax.vmap(curves.margin_fn, in_axes=(1, 0), out_axes=1)(weights, curves.features)
    return jnp.where(curves.present, margins, 0).astype(weights.dtype)


def _derivatives_at(curves: _Curves, weights: Float[Array, "K U"]) -> Derivatives:
    present, sample_weights, barrier = curves.present, curves.sample_weights, curves.barrier
    slope_fn = jax.jacfwd(curves.margin_fn)
    rows = jax.vmap(slope_fn, in_axes=(1, 0), out_axes=2)(weights, curves.features)
    rows = jnp.where(present[:, None], rows, 0).astype(weights.dtype)
    bends = jax.vmap(jax.jacfwd(slope_fn), in_axes=(1, 0), out_axes=3)(weights, curves.features)
    bends = jnp.where(present[:, None, None], bends, 0).astype(weights.dtype)
    margins = _margins_at(curves, weights)
    derivatives = derivatives_of(rows, margins, sample_weights, barrier, weights)
    return bent(derivatives, bends, sample_weights, barrier, weights)


def _presence(mask: Array, dtype: Any) -> tuple[Array, Array]:
    """Which comparisons there are, and how much each weighs."""
    mask = mask.astype(dtype)
    return mask > 0, jnp.where(mask > 0, mask, 0)


def _start_and_barrier(
    prior: Float[Array, "K"], strength: float | Float[Array, ""], dtype: Any
) -> tuple[Float[Array, "K"], Float[Array, "K"]]:
    prior = jnp.maximum(prior.astype(dtype), LEAST_PRIOR)
    return prior, jnp.asarray(strength, dtype) * prior


def _cast(fit: SimplexFit, dtype: Any) -> SimplexFit:
    weights, gap, covariance = (x.astype(dtype) for x in fit[:3])
    return SimplexFit(weights, gap, covariance, fit.iterations)


def _dtypes(margins: Array | jax.ShapeDtypeStruct) -> tuple[Any, Any]:
    """Where to compute and what to return: float32 for what is narrower, and the dtype given."""
    compute = jnp.float64 if margins.dtype == jnp.float64 else jnp.float32
    return compute, margins.dtype if jnp.issubdtype(margins.dtype, jnp.floating) else compute


def _check_shapes(
    margins: Array | jax.ShapeDtypeStruct,
    mask: Array,
    prior: Array,
    strength: ArrayLike,
    tolerance: ArrayLike,
) -> None:
    given = f"margins {margins.shape}, mask {mask.shape}, prior {prior.shape}"
    if margins.ndim != 3 or mask.shape != margins.shape[:2] or prior.shape != margins.shape[2:]:
        raise ValueError(f"wanted margins (U, n, K), mask (U, n) and prior (K,), got {given}")
    if not prior.size:
        raise ValueError(f"wanted at least one prototype, got {given}")
    for name, value in (("strength", strength), ("tolerance", tolerance)):
        if jnp.shape(value) != ():
            raise ValueError(f"{name} must be one number, got an array of shape {jnp.shape(value)}")
    if not isinstance(strength, jax.core.Tracer) and not np.asarray(strength) > 0:
        raise ValueError(f"strength must be above 0, got {strength}: it is the barrier, too")
    if not isinstance(prior, jax.core.Tracer):
        total = float(np.asarray(prior, np.float64).sum())
        if not abs(total - 1) <= PRIOR_ROUNDING:
            raise ValueError(f"prior must sum to 1, got {total:g}")
