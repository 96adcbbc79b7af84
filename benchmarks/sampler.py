"""How many tokens a second does the sampler draw, against Hugging Face's generate?

    pip install '.[bench,embed]'
    python -m benchmarks.sampler

A Llama of the shape of stories260K with random weights, which torch reads from the files that we
save: 16 prompts of 16 tokens, 8 samples of each, 64 new tokens, drawn at temperature 1 with a cache
of keys and values, in float32. Nothing ends early, so that both draw as many. Hugging Face reads a
prompt once a sample, paljax once for all; log-probabilities of what was drawn come with ours and
are an extra of generate, which is asked for none. First both score the same texts: they have to
agree before they are timed.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measuring
from paljax.networks import causal_lm, huggingface, sampling
from paljax.networks.decoder_config import DecoderConfig, Rotary
from paljax.networks.sampling import Prompts

STORIES_260K = DecoderConfig(
    architecture="llama",
    vocabulary=512,
    context=512,
    width=64,
    layers=5,
    heads=8,
    kv_heads=4,
    head_width=8,
    mlp_width=172,
    norm_epsilon=1e-5,
    rotary=Rotary(10_000.0),
    tied=True,
    bos_token=1,
    end_tokens=(2,),
)
PROMPTS, PROMPT_TOKENS, SAMPLES, NEW_TOKENS = 16, 16, 8, 64
LARGEST_DIFFERENCE = 1e-3  # nats, of a token's log-probability in float32


def ours(params: Any, tokens: Any, new_tokens: int) -> Callable[[], Any]:
    """Draw, the next key at every call."""
    prompts = Prompts(jnp.asarray(tokens), jnp.ones(tokens.shape, bool))

    def draw(params: Any, key: Any) -> Any:
        return sampling.sample(
            params,
            key,
            prompts,
            STORIES_260K,
            num_samples=SAMPLES,
            max_tokens=new_tokens,
            end_tokens=(),
        )

    compiled, number = jax.jit(draw), 0

    def run() -> Any:
        nonlocal number
        number += 1
        return jax.block_until_ready(compiled(params, jax.random.key(number)))

    return run


def theirs(model: Any, tokens: Any, new_tokens: int) -> Callable[[], Any]:
    """Hugging Face's generate, in inference mode."""
    import torch

    inputs = torch.from_numpy(tokens.astype(np.int64))

    def run() -> Any:
        with torch.inference_mode():
            return model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                num_return_sequences=SAMPLES,
                min_new_tokens=new_tokens,
                max_new_tokens=new_tokens,
                pad_token_id=0,
            )

    return run


def difference(params: Any, model: Any, tokens: Any) -> float:
    """Largest difference of a token's log-probability between the two, on random texts."""
    import torch

    rows = jnp.asarray(tokens)
    logits = np.asarray(
        causal_lm.forward(params, rows, jnp.ones(rows.shape, bool), STORIES_260K)[0], np.float64
    )
    with torch.inference_mode():
        found = model(torch.from_numpy(tokens.astype(np.int64))).logits.double().numpy()
    left, right = (each - np.logaddexp.reduce(each, axis=-1)[..., None] for each in (logits, found))
    return float(np.abs(left - right).max())


def main() -> None:
    """Run the benchmark, print the table and write the JSON."""
    parser = measuring.options(__doc__, "sampler")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    import torch
    import transformers

    torch.set_num_threads(measuring.machine()["cores"])
    new_tokens, rounds = (8, 2) if options.quick else (NEW_TOKENS, options.rounds)
    params = causal_lm.init(jax.random.key(0), STORIES_260K)
    tokens = np.random.default_rng(0).integers(3, STORIES_260K.vocabulary, (PROMPTS, PROMPT_TOKENS))
    with tempfile.TemporaryDirectory() as folder:
        huggingface.save(Path(folder), params, STORIES_260K)
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    apart = difference(params, model, tokens)
    if apart > LARGEST_DIFFERENCE:
        raise SystemExit(f"the two models disagree: log-probabilities {apart:.1e} nats apart")
    timings = measuring.interleaved(
        {
            "paljax": ours(params, tokens, new_tokens),
            "Hugging Face": theirs(model, tokens, new_tokens),
        },
        rounds=rounds,
    )
    drawn = PROMPTS * SAMPLES * new_tokens
    ratio = measuring.ratio(timings["Hugging Face"], timings["paljax"])
    print(
        measuring.table(
            [
                {
                    "sampler": name,
                    "tokens/s": f"{drawn / timing.median_s:,.0f}",
                    "first s": f"{timing.first_s:.1f}",
                }
                for name, timing in timings.items()
            ]
        )
    )
    print(f"Hugging Face takes {ratio} times as long")
    measuring.write(
        options.out,
        "tokens a second of the sampler",
        {
            "tokens_per_s": {name: drawn / timing.median_s for name, timing in timings.items()},
            "timings": {name: timing.record() for name, timing in timings.items()},
            "ratio": ratio._asdict(),
            "difference_nats": apart,
        },
        dtype="float32",
        prompts=PROMPTS,
        prompt_tokens=PROMPT_TOKENS,
        samples=SAMPLES,
        new_tokens=new_tokens,
        torch=torch.__version__,
        transformers=transformers.__version__,
    )


if __name__ == "__main__":
    main()
