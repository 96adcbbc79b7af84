"""PAL with the settings that its authors' code trains: a baseline, so that what we added is seen.

Two prototypes and no prior on users' weights, cosine similarity, a two-layer GELU projector, AdamW
at the authors' rates, nothing that all users share.
"""

from paljax.config import Config

NAME = "pal_as_published"
# A hundredth of a comparison, for no prior at all: the fit of new users needs its barrier.
NEXT_TO_NO_PRIOR = 0.01
# Their rates are a hundredth of ours: after our number of epochs they would hardly have begun.
MOST_EPOCHS = 1000
PATIENCE = 50  # epochs without a better validation loss


def as_published(config: Config, *, uses_prompts: bool) -> Config:
    """The configuration of a run with the authors' model and optimiser in place of its own.

    Args:
        config: Of the run; data, splits, encoders, batches and seed stay.
        uses_prompts: Whether the run's models read prompts. Without prompts the K maps of PAL-B are
            K directions: PAL-A with cosines to a mixture of latent points.

    Returns:
        A configuration that trains until the validation loss has stopped falling.

    Source:
        PAL, arXiv 2406.08469, section 4 and the released training configurations.
    """
    width = getattr(config.model, "latent_width", 64)
    model = {
        "num_prototypes": 2,
        "latent_width": width,
        "hidden_layers": 1,
        "activation": "gelu",
        "shared": None,
    }
    if uses_prompts:
        model |= {"name": "pal_b", "similarity": "cosine"}
    else:
        model |= {"name": "pal_a", "distance": "cosine", "user_point": "latent"}
    rates = {"networks": 1e-4, "prototypes": 1e-4, "scale": 1e-4, "user_weights": 5e-3}
    record = config.model_dump() | {
        "model": model,
        "learner": {"name": "gradient"},
        "prior_strength": NEXT_TO_NO_PRIOR,
        "optimizer": {
            "learning_rate": rates,
            "weight_decay": dict.fromkeys(rates, 0.0) | {"networks": 0.01},  # torch's default
            "schedule": "constant",
            "warmup_fraction": 0.0,
            "clip_norm": None,
        },
    }
    record["training"] = record["training"] | {
        "epochs": max(MOST_EPOCHS, config.training.epochs),
        "patience": PATIENCE,
        "checkpoint_every": PATIENCE,
    }
    record["selection"] = record["selection"] | {"prior_strength": [NEXT_TO_NO_PRIOR]}
    return Config.model_validate(record)
