"""Stories of the reference policy for `maxmin_stories`, by the settings of its policy.yaml."""

from pathlib import Path

import jax
import numpy as np

from paljax.config import load
from paljax.data.encoders.causal_lm import open_language_model
from paljax.policy.language_model import language_model_policy, left_padded
from paljax.policy.text_problems import end_tokens_of

_CONFIG = Path(__file__).with_name("policy.yaml")


def draw_stories(prompts: list[str], samples: int, seed: int) -> list[list[str]]:
    """Stories that the reference tells.

    Args:
        prompts: X prompts.
        samples: n stories of each.
        seed: Of the draws.

    Returns:
        The stories without their openings, [X][n].
    """
    section = load(_CONFIG).policy  # type: ignore[union-attr]
    model = open_language_model(section.model)
    ends = end_tokens_of(section, model.config)
    policy = language_model_policy(
        model.config, model.params, max_tokens=section.max_new_tokens, end_tokens=ends
    )
    ids = [[*model.tokenizer.opening, *model.tokenizer.encode(text)] for text in prompts]
    table = left_padded(ids, context=model.config.context, max_tokens=section.max_new_tokens)
    params = policy.init(jax.random.key(seed))
    draw = jax.jit(policy.sample, static_argnums=3)
    drawn = draw(params, jax.random.key(seed), table, samples)
    tokens, mask = np.asarray(drawn.tokens), np.asarray(drawn.mask)
    kept = mask & ~np.isin(tokens, ends)
    return [
        [model.tokenizer.decode(row[of].tolist()) for row, of in zip(rows, masks, strict=True)]
        for rows, masks in zip(tokens, kept, strict=True)
    ]
