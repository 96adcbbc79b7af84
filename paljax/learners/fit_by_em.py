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
from paljax.learners.learner import Learner, Metrics
from paljax.learners.losses import expected_loss, logistic
from paljax.learners.optimizers import (
    OptimizerSettings,
    by_group,
    clipped,
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
    num_groups = model.num_prototypes
    transformation = by_group(optimizer)

    def init_one(key: PRNGKeyArray) -> tuple[Params, optax.OptState]:
        params = model.init(key, example_items, example_prompts)
        return params, transformation.init((params, ()))

    def init(key: PRNGKeyArray) -> EMState:
        params_key, state_key = jax.random.split(key)
        params, optimizer_state = jax.vmap(init_one)(jax.random.split(params_key, starts))
        return EMState(
            params=params,
            log_sizes=jnp.full((starts, num_groups), -jnp.log(num_groups)),
            optimizer=optimizer_state,
            evidence=jnp.full(starts, -jnp.inf),
            step=jnp.zeros((), jnp.int32),
            num_steps=jnp.asarray(optimizer.num_steps, jnp.int32),
            key=jax.random.split(state_key, starts),
        )

    def objective(
        params: Params, responsibilities: Array, batch: Batch, dropout_key: PRNGKeyArray
    ) -> tuple[Array, Array]:
        encoded = EncodedTables(
            model.encode_items(params, batch.items, dropout_key=dropout_key),
            model.encode_prompts(params, batch.prompts, dropout_key=dropout_key),
        )
        margins = _margins(model, params, encoded, batch.chosen, batch.rejected, batch.prompt)
        of_users = jnp.take(responsibilities, batch.users, axis=0, mode="clip")
        belongs = gather(of_users, batch.user)
        losses = expected_loss(logistic, margins, batch.target[:, None])
        expected = batch.weight * jnp.sum(belongs * losses, axis=1)
        return _mean(expected, batch.present), _mean(
            jnp.sum(belongs * margins, axis=1), batch.present
        )

    def maximise(
        params: Params,
        optimizer_state: optax.OptState,
        key: PRNGKeyArray,
        responsibilities: Array,
        iteration: Iteration,
        first_step: Array,
        num_steps: Array,
    ) -> tuple[Params, optax.OptState, Metrics]:
        def gradient_step(
            carried: tuple[Params, optax.OptState, Array], plan: Plan
        ) -> tuple[tuple[Params, optax.OptState, Array], Metrics]:
            params, optimizer_state, step = carried
            (loss, margin), gradient = jax.value_and_grad(objective, has_aux=True)(
                params,
                responsibilities,
                to_batch(iteration.tables, plan),
                jax.random.fold_in(key, step),
            )
            shared = (gradient, ())
            norms = gradient_norms(shared)
            shared = clipped(shared, norms["grad_norm"], optimizer)
            updates, optimizer_state = transformation.update(shared, optimizer_state, (params, ()))
            factor = rate_factor(optimizer, step, num_steps)
            params, _ = optax.apply_updates((params, ()), optax.tree.scale(factor, updates))
            metrics = {"loss": loss, "margin": margin} | norms
            return (params, optimizer_state, step + 1), metrics

        (params, optimizer_state, _), metrics = jax.lax.scan(
            gradient_step, (params, optimizer_state, first_step), iteration.plan
        )
        return params, optimizer_state, jax.tree.map(jnp.mean, metrics)

    def iterate(
        params: Params,
        log_sizes: Array,
        optimizer_state: optax.OptState,
        key: PRNGKeyArray,
        iteration: Iteration,
        step: Array,
        num_steps: Array,
    ) -> tuple[Params, optax.OptState, Expectation, Metrics]:
        encoded = encode(model, params, iteration.tables)
        found = expect(
            model, params, log_sizes, encoded, iteration.choices, num_users, assignment=assignment
        )
        params, optimizer_state, metrics = maximise(
            params, optimizer_state, key, found.responsibilities, iteration, step, num_steps
        )
        metrics |= {
            "evidence": found.evidence,
            "accuracy": found.accuracy,
            "groups_with_users": groups_with_users(found.log_sizes, iteration.choices.observed),
        }
        return params, optimizer_state, found, metrics

    def step(state: EMState, batch: Iteration) -> tuple[EMState, Metrics]:
        params, optimizer_state, found, metrics = jax.vmap(
            iterate, in_axes=(0, 0, 0, 0, None, None, None)
        )(
            state.params,
            state.log_sizes,
            state.optimizer,
            state.key,
            batch,
            state.step,
            state.num_steps,
        )
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(found.evidence)
        best = best_start(found.evidence)
        of_best = {name: values[best] for name, values in metrics.items()}
        steps = len(batch.plan.present)
        rate = optimizer.learning_rate["networks"] * rate_factor(
            optimizer, state.step, state.num_steps
        )
        new_state = EMState(
            params=params,
            log_sizes=found.log_sizes,
            optimizer=optimizer_state,
            evidence=found.evidence,
            step=state.step + steps,
            num_steps=state.num_steps,
            key=state.key,
        )
        return new_state, of_best | {
            "step": state.step,
            "learning_rate": jnp.asarray(rate),
            "finite_starts": jnp.sum(finite),
        }

    return Learner(init, step)


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


def _mean(values: Float[Array, "B"], present: Array) -> Float[Array, ""]:
    return jnp.sum(jnp.where(present, values, 0)) / jnp.maximum(jnp.sum(present), 1)
