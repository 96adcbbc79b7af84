"""How many texts a second does `minilm` embed, and how many does torch beside it?

    pip install '.[bench,embed]'
    python -m benchmarks.text_encoder

Both embed the same texts with the weights of all-MiniLM-L6-v2 in float32: tokenizing, network,
pooling and normalisation, from a list of strings to an array. Torch does it as
sentence-transformers does: sorted by length, batches of 32, padded to the longest of the batch, in
inference mode. First the embeddings of both are compared, which compiles too.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import measuring

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
LIMIT = 256  # tokens, as the model's own files say
TORCH_BATCH = 32  # the default of sentence-transformers
LEAST_COSINE = 0.9999  # of the two embeddings of a text

Embed = Callable[[Sequence[str]], NDArray[np.float32]]


def make_texts(count: int, mean_words: int) -> list[str]:
    """Texts of English words; lengths as varied as those of comments (geometric)."""
    generator = np.random.default_rng(0)
    words = (__doc__ or "").split()
    lengths = np.maximum(generator.geometric(1 / mean_words, count), 2)
    return [" ".join(generator.choice(words, length)) for length in lengths]


def ours() -> Embed:
    """`minilm` as a run uses it, without the cache on disk."""
    from paljax.data.encoders import MiniLM
    from paljax.data.encoders.minilm import open_model

    model = open_model(MiniLM(model=MODEL))

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.zeros((len(texts), model.width), np.float32)
        for block in model.embed(texts):
            vectors[block.places] = block.vectors
        return vectors

    return embed


def theirs() -> Embed:
    """Hugging Face's BertModel on torch, driven as sentence-transformers drives it."""
    import torch
    import transformers

    from paljax.pretrained import find_folder

    folder = find_folder(MODEL)
    network: Any = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False)
    network.eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        order = np.argsort([-len(text) for text in texts], kind="stable")
        vectors = np.zeros((len(texts), network.config.hidden_size), np.float32)
        for start in range(0, len(order), TORCH_BATCH):
            places = order[start : start + TORCH_BATCH]
            inputs = tokenizer(
                [texts[place] for place in places],
                padding=True,
                truncation=True,
                max_length=LIMIT,
                return_tensors="pt",
            )
            with torch.inference_mode():
                hidden = network(**inputs).last_hidden_state
                mask = inputs["attention_mask"].unsqueeze(-1).float()
                mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
                vectors[places] = torch.nn.functional.normalize(mean, dim=1).numpy()
        return vectors

    return embed


def measure(texts: list[str], *, rounds: int) -> dict[str, Any]:
    """Texts a second of both, and how many times longer torch takes."""
    encoders = {"paljax": ours(), "torch": theirs()}
    left, right = (embed(texts) for embed in encoders.values())
    cosine = float((left * right).sum(axis=1).min())
    if cosine < LEAST_COSINE:
        raise SystemExit(f"the two encoders disagree: cosine {cosine}")
    timings = measuring.interleaved(
        {name: partial(embed, texts) for name, embed in encoders.items()}, rounds=rounds
    )
    return {
        "texts_per_s": {name: len(texts) / timing.median_s for name, timing in timings.items()},
        "timings": {name: timing.record() for name, timing in timings.items()},
        "ratio": measuring.ratio(timings["torch"], timings["paljax"])._asdict(),
        "cosine": cosine,
    }


def main() -> None:
    """Run the benchmark, print the table and write the JSON."""
    parser = measuring.options(__doc__, "text_encoder")
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--words", type=int, nargs="+", default=[12, 60], help="mean of a text")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(measuring.machine()["cores"])
    count, rounds = (32, 2) if options.quick else (options.texts, options.rounds)
    results = []
    for words in options.words:
        result = {"words": words} | measure(make_texts(count, words), rounds=rounds)
        results.append(result)
        row = {"words": str(words)} | {
            name: f"{rate:,.0f}/s" for name, rate in result["texts_per_s"].items()
        }
        ratio = str(measuring.Ratio(**result["ratio"]))
        print(measuring.table([row | {"torch / paljax": ratio}]), flush=True)
    facts = {"dtype": "float32", "model": MODEL, "texts": count, "torch": torch.__version__}
    measuring.write(options.out, "texts a second", results, **facts)


if __name__ == "__main__":
    main()
