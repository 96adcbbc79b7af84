"""The optimizer of every reward step that is timed: one rate for all parameters, nothing else."""

from paljax.learners.optimizers import PARAMETER_GROUPS, OptimizerSettings

PLAIN_ADAMW = OptimizerSettings(
    learning_rate=dict.fromkeys(PARAMETER_GROUPS, 1e-3),
    weight_decay=dict.fromkeys(PARAMETER_GROUPS, 0.0),
    schedule="constant",
    warmup_fraction=0.0,
    clip_norm=1.0,
)
