"""How parameters move: AdamW with a learning rate and a weight decay for each parameter group."""

from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import Array

from paljax.models import Params

PARAMETER_GROUPS = ("networks", "prototypes", "scale", "user_weights")


class OptimizerSettings(NamedTuple):
    """How parameters move. Learning rates and weight decays are by parameter group."""

    learning_rate: dict[str, float]  # peak rate of each of PARAMETER_GROUPS
    weight_decay: dict[str, float]  # decoupled decay of each of PARAMETER_GROUPS
    schedule: optax.Schedule  # step -> factor of the peak rates, in [0, 1]
    clip_norm: float | None  # largest global norm of the gradient
    beta1: float = 0.9
    beta2: float = 0.999


def adamw(settings: OptimizerSettings, group: str) -> optax.GradientTransformation:
    """Adam with decoupled weight decay, before the learning rate."""
    return optax.chain(
        optax.scale_by_adam(settings.beta1, settings.beta2),
        optax.add_decayed_weights(settings.weight_decay[group]),
    )


def by_group(settings: OptimizerSettings) -> optax.GradientTransformation:
    """AdamW on (parameters of a model, what all users' weights share), each group at its rate."""

    def rate(group: str) -> optax.Schedule:
        return lambda step: settings.learning_rate[group] * settings.schedule(step)

    return optax.partition(
        {
            group: optax.chain(adamw(settings, group), optax.scale_by_learning_rate(rate(group)))
            for group in PARAMETER_GROUPS
        },
        _labels,
    )


def clipping(settings: OptimizerSettings) -> optax.GradientTransformation:
    """Scale the whole gradient down to the largest allowed norm."""
    if settings.clip_norm is None:
        return optax.identity()
    return optax.clip_by_global_norm(settings.clip_norm)


def norms_by_group(shared: tuple[Params, Any], rows: Any = ()) -> dict[str, Array]:
    """Norm of the gradient of every parameter group, named grad_norm/GROUP.

    Args:
        shared: Gradients of a model's parameters and of what all users' weights share.
        rows: Gradients of users' own rows.
    """
    parts: dict[str, list[Array]] = {group: [] for group in PARAMETER_GROUPS}
    labels = jax.tree.leaves(_labels(shared))
    for label, leaf in zip(labels, jax.tree.leaves(shared), strict=True):
        parts[label].append(leaf)
    parts["user_weights"].extend(jax.tree.leaves(rows))
    return {f"grad_norm/{group}": optax.tree.norm(part) for group, part in parts.items() if part}


def _labels(shared: tuple[Params, Any]) -> tuple[Any, Any]:
    """Name the parameter group of every leaf."""
    params, of_all_users = shared
    group_of = {"prototypes": "prototypes", "log_scale": "scale"}

    def labelled(group: str, subtree: Any) -> Any:
        return jax.tree.map(lambda _: group, subtree)

    labels = {
        name: labelled(group_of.get(name, "networks"), subtree) for name, subtree in params.items()
    }
    return labels, labelled("user_weights", of_all_users)
