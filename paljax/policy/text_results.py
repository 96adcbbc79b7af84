"""What a policy of texts reports: fresh responses to prompts that it was not trained on.

X prompts, n responses of each, G groups. Standard errors are over prompts: how far other
prompts, with other responses, would differ.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from paljax.config.policy import PolicyConfig
from paljax.policies import Params
from paljax.policy.normalize_rewards import apply, calibrate
from paljax.policy.problems import Problem, Texts
from paljax.policy.responses import Responses, draw_responses
from paljax.policy.results import REFERENCE, Scores
from paljax.storage import Table
from paljax.text_functions import TEXT_FUNCTIONS

POLICY = "policy"
_EXAMPLES = 8
_GRAMS = (1, 2, 3)


class TextResults(NamedTuple):
    """Scores of a policy of texts, and what it wrote."""

    scores: Scores  # of the policy
    reference: Scores
    texts: dict[str, Any]  # functions, diversity and examples
    table: Table  # samples.parquet


def text_scores(config: PolicyConfig, problem: Problem, params: Params, key: Any) -> TextResults:
    """Score a policy beside the reference on the held-out prompts, by what each says itself.

    Learned rewards are centred, prompt by prompt, on the reference's fresh responses, and have the
    scale of the calibration that was trained with.

    Args:
        config: The run's.
        problem: One of texts.
        params: Of the policy.
        key: Of the responses; the reference's are drawn by another.

    Returns:
        Scores by the learned rewards with win rates against the reference, functions of text that
        the configuration names, lengths, and distinct n-grams.
    """
    texts = problem.texts
    assert texts is not None
    reference_params = jax.jit(texts.policy.init)(key)
    keys = jax.random.split(key)
    drawn = {
        name: draw_responses(
            texts.policy, texts.rewards, from_params, reference_params, texts.prompts, draw_key,
            samples=config.evaluation.samples, grid=texts.grid,
        )
        for name, from_params, draw_key in zip(
            (POLICY, REFERENCE), (params, reference_params), keys, strict=True
        )
    }  # fmt: skip
    rewards = _of_groups(config, problem, drawn)
    written = {name: _decoded(texts, found) for name, found in drawn.items()}
    judged = {
        name: {
            function: _judge(function, written[name]) for function in config.evaluation.functions
        }
        for name in drawn
    }
    scores = {name: _scores(config, problem, found, rewards[name]) for name, found in drawn.items()}
    scores[POLICY]["win_rates"] = {
        REFERENCE: {
            group: float(win_rate(rewards[POLICY][:, :, g], rewards[REFERENCE][:, :, g]).mean())
            for g, group in enumerate(problem.groups.names)
        }
    }
    for name, found in drawn.items():
        scores[name] |= _of_writing(found, written[name])
    return TextResults(
        scores[POLICY],
        scores[REFERENCE],
        {
            "functions": _functions(judged[POLICY], judged[REFERENCE]),
            "examples": _examples(texts, written),
        },
        _table(texts, drawn, written, judged),
    )


def win_rate(
    left: NDArray[np.floating[Any]], right: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """P(left > right) + P(left = right) / 2 over all pairs of a prompt's responses.

    Args:
        left: Values [X, n].
        right: Values [X, m].

    Returns:
        A rate a prompt, [X].
    """
    difference = left[:, :, None] - right[:, None, :]
    rates: NDArray[np.float64] = ((difference > 0) + 0.5 * (difference == 0)).mean(axis=(1, 2))
    return rates


def distinct(texts: Sequence[str], length: int) -> float:
    """Share of distinct n-grams of words among all of the texts, 0 without any.

    Source:
        Li et al., arXiv 1510.03055, section 5 (distinct-n). It falls with the number of texts:
        compare equal numbers.
    """
    grams = [
        tuple(words[start : start + length])
        for words in (text.split() for text in texts)
        for start in range(len(words) - length + 1)
    ]
    return len(set(grams)) / len(grams) if grams else 0.0


def _of_groups(
    config: PolicyConfig, problem: Problem, drawn: Mapping[str, Responses]
) -> dict[str, NDArray[np.float64]]:
    """Normalised rewards, [X, n, G]."""
    assert problem.texts is not None
    against = jnp.asarray(drawn[REFERENCE].rewards)
    calibration = calibrate(against, kind=config.normalize, beta=config.beta)
    if problem.texts.scale is not None:
        calibration = calibration._replace(scale=problem.texts.scale)
    return {
        name: np.asarray(apply(calibration, jnp.asarray(found.rewards)), float)
        for name, found in drawn.items()
    }


def _scores(
    config: PolicyConfig, problem: Problem, found: Responses, rewards: NDArray[np.float64]
) -> Scores:
    names = problem.groups.names
    by_prompt = rewards.mean(axis=1)
    utilities = by_prompt.mean(axis=0)
    kl = found.log_ratio.mean(axis=1, dtype=np.float64)
    shares = np.asarray(problem.groups.shares, float)
    return {
        "utilities": dict(zip(names, utilities.tolist(), strict=True)),
        "standard_errors": {name: _error(by_prompt[:, g]) for g, name in enumerate(names)},
        "minimum": float(utilities.min()),
        "mean": float(shares @ utilities),
        "kl": float(kl.mean()),
        "kl_standard_error": _error(kl),
        "value": float(utilities.min() - config.beta * kl.mean()),
        "samples": config.evaluation.samples,
    }


def _of_writing(found: Responses, written: Sequence[Sequence[str]]) -> Scores:
    full = found.mask.sum(axis=2)
    every = [text for of_prompt in written for text in of_prompt]
    return {
        "length": float(full.mean()),
        "at_full_length": float((full == found.mask.shape[2]).mean()),
        "distinct": {str(length): distinct(every, length) for length in _GRAMS},
    }


def _functions(
    own: Mapping[str, NDArray[np.float64]], reference: Mapping[str, NDArray[np.float64]]
) -> dict[str, Any]:
    found = {}
    for name, values in own.items():
        against = reference[name]
        wins = win_rate(values, against)
        gain = values.mean(axis=1) - against.mean(axis=1)
        found[name] = {
            "mean": float(values.mean()),
            "reference": float(against.mean()),
            "gain": float(gain.mean()),
            "gain_standard_error": _error(gain),
            "reference_spread": float(against.std()),
            "win_rate": float(wins.mean()),
            "win_rate_standard_error": _error(wins),
        }
    return found


def _error(by_prompt: NDArray[np.floating[Any]]) -> float | None:
    if len(by_prompt) < 2:
        return None  # how far another prompt would differ, one prompt does not say
    return float(by_prompt.std(ddof=1) / np.sqrt(len(by_prompt)))


def _decoded(texts: Texts, found: Responses) -> list[list[str]]:
    written, samples = texts.decoder.texts(found.tokens, found.mask), found.tokens.shape[1]
    return [written[start : start + samples] for start in range(0, len(written), samples)]


def _judge(function: str, written: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    every = [text for of_prompt in written for text in of_prompt]
    return np.asarray(TEXT_FUNCTIONS[function](every), float).reshape(len(written), -1)


def _examples(texts: Texts, written: Mapping[str, Sequence[Sequence[str]]]) -> list[Any]:
    """The first response to each of some prompts; nobody has chosen them."""
    return [
        {"prompt": prompt} | {name: found[place][0] for name, found in written.items()}
        for place, prompt in enumerate(texts.held_out[:_EXAMPLES])
    ]


def _table(
    texts: Texts,
    drawn: Mapping[str, Responses],
    written: Mapping[str, Sequence[Sequence[str]]],
    judged: Mapping[str, Mapping[str, NDArray[np.float64]]],
) -> Table:
    """samples.parquet: a row a response."""
    num_prompts, num_samples = next(iter(drawn.values())).log_ratio.shape
    per = num_prompts * num_samples
    columns: dict[str, Any] = {
        "policy": [name for name in drawn for _ in range(per)],
        "prompt": [
            prompt for _ in drawn for prompt in texts.held_out for _ in range(num_samples)
        ],
        "response": [text for rows in written.values() for row in rows for text in row],
        "tokens": np.concatenate([found.mask.sum(axis=2).ravel() for found in drawn.values()]),
        "log_ratio": np.concatenate([found.log_ratio.ravel() for found in drawn.values()]),
        "rewards": [row.tolist() for found in drawn.values()
                    for row in found.rewards.reshape(per, -1)],
    }  # fmt: skip
    types: dict[str, pa.DataType] = {
        "policy": pa.string(),
        "prompt": pa.string(),
        "response": pa.string(),
        "tokens": pa.int32(),
        "log_ratio": pa.float32(),
        "rewards": pa.list_(pa.float32()),
    }
    for function in judged[POLICY]:
        columns[function] = np.concatenate([values[function].ravel() for values in judged.values()])
        types[function] = pa.float64()
    return Table(columns, types)
