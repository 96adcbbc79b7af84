"""How parameters move: AdamW with a learning rate and a weight decay for each parameter group."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from paljax.learners.devices import ONE_DEVICE, Devices
from paljax.models import ANCHOR, Params

PARAMETER_GROUPS = ("networks", "prototypes", "scale", "user_weights")
FROZEN = "frozen"  # what is not learned: neither rate nor decay


class OptimizerSettings(NamedTuple):
    """How parameters move. Learning rates and weight decays are by parameter group."""

    learning_rate: dict[str, float]  # peak rate of each of PARAMETER_GROUPS
    weight_decay: dict[str, float]  # decoupled decay of each of PARAMETER_GROUPS
    schedule: str  # one of SCHEDULES
    warmup_fraction: float  # share of the steps before the rates reach their peak
    clip_norm: float | None  # largest global norm of the gradient
    beta1: float = 0.9
    beta2: float = 0.999
    num_steps: int = 1  # that the schedule spans; learners keep it in their state


# Share of the steps after warm-up, in [0, 1] -> factor of the peak rates, in [0, 1].
SCHEDULES: Mapping[str, Callable[[Float[Array, ""]], Float[Array, ""]]] = {
    "constant": jnp.ones_like,
    "cosine": lambda share: (1 + jnp.cos(jnp.pi * share)) / 2,
    "linear": lambda share: 1 - share,
}


def annealing(
    schedule: str, warmup_fraction: float, step: Int[Array, ""], num_steps: Int[Array, ""] | int
) -> Float[Array, ""]:
    """Factor of a peak learning rate at a step: a linear warm-up, then the schedule.

    Args:
        schedule: A key of SCHEDULES.
        warmup_fraction: Share of the steps before the rate reaches its peak.
        step: Steps taken.
        num_steps: Steps that the schedule spans; as an array, fits of different lengths share a
            compiled program.

    Returns:
        The factor, in [0, 1]. The first is 1 / (warmup + 1): a step with rate zero would be lost.
    """
    warmup = jnp.ceil(warmup_fraction * num_steps)
    share = (step - warmup) / jnp.maximum(num_steps - warmup, 1)
    after = SCHEDULES[schedule](jnp.clip(share, 0, 1))
    return jnp.where(step < warmup, (step + 1) / (warmup + 1), after)


def rate_factor(
    settings: OptimizerSettings, step: Int[Array, ""], num_steps: Int[Array, ""]
) -> Float[Array, ""]:
    """Factor of the peak learning rates of these settings at a step of so many."""
    return annealing(settings.schedule, settings.warmup_fraction, step, num_steps)


def adamw(settings: OptimizerSettings, group: str) -> optax.GradientTransformation:
    """Adam with decoupled weight decay, before the learning rate."""
    return optax.chain(
        optax.scale_by_adam(settings.beta1, settings.beta2),
        optax.add_decayed_weights(settings.weight_decay[group]),
    )


class DecayState(NamedTuple):
    """Of `decayed`."""

    weight_decay: Float[Array, ""]  # an array, so that fits of different decays share a program


def decayed(weight_decay: float) -> optax.GradientTransformation:
    """Add so many times the parameters to the updates; `with_weight_decay` changes how many."""

    def init(params: Params) -> DecayState:
        return DecayState(jnp.asarray(weight_decay, jnp.float32))

    def update(
        updates: Params, state: DecayState, params: Params | None = None
    ) -> tuple[Params, DecayState]:
        added = jax.tree.map(lambda u, p: u + state.weight_decay * p, updates, params)
        return added, state

    return optax.GradientTransformation(init, update)


def with_weight_decay(state: optax.OptState, group: str, weight_decay: float) -> optax.OptState:
    """The state of `by_group`, or of several side by side, with another decay of one group."""
    old = state.inner_states[group]
    like = optax.tree.get(old, "weight_decay")
    new = optax.tree.set(old, weight_decay=jnp.full_like(like, weight_decay))
    return state._replace(inner_states=state.inner_states | {group: new})


def by_group(settings: OptimizerSettings) -> optax.GradientTransformation:
    """AdamW on (parameters of a model, what all users' weights share), each group at its peak rate.

    `descend` scales the updates to the rate of the step.
    """
    return optax.partition(
        {
            group: optax.chain(
                optax.scale_by_adam(settings.beta1, settings.beta2),
                decayed(settings.weight_decay[group]),
                optax.scale_by_learning_rate(settings.learning_rate[group]),
            )
            for group in PARAMETER_GROUPS
        }
        | {FROZEN: optax.set_to_zero()},
        _labels,
    )


def descend(
    transformation: optax.GradientTransformation,
    shared: tuple[Params, Any],
    gradient: tuple[Params, Any],
    moments: optax.OptState,
    factor: Float[Array, ""],
) -> tuple[Any, optax.OptState]:
    """One step of `by_group`, its peak rates scaled by a factor: (shared, moments) after it."""
    updates, moments = transformation.update(gradient, moments, shared)
    return optax.apply_updates(shared, optax.tree.scale(factor, updates)), moments


def clipped(gradients: Any, norm: Float[Array, ""], settings: OptimizerSettings) -> Any:
    """Scale a whole gradient of this norm down to the largest allowed norm."""
    most = settings.clip_norm
    if most is None:
        return gradients
    # One factor for all leaves; divided first, so that a huge norm does not overflow.
    return jax.tree.map(lambda leaf: jnp.where(norm < most, leaf, leaf / norm * most), gradients)


def gradient_norms(
    shared: tuple[Params, Any], rows: Any = (), *, devices: Devices = ONE_DEVICE
) -> dict[str, Array]:
    """Norm of the gradient, grad_norm, and of every parameter group, grad_norm/GROUP.

    Args:
        shared: Gradients of a model's parameters and of what all users' weights share.
        rows: Gradients of this device's users' own rows.
        devices: Where the other users' rows are.
    """
    squares: dict[str, list[Array]] = {group: [] for group in (*PARAMETER_GROUPS, FROZEN)}
    labels = jax.tree.leaves(_labels(shared))
    for label, leaf in zip(labels, jax.tree.leaves(shared), strict=True):
        squares[label].append(jnp.sum(leaf**2))
    squares["user_weights"] += [devices.total(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(rows)]
    del squares[FROZEN]
    by_group = {group: sum(parts) for group, parts in squares.items() if parts}
    norms = {f"grad_norm/{group}": jnp.sqrt(square) for group, square in by_group.items()}
    return {"grad_norm": jnp.sqrt(sum(by_group.values()))} | norms


def _labels(shared: tuple[Params, Any]) -> tuple[Any, Any]:
    """Name the parameter group of every leaf."""
    params, of_all_users = shared
    group_of = {"prototypes": "prototypes", "log_scale": "scale", ANCHOR: FROZEN}

    def labelled(group: str, subtree: Any) -> Any:
        return jax.tree.map(lambda _: group, subtree)

    labels = {
        name: labelled(group_of.get(name, "networks"), subtree) for name, subtree in params.items()
    }
    return labels, labelled("user_weights", of_all_users)
