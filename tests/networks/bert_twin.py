"""BERT in NumPy float64, one text and one token at a time, from the equations of its paper."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


def hidden_states(
    tensors: Mapping[str, Any], config: Mapping[str, Any], token_ids: list[int]
) -> NDArray[np.float64]:
    """Hidden states [T, D] of the last layer for one text without padding."""

    def weights(name: str) -> Any:
        return np.asarray(tensors[name], np.float64)

    def dense(name: str, vector: Vector) -> Vector:
        return weights(f"{name}.weight") @ vector + weights(f"{name}.bias")

    def normalise(name: str, vector: Vector) -> Vector:
        centred = vector - vector.mean()
        deviation = math.sqrt(np.mean(centred**2) + config["layer_norm_eps"])
        return weights(f"{name}.weight") * centred / deviation + weights(f"{name}.bias")

    def gelu(vector: Vector) -> Vector:
        return np.array([x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in vector])

    hidden = [
        normalise(
            "embeddings.LayerNorm",
            weights("embeddings.word_embeddings.weight")[token]
            + weights("embeddings.position_embeddings.weight")[place]
            + weights("embeddings.token_type_embeddings.weight")[0],
        )
        for place, token in enumerate(token_ids)
    ]
    num_heads = config["num_attention_heads"]
    head_width = config["hidden_size"] // num_heads
    for layer in range(config["num_hidden_layers"]):
        prefix = f"encoder.layer.{layer}"
        query, key, value = (
            [dense(f"{prefix}.attention.self.{part}", state) for state in hidden]
            for part in ("query", "key", "value")
        )
        attended = []
        for place in range(len(hidden)):
            heads = []
            for head in range(num_heads):
                own = slice(head * head_width, (head + 1) * head_width)
                scores = [query[place][own] @ other[own] / math.sqrt(head_width) for other in key]
                shares = np.exp(scores) / np.exp(scores).sum()
                mixed = [share * other[own] for share, other in zip(shares, value, strict=True)]
                heads.append(sum(mixed))
            attended.append(np.concatenate(heads))
        hidden = [
            normalise(
                f"{prefix}.attention.output.LayerNorm",
                state + dense(f"{prefix}.attention.output.dense", mixed),
            )
            for state, mixed in zip(hidden, attended, strict=True)
        ]
        hidden = [
            normalise(
                f"{prefix}.output.LayerNorm",
                state
                + dense(
                    f"{prefix}.output.dense", gelu(dense(f"{prefix}.intermediate.dense", state))
                ),
            )
            for state in hidden
        ]
    return np.stack(hidden)
