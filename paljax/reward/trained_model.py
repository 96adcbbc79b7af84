"""The trained model of a finished run: writing it, and reading it back for the other commands."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from paljax import digests, runs, storage
from paljax.checkpoints import Checkpoints, DamagedError
from paljax.config import Config
from paljax.data.batches import Tables
from paljax.data.dataset import Dataset
from paljax.data.encoders import Encoder, encoder_from_json
from paljax.data.files import Responses
from paljax.data.prepare import Prepared, encode_tables, encoding_remarks
from paljax.errors import UserError
from paljax.models import PreferenceModel
from paljax.reward.fits import build_model
from paljax.reward.predictors import Trained

FINAL = "final"


class TrainedModel(NamedTuple):
    """What a finished run knows."""

    config: Config
    trained: Trained
    item_encoder: Encoder
    prompt_encoder: Encoder | None
    user_weights: dict[str, NDArray[np.float32]]  # by user id, [K] each
    user_labels: dict[str, str]  # the data's own group label by user id, where there is one

    def encode(self, dataset: Dataset) -> Tables:
        """Inputs of a data set's items and prompts, as the model was trained to read them."""
        return encode_tables(dataset, self.item_encoder, self.prompt_encoder)

    def remarks(self, dataset: Dataset) -> dict[str, int]:
        """How many of its items and prompts could not be read as they are, by reason."""
        return encoding_remarks(dataset, self.item_encoder, self.prompt_encoder)


def save_parameters(run_dir: Path, trained: Trained) -> None:
    """Write the final parameters; all processes of a run together."""
    held = {"params": trained.params, "population": trained.population}
    with Checkpoints(run_dir / runs.CHECKPOINTS / FINAL) as checkpoints:
        if checkpoints.latest() is None:
            # Each process has its own copy, as NumPy arrays the first one's is written.
            checkpoints.save(0, jax.tree.map(np.asarray, held))


def save_model(run_dir: Path, trained: Trained, prepared: Prepared, *, shared: bool) -> None:
    """Write what is needed to use the final parameters.

    Args:
        run_dir: Of the run.
        trained: The final model.
        prepared: The run's data.
        shared: Whether it is the shared reward, whatever model the configuration names.
    """
    prompt_encoder = prepared.prompt_encoder
    record = {
        "shared": shared,
        "num_prototypes": trained.model.num_prototypes,
        "prior_strength": trained.prior_strength,
        "item_encoder": prepared.item_encoder.to_json(),
        "prompt_encoder": None if prompt_encoder is None else prompt_encoder.to_json(),
    }
    storage.write_json(run_dir / runs.MODEL, record)


def load_model(run_dir: Path) -> TrainedModel:
    """Read the trained model of a run.

    Args:
        run_dir: A finished run.

    Returns:
        The model with everything needed to use it.

    Raises:
        UserError: If the folder holds no finished run, or a damaged one.
    """
    config = runs.read_config(run_dir)
    if not isinstance(config, Config):
        raise UserError(f"{run_dir}: is a run of stage {config.stage!r}; wanted one of 'reward'")
    record = storage.read_json(run_dir / runs.MODEL)
    try:
        item_encoder = encoder_from_json(record["item_encoder"])
        prompt_encoder = record["prompt_encoder"] and encoder_from_json(record["prompt_encoder"])
        num_prototypes = None if record["shared"] else record["num_prototypes"]
        model = build_model(config, num_prototypes, item_encoder, prompt_encoder)
        like = jax.eval_shape(lambda: _initial(model, item_encoder, prompt_encoder))
        strength = record["prior_strength"]
        prior_strength = None if strength is None else float(strength)
    except KeyError as error:
        raise UserError(f"{run_dir / runs.MODEL}: damaged: key {error} is missing") from None
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{run_dir / runs.MODEL}: damaged: {reason}") from None
    user_weights = _user_weights(run_dir / runs.USERS, model.num_prototypes)
    folder = run_dir / runs.CHECKPOINTS / FINAL
    if not folder.is_dir():
        raise UserError(f"{folder}: no such checkpoint; is the run finished?")
    with Checkpoints(folder) as checkpoints:
        newest = checkpoints.latest()
        if newest is None:
            raise UserError(f"{folder}: holds no whole checkpoint; train the run again")
        try:
            held = checkpoints.restore(newest, like)
        except DamagedError as error:
            raise UserError(str(error)) from None
    return TrainedModel(
        config=config,
        trained=Trained(model, held["params"], held["population"], prior_strength),
        item_encoder=item_encoder,
        prompt_encoder=prompt_encoder,
        user_weights=user_weights,
        user_labels=_user_labels(run_dir / runs.USERS),
    )


def digest_of(model: TrainedModel) -> str:
    """Digest of all that a model is made of: another where it could reward otherwise."""
    prompt_encoder, trained = model.prompt_encoder, model.trained
    arrays = jax.tree.leaves((trained.params, trained.population))
    return digests.of_record(
        [
            model.config.model.model_dump(mode="json"),
            model.item_encoder.to_json(),
            None if prompt_encoder is None else prompt_encoder.to_json(),
            list(model.user_weights),
            model.user_labels,
            digests.of_arrays([*arrays, *model.user_weights.values()]),
        ]
    )


def _initial(
    model: PreferenceModel, item_encoder: Encoder, prompt_encoder: Encoder | None
) -> dict[str, Any]:
    prompts = None if prompt_encoder is None else prompt_encoder.blank()
    params = model.init(jax.random.key(0), item_encoder.blank(), prompts)
    return {"params": params, "population": jnp.zeros(model.num_prototypes)}


def _user_weights(file: Path, num_prototypes: int) -> dict[str, NDArray[np.float32]]:
    users = storage.read_table(file)
    for column in ("user_id", "weights"):
        if column not in users:
            raise UserError(f"{file}: damaged: it has no column {column!r}")
    for user, weights in zip(users["user_id"], users["weights"], strict=True):
        if not isinstance(weights, list) or len(weights) != num_prototypes or None in weights:
            raise UserError(f"{file}: damaged: user {user!r} has not {num_prototypes} weights")
    return {
        user: np.asarray(weights, np.float32)
        for user, weights in zip(users["user_id"], users["weights"], strict=True)
    }


def _user_labels(file: Path) -> dict[str, str]:
    users = storage.read_table(file)
    labels = users.get("group", [None] * len(users["user_id"]))
    return {
        user: label
        for user, label in zip(users["user_id"], labels, strict=True)
        if label is not None
    }


def weights_for(
    model: TrainedModel, users: Sequence[str], joined: Mapping[str, Any]
) -> tuple[Float[Array, "U K"], dict[str, int]]:
    """Weights of users by id.

    Args:
        model: The run's model.
        users: User ids.
        joined: Weights of users who were fitted after training; they go first.

    Returns:
        Weights, and how many users had them from where: adapt, run, or population.
    """
    population = np.asarray(model.trained.population)
    weights = [joined.get(user, model.user_weights.get(user, population)) for user in users]
    in_run = sum(user in model.user_weights and user not in joined for user in users)
    in_joined = sum(user in joined for user in users)
    sources = {"adapt": in_joined, "run": in_run, "population": len(users) - in_run - in_joined}
    return jnp.asarray(np.stack([np.asarray(row) for row in weights])), sources


def item_rewards(
    model: TrainedModel, responses: Responses, weights: Float[Array, "n K"]
) -> NDArray[np.float32]:
    """Reward of every response for the weights beside it, in nats, shape [n].

    Rewards of one prompt can be compared; their level is arbitrary. Where users are members of
    groups, this is the mean of the groups' rewards, whose difference is not the user's log-odds.
    """
    trained = model.trained
    encoded_items = trained.model.encode_items(
        trained.params, jax.tree.map(jnp.asarray, model.item_encoder.encode(responses.response))
    )
    encoded_prompts = None
    if model.prompt_encoder is not None:
        if responses.prompt is None:
            raise UserError("the model needs prompts, the file has no column 'prompt'")
        prompts = jax.tree.map(jnp.asarray, model.prompt_encoder.encode(responses.prompt))
        encoded_prompts = trained.model.encode_prompts(trained.params, prompts)
    rewards = trained.model.rewards(trained.params, encoded_items, encoded_prompts, weights)
    return np.asarray(rewards)
