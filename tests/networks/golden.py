"""What Hugging Face's torch code answers on the tiny checkpoints; writes `golden.json`.

    python -m tests.networks.golden

Needs torch and transformers (the `embed` extra).
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.networks import tiny_checkpoints

GOLDEN = Path(__file__).parent / "golden.json"


def answers(folder: Path) -> dict[str, Any]:
    """Logits, the states of every layer and greedy tokens of a checkpoint on the batch."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokens, mask = map(torch.tensor, (tiny_checkpoints.TOKENS, tiny_checkpoints.MASK))
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        output = model(
            tokens,
            attention_mask=mask.long(),
            position_ids=positions,
            output_hidden_states=True,
        )
        greedy = model.generate(
            tokens,
            attention_mask=mask.long(),
            do_sample=False,
            min_new_tokens=tiny_checkpoints.NEW_TOKENS,
            max_new_tokens=tiny_checkpoints.NEW_TOKENS,
            pad_token_id=0,
            eos_token_id=None,
        )
    return {
        "logits": output.logits.numpy(),
        "penultimate": output.hidden_states[-2].numpy(),
        "greedy": greedy[:, tokens.shape[1] :].numpy(),
    }


def main() -> None:
    """Write `golden.json`."""
    import torch
    import transformers

    golden: dict[str, Any] = {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__}
    }
    for name in tiny_checkpoints.CHECKPOINTS:
        with tempfile.TemporaryDirectory() as folder:
            found = answers(tiny_checkpoints.write(name, Path(folder)))
        print(name, np.abs(found["logits"]).max(), found["greedy"].tolist())
        golden[name] = {
            # The last tokens only: a mistake before them changes them.
            "logits": found["logits"][:, -3:].astype(float).round(7).tolist(),
            "penultimate": found["penultimate"][:, -3:].astype(float).round(7).tolist(),
            "greedy": found["greedy"].tolist(),
        }
    GOLDEN.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
