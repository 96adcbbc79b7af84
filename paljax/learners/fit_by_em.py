"""Fit a mixture of rewards by EM: who belongs to which group, and what each group wants.

R starts, U users, K groups, n comparisons, B comparisons a batch, S gradient steps an M-step.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from paljax.data.batches import Batch, Plan, to_batch
from paljax.data.iterations import Choices, Iteration
from paljax.kernels import log_odds, sum_by_user
from paljax.learners.devices import part_of_mean
from paljax.learners.learner import Learner, Metrics
from paljax.learners.losses import expected_loss, logistic
from paljax.learners.optimizers import (
    OptimizerSettings,
    by_group,
    clipped,
    descend,
    gradient_norms,
    rate_factor,
)
from paljax.models import Inputs, Params, PreferenceModel, gather
from paljax.predictions import EncodedTables, encode

Assignment = Literal["soft", "hard"]
# A group that is expected to hold fewer users than this has died out.
LEAST_USERS = 0.5


class EMState(NamedTuple):
    """All that the next iteration needs."""

    params: Params  # of the preference model, leading axis R
    log_sizes: Float[Array, "R K"]  # log η, the groups' shares of the users; -inf where none is
    optimizer: optax.OptState  # of params, leading axis R
    evidence: Float[Array, "R"]  # nats a comparison, of the choices at the last E-step
    step: Int[Array, ""]  # gradient steps taken
    num_steps: Int[Array, ""]  # gradient steps that the schedule spans
    key: PRNGKeyArray  # [R]; step t of a start draws from fold_in(key, t)


class Expectation(NamedTuple):
    """What an E-step finds for one start."""

    responsibilities: Float[Array, "U K"]
    log_sizes: Float[Array, "K"]  # log η
    evidence: Float[Array, ""]  # nats a comparison
    accuracy: Float[Array, ""]  # in [0, 1]; half for a choice that is foreseen at even odds


class Foresight(NamedTuple):
    """How well choices are foreseen."""

    evidence: Float[Array, ""]  # nats a comparison
    accuracy: Float[Array, ""]  # in [0, 1]


def fit_by_em(
    model: PreferenceModel,
    *,
    example_items: Inputs,
    example_prompts: Inputs | None,
    num_users: int,
    optimizer: OptimizerSettings,
    assignment: Assignment = "soft",
    starts: int = 1,
) -> Learner:
    """Maximise Σ_u log Σ_k η_k Π_j σ(m_jk): each user has one of K rewards.

    One step of the learner is one iteration. E-step: log q_uk = log η_k + Σ_j log σ(m_jk),
    normalised over k, and η_k = mean_u q_uk. M-step: gradient steps on -Σ_u q_uk Σ_j log σ(m_jk)
    from where the last iteration ended. With a small enough step the evidence never falls.
    Comparisons may be weighted and ties are half a choice each way, in both steps; a target of
    1 - ε (label smoothing) likewise, so that both maximise one objective. Where rows of the M-step
    carry weights by user, the two steps differ by these, and the evidence may fall.

    A group may lose all its users. Its η is then 0 for good and its reward stays where it is; it is
    counted in the metrics and never seeded anew.

    Args:
        model: A preference model with a reward for each prototype; prototypes are the groups.
        example_items: Inputs of at least one item; only their widths matter.
        example_prompts: Inputs of at least one prompt, or None.
        num_users: U.
        optimizer: How the model's parameters move.
        assignment: soft; or hard, q one for the group with the highest likelihood and zero for the
            others, without η, which is then the share of users so assigned.
        starts: R, fits from different parameters, side by side in one compiled program.

    Returns:
        A learner on `EMState` and `Iteration`. Metrics of an iteration, all of the start with the
        most evidence: step, loss, margin (of the mean reward), learning_rate, grad_norm and
        grad_norm/GROUP, means over the M-step; evidence and accuracy at the E-step;
        groups_with_users; and finite_starts, since a start that diverges is left behind.

    Raises:
        ValueError: If the model has no rewards per prototype.

    Source:
        Dempster, Laird and Rubin (1977); MaxMin-RLHF, arXiv 2402.08925, algorithm 2, which assigns
        hard; paljax's design, section 2.4.
    """
    if model.prototype_rewards is None:
        raise ValueError("fit_by_em needs a model with a reward for each prototype")
    mixture = _Mixture(model, num_users, optimizer, by_group(optimizer), assignment, starts)
    return Learner(partial(_init, mixture, example_items, example_prompts), partial(_step, mixture))


class _Mixture(NamedTuple):
    """What the iterations of a fit share."""

    model: PreferenceModel
    num_users: int
    settings: OptimizerSettings
    transformation: optax.GradientTransformation
    assignment: Assignment
    starts: int


# The axis of the starts in every field of a state: they share the clock.
OVER_STARTS = EMState._make(
    None if field in ("step", "num_steps") else 0 for field in EMState._fields
)


def _init(mixture: _Mixture, items: Inputs, prompts: Inputs | None, key: PRNGKeyArray) -> EMState:
    starts, num_groups = mixture.starts, mixture.model.num_prototypes

    def init_one(key: PRNGKeyArray) -> tuple[Params, optax.OptState]:
        params = mixture.model.init(key, items, prompts)
        return params, mixture.transformation.init((params, ()))

    params_key, state_key = jax.random.split(key)
    params, moments = jax.vmap(init_one)(jax.random.split(params_key, starts))
    return EMState(
        params=params,
        log_sizes=jnp.full((starts, num_groups), -jnp.log(num_groups)),
        optimizer=moments,
        evidence=jnp.full(starts, -jnp.inf),
        step=jnp.zeros((), jnp.int32),
        num_steps=jnp.asarray(mixture.settings.num_steps, jnp.int32),
        key=jax.random.split(state_key, starts),
    )


def _step(mixture: _Mixture, state: EMState, batch: Iteration) -> tuple[EMState, Metrics]:
    """One iteration of every start; metrics of the one with the most evidence."""
    iterate = jax.vmap(
        partial(_iterate, mixture), in_axes=(OVER_STARTS, None), out_axes=(OVER_STARTS, 0)
    )
    after, metrics = iterate(state, batch)
    best = best_start(after.evidence)
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(after.evidence)
    factor = rate_factor(mixture.settings, state.step, state.num_steps)
    return after, {name: values[best] for name, values in metrics.items()} | {
        "step": state.step,
        "learning_rate": jnp.asarray(mixture.settings.learning_rate["networks"] * factor),
        "finite_starts": jnp.sum(finite),
    }


def _iterate(mixture: _Mixture, state: EMState, iteration: Iteration) -> tuple[EMState, Metrics]:
    """An E-step and an M-step of one start: `state` has no axis R here."""
    found = expect(
        mixture.model,
        state.params,
        state.log_sizes,
        encode(mixture.model, state.params, iteration.tables),
        iteration.choices,
        mixture.num_users,
        assignment=mixture.assignment,
    )
    state, metrics = _maximise(mixture, state, found.responsibilities, iteration)
    metrics |= {
        "evidence": found.evidence,
        "accuracy": found.accuracy,
        "groups_with_users": groups_with_users(found.log_sizes, iteration.choices.observed),
    }
    return state._replace(log_sizes=found.log_sizes, evidence=found.evidence), metrics


def expect(
    model: PreferenceModel,
    params: Params,
    log_sizes: Float[Array, "K"],
    encoded: EncodedTables,
    choices: Choices,
    num_users: int,
    *,
    assignment: Assignment = "soft",
) -> Expectation:
    """The E-step: what the choices say about every user's group.

    Args:
        model: The preference model.
        params: Its parameters.
        log_sizes: log η.
        encoded: All items and prompts after the model's networks.
        choices: What users chose.
        num_users: U.
        assignment: soft, or hard without η.

    Returns:
        Responsibilities, η for a user without choices; the groups' shares of the users with
        choices; the evidence (hard: the likelihood under the groups assigned), and the accuracy of
        the responsibilities on the choices that they come from.
    """
    margins = _margins(model, params, encoded, choices.chosen, choices.rejected, choices.prompt)
    log_likelihood = _log_likelihood(margins, choices, num_users)
    if assignment == "hard":
        likeliest = jax.nn.one_hot(
            jnp.argmax(log_likelihood, axis=1), len(log_sizes), dtype=margins.dtype
        )
        unknown = jnp.exp(log_sizes)[None, :]
        responsibilities = jnp.where(choices.observed[:, None], likeliest, unknown)
        log_evidence = jnp.max(log_likelihood, axis=1)
    else:
        log_joint = log_sizes[None, :] + log_likelihood
        responsibilities = jax.nn.softmax(log_joint, axis=1)
        log_evidence = jax.nn.logsumexp(log_joint, axis=1)
    users = jnp.maximum(jnp.sum(choices.observed), 1)
    sizes = jnp.sum(jnp.where(choices.observed[:, None], responsibilities, 0), axis=0) / users
    return Expectation(
        responsibilities=responsibilities,
        log_sizes=jnp.log(sizes),
        evidence=jnp.sum(log_evidence) / _total(choices),
        accuracy=_accuracy(margins, jnp.log(responsibilities), choices),
    )


def _maximise(
    mixture: _Mixture, state: EMState, responsibilities: Float[Array, "U K"], iteration: Iteration
) -> tuple[EMState, Metrics]:
    """The M-step of one start: S gradient steps from where the last iteration ended."""
    settings = mixture.settings
    slope = jax.value_and_grad(partial(_objective, mixture.model), has_aux=True)

    def gradient_step(state: EMState, plan: Plan) -> tuple[EMState, Metrics]:
        dropout_key = jax.random.fold_in(state.key, state.step)
        batch = to_batch(iteration.tables, plan)
        (loss, margin), gradient = slope(state.params, responsibilities, batch, dropout_key)
        norms = gradient_norms((gradient, ()))
        clipped_gradient = clipped((gradient, ()), norms["grad_norm"], settings)
        factor = rate_factor(settings, state.step, state.num_steps)
        (params, _), moments = descend(
            mixture.transformation, (state.params, ()), clipped_gradient, state.optimizer, factor
        )
        state = state._replace(params=params, optimizer=moments, step=state.step + 1)
        return state, {"loss": loss, "margin": margin} | norms

    state, metrics = jax.lax.scan(gradient_step, state, iteration.plan)
    return state, jax.tree.map(jnp.mean, metrics)


def _objective(
    model: PreferenceModel,
    params: Params,
    responsibilities: Float[Array, "U K"],
    batch: Batch,
    dropout_key: PRNGKeyArray,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean of -Σ_k q_uk log σ(m_jk) over a batch, and the mean of Σ_k q_uk m_jk."""
    encoded = EncodedTables(
        model.encode_items(params, batch.items, dropout_key=dropout_key),
        model.encode_prompts(params, batch.prompts, dropout_key=dropout_key),
    )
    margins = _margins(model, params, encoded, batch.chosen, batch.rejected, batch.prompt)
    of_users = jnp.take(responsibilities, batch.users, axis=0, mode="clip")
    belongs = gather(of_users, batch.user)
    losses = expected_loss(logistic, margins, batch.target[:, None])
    expected = batch.weight * jnp.sum(belongs * losses, axis=1)
    margin = jnp.sum(belongs * margins, axis=1)
    return part_of_mean(expected, batch.present), part_of_mean(margin, batch.present)


def foresee(
    model: PreferenceModel,
    params: Params,
    log_weights: Float[Array, "U K"],
    encoded: EncodedTables,
    choices: Choices,
    num_users: int,
) -> Foresight:
    """How well what is known about every user's group foresees other choices.

    Args:
        model: The preference model.
        params: Its parameters.
        log_weights: Log-probabilities of every user's group, from an E-step on other choices.
        encoded: All items and prompts after the model's networks.
        choices: The choices to foresee.
        num_users: U.

    Returns:
        The log-probability of each user's choices together, and the accuracy of each by itself.
    """
    margins = _margins(model, params, encoded, choices.chosen, choices.rejected, choices.prompt)
    log_joint = log_weights + _log_likelihood(margins, choices, num_users)
    return Foresight(
        evidence=jnp.sum(jax.nn.logsumexp(log_joint, axis=1)) / _total(choices),
        accuracy=_accuracy(margins, log_weights, choices),
    )


def best_start(scores: Float[Array, "R"]) -> Int[Array, ""]:
    """The start with the highest score; one whose score is not finite is never the best."""
    return jnp.argmax(jnp.where(jnp.isfinite(scores), scores, -jnp.inf))


def groups_with_users(log_sizes: Float[Array, "K"], observed: Array) -> Float[Array, ""]:
    """How many groups are expected to hold a user at all."""
    users = jnp.exp(log_sizes) * jnp.sum(observed)
    return jnp.sum(users >= LEAST_USERS).astype(log_sizes.dtype)


def _margins(
    model: PreferenceModel,
    params: Params,
    encoded: EncodedTables,
    chosen: Int[Array, "n"],
    rejected: Int[Array, "n"],
    prompt: Int[Array, "n"],
) -> Float[Array, "n K"]:
    """Margin of every comparison under every group's reward, in nats."""
    assert model.prototype_rewards is not None
    rewards = partial(model.prototype_rewards, params)
    prompts = gather(encoded.prompts, prompt)
    return rewards(gather(encoded.items, chosen), prompts) - rewards(
        gather(encoded.items, rejected), prompts
    )


def _log_likelihood(
    margins: Float[Array, "n K"], choices: Choices, num_users: int
) -> Float[Array, "U K"]:
    log_choices = -expected_loss(logistic, margins, choices.target[:, None])
    return sum_by_user(choices.weight[:, None] * log_choices, choices.user, num_users=num_users)


def _accuracy(
    margins: Float[Array, "n K"], log_weights: Float[Array, "U K"], choices: Choices
) -> Float[Array, ""]:
    odds = log_odds(margins, gather(log_weights, choices.user))
    return jnp.sum(choices.weight * 0.5 * (1 + jnp.sign(odds))) / _total(choices)


def _total(choices: Choices) -> Float[Array, ""]:
    return jnp.maximum(jnp.sum(choices.weight), 1e-12)
