"""What a policy run is about: the policy, the groups and their rewards, from a configuration."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray

from paljax import digests
from paljax.config.policy import (
    FileRewards,
    GroupsSection,
    PolicyConfig,
    SequenceRewards,
    TableRewards,
    TabularPolicy,
)
from paljax.errors import UserError
from paljax.learners.fit_policy import Rewards
from paljax.learners.objectives import Groups
from paljax.policies import Policy, Sequences, categorical, sequences, tabular_autoregressive
from paljax.policy.decoding import Decoder
from paljax.policy.reward_files import RewardTable, checked, read_rewards

# Objectives that one group is enough for.
_OF_ONE = ("utilitarian", "majority", "single")

Take = Callable[[Any, Int[Array, "B"]], Any]  # (prompts, rows) -> those prompts


class FiniteTables(NamedTuple):
    """All rewards of a problem whose actions can be enumerated, as they are optimised."""

    rewards: NDArray[np.float64]  # [X, Y, G] of the groups, normalised
    log_reference: NDArray[np.float64]  # [X, Y]
    actions: tuple[str, ...]  # [Y], what they are called


class Texts(NamedTuple):
    """What a problem whose responses are texts has beside."""

    policy: Policy  # draws from itself, whatever it draws from while it learns
    decoder: Decoder  # of tokens
    held_out: tuple[str, ...]  # prompts to evaluate on
    prompts: Any  # the same as the policy takes them
    rewards: Callable[[Any, Array, Array], Array]  # as `Rewards.of_responses`, in nats
    scale: Float[Array, "G"] | None  # of the normalised rewards, nats; None: another normalisation
    remarks: tuple[str, ...]  # what a person should know
    grid: Mesh | None  # the devices, where there are several


class Problem(NamedTuple):
    """A policy problem."""

    policy: Policy
    rewards: Rewards
    groups: Groups
    num_rewards: int  # K, that the groups' rewards are made of
    prompts: Any  # a pytree of arrays, those of X prompts with leading axis X
    take: Take  # those of some rows
    prompt_weights: NDArray[np.float64]  # [X], summing to 1
    inputs: Mapping[str, str]  # digests of the files that it is from, by key of the configuration
    tables: FiniteTables | None  # where the actions can be enumerated
    texts: Texts | None = None  # where they are texts

    @property
    def num_prompts(self) -> int:
        """X."""
        return len(self.prompt_weights)


def build_problem(config: PolicyConfig) -> Problem:
    """The problem that a configuration describes, where actions can be enumerated.

    Raises:
        UserError: If the rewards or the groups are wrong.
    """
    table, policy, actions = _finite(config)
    num_rewards = table.rewards.shape[2]
    groups, matrix = build_groups(config.groups, num_rewards, objective=config.objective.name)
    rewards = table.rewards @ matrix.T
    if config.normalize != "none":
        from paljax.policy.normalize_rewards import normalize, require_varied

        raw = jnp.asarray(rewards)
        log_reference = jnp.asarray(table.log_reference)
        prompt_weights = jnp.asarray(table.prompt_weights)
        require_varied(
            raw,
            groups.names,
            kind=config.normalize,
            log_reference=log_reference,
            prompt_weights=prompt_weights,
        )
        measured = normalize(
            raw, log_reference, prompt_weights, kind=config.normalize, beta=config.beta
        )
        rewards = np.asarray(measured, float)
    held = jnp.asarray(rewards, jnp.float32)
    assert policy.actions is not None
    number = policy.actions.number

    def of_responses(prompts: Int[Array, "B"], tokens: Array, mask: Array) -> Float[Array, "B n G"]:
        rows = jnp.take(held, prompts, axis=0)
        return jnp.take_along_axis(rows, number(tokens, mask)[:, :, None], axis=1)

    def of_actions(prompts: Int[Array, "B"]) -> Float[Array, "B Y G"]:
        return jnp.take(held, prompts, axis=0)

    return Problem(
        policy=policy,
        rewards=Rewards(of_responses, of_actions),
        groups=groups,
        num_rewards=num_rewards,
        prompts=jnp.arange(len(rewards)),
        take=_take_rows,
        prompt_weights=table.prompt_weights,
        inputs=_inputs(config, table),
        tables=FiniteTables(rewards, table.log_reference, actions),
    )


def build_groups(
    section: GroupsSection, num_rewards: int, *, objective: str
) -> tuple[Groups, Float[np.ndarray, "G K"]]:
    """The groups and A, how much each makes of each reward, checked against their number.

    Args:
        section: The configuration's.
        num_rewards: K.
        objective: Name of what groups are served by; most are between two groups or more.

    Raises:
        UserError: If there are fewer groups, or names, matrix and shares don't fit.
    """
    matrix = np.eye(num_rewards)
    if section.matrix is not None:
        try:
            matrix = np.array(section.matrix, float)
        except ValueError:
            raise UserError("groups.matrix: its rows have unequal lengths") from None
        if matrix.ndim != 2 or matrix.shape[1] != num_rewards:
            raise UserError(
                f"groups.matrix has shape {list(matrix.shape)}; wanted a column for each of the "
                f"{num_rewards} rewards"
            )
    count = len(matrix)
    if count < 2 and objective not in _OF_ONE:
        raise UserError(
            f"groups: there is {count} group (K = {num_rewards} rewards); {objective!r} is between "
            "two or more"
        )
    names = section.names or [f"group {number}" for number in range(count)]
    shares = np.full(count, 1 / count) if section.shares is None else np.array(section.shares)
    for key, values in (("names", names), ("shares", shares)):
        if len(values) != count:
            raise UserError(f"groups.{key}: {len(values)} given for {count} groups")
    if len(set(names)) < count:
        raise UserError("groups.names: a name is given twice")
    for name, share, row in zip(names, shares, matrix, strict=True):
        if share == 0 or not np.abs(row).sum():
            what = "share of the population is 0" if share == 0 else "row of the matrix is 0"
            raise UserError(
                f"groups: {name!r} has no users (its {what}) and would rule the minimum; leave it "
                "out"
            )
    if not np.isfinite(matrix).all():
        raise UserError("groups.matrix: wanted finite numbers")
    return Groups(tuple(names), jnp.asarray(shares / shares.sum())), matrix


def _take_rows(prompts: Any, rows: Int[Array, "B"]) -> Any:
    return jax.tree.map(lambda leaf: jnp.take(leaf, rows, axis=0), prompts)


def _finite(config: PolicyConfig) -> tuple[RewardTable, Policy, tuple[str, ...]]:
    section = config.rewards
    if isinstance(section, SequenceRewards):
        assert isinstance(config.policy, TabularPolicy)
        letters = config.policy.letters
        space = sequences(len(letters), config.policy.length)
        policy = tabular_autoregressive(1, space)
        assert policy.actions is not None
        start = policy.init(jax.random.key(0))
        log_reference = np.asarray(policy.actions.log_policy(start, jnp.zeros(1, int)), float)
        rewards = _of_sequences(section, letters, space)[None]
        table = checked("rewards", rewards, np.exp(log_reference), None)
        return table._replace(log_reference=log_reference), policy, _names(letters, space)
    if isinstance(section, FileRewards):
        table = read_rewards(Path(section.path))
    else:
        assert isinstance(section, TableRewards)
        table = checked("rewards", section.rewards, section.reference, section.prompt_weights)
    actions = tuple(f"action {number}" for number in range(table.rewards.shape[1]))
    return table, categorical(jnp.asarray(table.log_reference, jnp.float32)), actions


def _inputs(config: PolicyConfig, table: RewardTable) -> dict[str, str]:
    """What the configuration does not hold itself."""
    if not isinstance(config.rewards, FileRewards):
        return {}
    return {"rewards.path": digests.of_arrays(table)}


def _of_sequences(
    section: SequenceRewards, letters: list[str], space: Sequences
) -> NDArray[np.float64]:
    columns = []
    for reward in section.rewards:
        column = reward.constant + reward.per_token * (space.mask.sum(axis=1) - 1.0)
        for letter, worth in reward.counts.items():
            found = (space.tokens == letters.index(letter)) & space.mask
            column = column + worth * found.sum(axis=1)
        columns.append(column)
    return np.stack(columns, axis=1)


def _names(letters: list[str], space: Sequences) -> tuple[str, ...]:
    written = [*letters, "."]
    return tuple(
        "".join(written[token] for token in row[mask])
        for row, mask in zip(space.tokens, space.mask, strict=True)
    )
