"""How many texts a second does `minilm` embed, and how many does torch beside it?

    python benchmarks/text_encoder.py
    python benchmarks/text_encoder.py --python OTHER/bin/python     # torch from another environment

Both embed the same texts with the weights of all-MiniLM-L6-v2 in float32: tokenizing, network,
pooling and normalisation, from a list of strings to an array. Torch does it as
sentence-transformers does: sorted by length, batches of 32, padded to the longest of the batch, in
inference mode, with its own number of threads. The two take turns, so that what else the machine
does meets both; the table has the median of the rounds, and texts a second of processor time.
Programs are compiled before the first round; the time for that stands apart. The cosine of the two
embeddings of a text is 1 up to rounding, which is checked.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
LIMIT = 256  # tokens, as the model's own files say
TORCH_BATCH = 32  # the default of sentence-transformers

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


ENCODERS = {"paljax": ours, "torch": theirs}


def serve(name: str) -> None:
    """Answer each line on standard input, a JSON list of texts, with how long they took."""
    embed = ENCODERS[name]()
    for line in sys.stdin:
        request = json.loads(line)
        texts = request["texts"]
        processor, wall = time.process_time(), time.perf_counter()
        vectors = embed(texts)
        record = {"wall_s": time.perf_counter() - wall}
        record |= {"processor_s": time.process_time() - processor}
        if request["save"]:
            np.save(request["save"], vectors)
        print(json.dumps(record), flush=True)


def measure(pythons: dict[str, str], texts: list[str], rounds: int, folder: Path) -> Any:
    """Let the encoders take turns on the same texts, each in a process of its own."""
    running = {
        name: subprocess.Popen(
            [python, __file__, "--serve", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, python in pythons.items()
    }

    def ask(name: str, save: str = "") -> dict[str, float]:
        process = running[name]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"texts": texts, "save": save}) + "\n")
        process.stdin.flush()
        answer: dict[str, float] = json.loads(process.stdout.readline())
        return answer

    first = {name: ask(name, str(folder / f"{name}.npy")) for name in running}
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in running}
    for _ in range(rounds):
        for name in running:
            taken[name].append(ask(name))
    for process in running.values():
        process.communicate()
    vectors = [np.load(folder / f"{name}.npy") for name in running]
    cosine = float((vectors[0] * vectors[-1]).sum(axis=1).min())
    return first, taken, cosine


def main() -> None:
    """Run the benchmark, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/text_encoder.json"))
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--words", type=int, nargs="+", default=[12, 60], help="mean of a text")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--python", default=sys.executable, help="interpreter that has torch")
    parser.add_argument("--serve", choices=list(ENCODERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve)
        return
    probe = "import torch, transformers"
    if subprocess.run([options.python, "-c", probe], capture_output=True, check=False).returncode:
        print("torch is not installed (pip install '.[embed]'): paljax alone")
        pythons = {"paljax": sys.executable}
    else:
        pythons = {"paljax": sys.executable, "torch": options.python}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results = []
    print(f"{'words':>5} {'encoder':>8} {'texts/s':>9} {'texts/processor s':>18} {'first s':>8}")
    for words in options.words:
        texts = make_texts(options.texts, words)
        first, taken, cosine = measure(pythons, texts, options.rounds, options.out.parent)
        assert cosine > 0.9999, f"the two encoders disagree: cosine {cosine}"
        for name, times in taken.items():
            row = {"words": words, "encoder": name, "first_s": first[name]["wall_s"]}
            for kind in ("wall_s", "processor_s"):
                rates = [options.texts / record[kind] for record in times]
                row[f"texts_per_{kind}"] = statistics.median(rates)
                row[f"texts_per_{kind}_range"] = [min(rates), max(rates)]
            results.append(row)
            print(
                f"{words:>5} {name:>8} {row['texts_per_wall_s']:>9,.0f} "
                f"{row['texts_per_processor_s']:>18,.0f} {row['first_s']:>8.1f}",
                flush=True,
            )
    for name in pythons:
        (options.out.parent / f"{name}.npy").unlink()
    from paljax.runs import versions

    record = {
        "question": "texts a second",
        "model": MODEL,
        "texts": options.texts,
        "rounds": options.rounds,
        "dtype": "float32",
        "machine": {"processor": platform.machine(), "cores": len(os.sched_getaffinity(0))},
        "versions": versions(),
        "results": results,
    }
    options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
