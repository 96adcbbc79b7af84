"""What the groups of a reward run want: all that the policy stage knows of the reward stage.

n rows of items (with their prompts), K prototypes, G groups, C columns of rewards. A group's reward
is A times the columns: the columns are prototypes where rewards are linear in a user's weights,
and the groups themselves elsewhere.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from paljax.data.dataset import Table
from paljax.errors import UserError, nearest
from paljax.models import Inputs, gather
from paljax.policy.clusters import k_means
from paljax.reward.trained_model import TrainedModel

GroupedBy = Literal["prototypes", "users", "clusters", "labels"]


class Groups(NamedTuple):
    """Who is served: groups of people, and what each makes of the columns."""

    names: tuple[str, ...]  # G
    matrix: NDArray[np.float32]  # A, [G, C]; rows on the simplex
    columns: tuple[str, ...]  # C
    corners: NDArray[np.float32]  # [C, K] weights on the prototypes whose reward a column is
    people: NDArray[np.int64]  # [G] how many are in each group
    dropped: tuple[str, ...]  # prototypes that are left out, since nobody has them


class GroupRewards(NamedTuple):
    """Rewards of a trained run for the columns of some groups."""

    model: TrainedModel
    groups: Groups

    def __call__(self, items: Table, prompts: Table | None = None) -> Float[Array, "n C"]:
        """Rewards of items, in nats: one row for each item with the prompt beside it."""
        return self.of_inputs(*self.encode(items, prompts))

    def encode(self, items: Table, prompts: Table | None) -> tuple[Inputs, Inputs | None]:
        """What the model reads of items and prompts, on the device."""
        inputs = jax.tree.map(jnp.asarray, self.model.item_encoder.encode(items))
        if self.model.prompt_encoder is None:
            return inputs, None
        if prompts is None:
            raise UserError("the reward run's model looks at prompts, and there are none")
        return inputs, jax.tree.map(jnp.asarray, self.model.prompt_encoder.encode(prompts))

    def of_inputs(self, items: Inputs, prompts: Inputs | None) -> Float[Array, "n C"]:
        """The same of inputs that are already encoded: a pure function, for `jit`."""
        model, params = self.model.trained.model, self.model.trained.params
        encoded = model.encode_items(params, items)
        return self._rewards(encoded, model.encode_prompts(params, prompts))

    def table(self, items: Table, prompts: Table | None = None) -> Float[Array, "X Y C"]:
        """Rewards of Y items for each of X prompts; one prompt where the model reads none."""
        model, params = self.model.trained.model, self.model.trained.params
        item_inputs, prompt_inputs = self.encode(items, prompts)
        encoded = model.encode_items(params, item_inputs)
        if prompt_inputs is None:
            once = self._rewards(encoded, None)[None]
            count = 1 if prompts is None else len(prompts)
            return jnp.broadcast_to(once, (count, *once.shape[1:]))
        encoded_prompts = model.encode_prompts(params, prompt_inputs)

        def of_prompt(row: Array) -> Array:
            beside = jnp.broadcast_to(row, (len(items),))
            return self._rewards(encoded, gather(encoded_prompts, beside))

        assert prompts is not None
        rewards: Array = jax.lax.map(of_prompt, jnp.arange(len(prompts)))
        return rewards

    def _rewards(self, items: Any, prompts: Any) -> Float[Array, "n C"]:
        """Rewards of encoded rows."""
        model, params = self.model.trained.model, self.model.trained.params
        corners = jnp.asarray(self.groups.corners)
        if model.prototype_rewards is not None:
            by_prototype = model.prototype_rewards(params, items, prompts)
            return jnp.matmul(by_prototype, corners.T, precision=jax.lax.Precision.HIGHEST)
        num_rows = len(jax.tree.leaves(items)[0])

        def of_corner(weights: Array) -> Array:
            repeated = jnp.broadcast_to(weights, (num_rows, len(weights)))
            return model.rewards(params, items, prompts, repeated)

        return jax.vmap(of_corner, out_axes=1)(corners)


def group_rewards(
    model: TrainedModel,
    by: GroupedBy = "prototypes",
    *,
    num_clusters: int = 2,
    least_people: int = 1,
    seed: int = 0,
) -> GroupRewards:
    """The rewards of a run's groups.

    Args:
        model: A finished reward run, of `load_model`.
        by: Who a group is. prototypes: everyone whose strongest prototype it is, with that
            prototype's reward; a prototype that is the strongest of too few people is left out and
            named, since one that nobody has can rule the minimum. users: each by themselves.
            clusters: users near each other, with their mean weights. labels: users with one label
            of the data's column `group`, with their mean weights.
        num_clusters: How many clusters.
        least_people: Whom a prototype needs to be kept.
        seed: Of the clusters.

    Returns:
        Columns of rewards and the matrix A that turns them into groups' rewards. In a run by EM
        a user's weights are probabilities, and the reward of a group of users is the expected one.

    Raises:
        UserError: If there are no such groups.

    Source:
        paljax's design, section 2.5.
    """
    if by not in get_args(GroupedBy):
        raise UserError(f"groups by {by!r}: {nearest(by, get_args(GroupedBy))}")
    if not model.user_weights:
        raise UserError("the reward run knows no users, so it has no groups")
    users = list(model.user_weights)
    weights = np.stack([model.user_weights[user] for user in users])
    if by == "prototypes":
        return GroupRewards(model, _prototypes(weights, least_people))
    means: NDArray[Any] = weights
    names = tuple(users)
    if by == "users":
        people = np.ones(len(users), np.int64)
    elif by == "clusters":
        means, people = _clusters(weights, num_clusters, seed)
        names = tuple(f"cluster {place + 1}" for place in range(len(means)))
    else:
        means, people, names = _labels(model, users, weights)
    linear = model.trained.model.prototype_rewards is not None
    return GroupRewards(model, _of_means(names, means.astype(np.float32), people, linear=linear))


def _prototypes(weights: NDArray[np.float32], least_people: int) -> Groups:
    num_prototypes = weights.shape[1]
    people = np.bincount(weights.argmax(axis=1), minlength=num_prototypes)
    kept = np.flatnonzero(people >= least_people)
    if not len(kept):
        raise UserError(
            f"least_people: {least_people} is wrong: the prototype that most people have, has "
            f"{people.max()}"
        )
    names = _prototype_names(num_prototypes)
    kept_names = tuple(names[k] for k in kept)
    return Groups(
        names=kept_names,
        matrix=np.eye(len(kept), dtype=np.float32),
        columns=kept_names,
        corners=np.eye(num_prototypes, dtype=np.float32)[kept],
        people=people[kept],
        dropped=tuple(name for k, name in enumerate(names) if k not in kept),
    )


def _of_means(
    names: tuple[str, ...], means: NDArray[np.float32], people: NDArray[np.int64], *, linear: bool
) -> Groups:
    """Groups of people by mean weights: mixtures of the prototypes, or columns of their own."""
    num_groups, num_prototypes = means.shape
    if linear:
        columns, corners = _prototype_names(num_prototypes), np.eye(num_prototypes, dtype="float32")
        return Groups(names, means, columns, corners, people, ())
    return Groups(names, np.eye(num_groups, dtype=np.float32), names, means, people, ())


def _clusters(
    weights: NDArray[np.float32], num_clusters: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    try:
        clusters = k_means(weights, num_clusters, seed=seed)
    except ValueError as error:
        raise UserError(f"num_clusters: {num_clusters} is wrong: {error}") from None
    return clusters.centers, np.bincount(clusters.cluster, minlength=num_clusters)


def _labels(
    model: TrainedModel, users: Sequence[str], weights: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int64], tuple[str, ...]]:
    labels = np.array([model.user_labels.get(user) for user in users], object)
    names = tuple(sorted(set(model.user_labels.values())))
    if not names:
        raise UserError(
            "groups by 'labels': the reward run's data have no column 'group'; choose one of "
            "'prototypes', 'users', 'clusters'"
        )
    means = np.stack([weights[labels == name].mean(axis=0) for name in names])
    return means, np.array([(labels == name).sum() for name in names]), names


def _prototype_names(num_prototypes: int) -> tuple[str, ...]:
    return tuple(f"prototype {place + 1}" for place in range(num_prototypes))
