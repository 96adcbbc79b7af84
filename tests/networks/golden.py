"""What Hugging Face's torch code answers on the tiny checkpoints, in float64; writes `golden.json`.

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
    """Logits, penultimate states and greedy tokens of a checkpoint on the batch.

    In float64 wherever Hugging Face lets it be (its root-mean-square norms are float32), each text
    by itself and without padding, whose places hold zeros.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="sdpa"
    ).eval()
    found: dict[str, list[Any]] = {"logits": [], "penultimate": [], "greedy": []}
    for tokens, mask in zip(tiny_checkpoints.TOKENS, tiny_checkpoints.MASK, strict=True):
        text = torch.tensor(tokens[mask])[None]
        with torch.no_grad():
            output = model(text, output_hidden_states=True)
            drawn = model.generate(
                text,
                attention_mask=torch.ones_like(text),
                do_sample=False,
                min_new_tokens=tiny_checkpoints.NEW_TOKENS,
                max_new_tokens=tiny_checkpoints.NEW_TOKENS,
                pad_token_id=0,
                eos_token_id=None,
            )
        room = [(len(tokens) - text.shape[1], 0), (0, 0)]
        found["logits"].append(np.pad(output.logits[0].numpy(), room))
        found["penultimate"].append(np.pad(output.hidden_states[-2][0].numpy(), room))
        found["greedy"].append(drawn[0, text.shape[1] :].numpy())
    return {name: np.array(values) for name, values in found.items()}


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
            "logits": found["logits"][:, -3:].astype(float).round(8).tolist(),
            "penultimate": found["penultimate"][:, -3:].astype(float).round(8).tolist(),
            "greedy": found["greedy"].tolist(),
        }
    GOLDEN.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
