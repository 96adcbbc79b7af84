"""The language model that a policy run ends with, as a folder that `policy.model` takes."""

import dataclasses
from functools import partial
from pathlib import Path

from paljax.config.policy import CausalLMPolicy
from paljax.networks import lora
from paljax.networks.loading import save_language_model
from paljax.networks.tokenizers import TOKENIZER
from paljax.policies import Params
from paljax.policy.text_problems import end_tokens_of, starting_model
from paljax.storage import write_folder


def write_trained(section: CausalLMPolicy, params: Params, folder: Path) -> str:
    """Write config.json, model.safetensors and the tokenizer's files, whole or not at all.

    Parameters are float32 (28 GB of 7 billion) and go to the disk tensor by tensor from wherever
    they lie; LoRA's parts are merged. Texts end with the tokens that ended the run's responses.

    Args:
        section: The configuration's.
        params: Of the policy, of the iterate that is evaluated.
        folder: Where to; replaced where it is there.

    Returns:
        What to say of it.

    Raises:
        UserError: If the folder can't be written.
    """
    start = starting_model(section)
    trained = start._replace(
        config=dataclasses.replace(start.config, end_tokens=end_tokens_of(section, start.config)),
        params=params if section.lora is None else lora.with_parts(start.params, params),
    )
    write_folder(folder, partial(save_language_model, trained))
    if TOKENIZER in trained.tokenizer.files:
        return f"{folder}: the trained language model, as Hugging Face reads it"
    return (
        f"{folder}: the trained language model; Hugging Face reads it without its tokenizer "
        f"({', '.join(trained.tokenizer.files)} of llama2.c), paljax with it"
    )
