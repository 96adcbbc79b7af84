"""What is reported of a policy of texts, against the definitions, on responses written by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paljax.config import parse
from paljax.learners.objectives import Groups
from paljax.policies import Policy
from paljax.policy import text_results
from paljax.policy.decoding import Decoder
from paljax.policy.problems import Problem, Texts
from paljax.policy.responses import Responses

X, N, T, END = 2, 3, 4, 9
SCALE = np.array([2.0, 0.5])
BETA = 0.4


def responses(seed: int) -> Responses:
    random = np.random.default_rng(seed)
    tokens = random.integers(0, 5, (X, N, T)).astype(np.int32)
    lengths = random.integers(1, T + 1, (X, N))
    mask = np.arange(T) < lengths[:, :, None]
    np.put_along_axis(tokens, lengths[:, :, None] - 1, END, axis=2)
    return Responses(
        tokens,
        mask,
        random.normal(size=(X, N, 2)).astype(np.float32),
        random.normal(size=(X, N)).astype(np.float32),
    )


@pytest.fixture
def drawn(monkeypatch: Any) -> dict[str, Responses]:
    """What the policy says, and the reference."""
    found = {"policy": responses(0), "reference": responses(1)}

    def draw(policy: Policy, rewards: Any, params: Any, *rest: Any, **more: Any) -> Responses:
        return found["policy" if float(params) else "reference"]

    monkeypatch.setattr(text_results, "draw_responses", draw)
    return found


def scores(normalize: str) -> text_results.TextResults:
    config = parse(
        {
            "stage": "policy",
            "rewards": {"name": "functions", "functions": ["concise", "positive"]},
            "prompts": {"path": "p.txt"},
            "policy": {"name": "causal_lm", "model": "none"},
            "normalize": normalize,
            "beta": BETA,
            "evaluation": {"iterate": "last", "samples": N, "functions": ["concise"]},
        },
        where="here",
    )
    nothing: Any = None
    texts = Texts(
        policy=Policy(lambda key: jnp.zeros(()), nothing, nothing, nothing, nothing),
        decoder=Decoder(lambda ids: " ".join(f"w{token}" for token in ids), (END,)),
        held_out=("left", "right"),
        prompts=None,
        rewards=lambda prompts, tokens, mask: tokens,
        scale=jnp.asarray(SCALE) if normalize == "reference" else None,
        remarks=(),
        grid=None,
    )
    problem = Problem(
        policy=nothing,
        rewards=nothing,
        groups=Groups(("one", "two"), jnp.array([0.7, 0.3])),
        num_rewards=3,
        prompts=None,
        take=nothing,
        prompt_weights=np.ones(1),
        inputs={},
        tables=None,
        texts=texts,
    )
    return text_results.text_scores(config, problem, jnp.ones(()), jax.random.key(0))


def sigmoid(value: float) -> float:
    return float(1 / (1 + np.exp(-value)))


def of_group(drawn: dict[str, Responses], normalize: str, name: str, x: int, i: int, g: int) -> Any:
    """The normalised reward of one response for one group."""
    own = drawn[name].rewards[x, i, g]
    reference = [drawn["reference"].rewards[x, j, g] for j in range(N)]
    if normalize == "reference":
        return (own - np.mean(reference)) / SCALE[g]
    if normalize == "regret":
        return own - BETA * np.log(np.mean([np.exp(each / BETA) for each in reference]))
    if normalize == "win_rate":
        return np.mean([sigmoid(own - each) for each in reference])
    return own


def mean_and_error(values: Any) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))


@pytest.mark.parametrize("normalize", ["reference", "regret", "win_rate", "none"])
def test_scores_by_definition(
    normalize: str, drawn: dict[str, Responses], monkeypatch: Any
) -> None:
    found = scores(normalize)
    utilities = []
    for g, name in enumerate(("one", "two")):
        rows = {
            who: [[of_group(drawn, normalize, who, x, i, g) for i in range(N)] for x in range(X)]
            for who in drawn
        }
        mean, error = mean_and_error(np.mean(rows["policy"], axis=1))
        utilities.append(mean)
        assert found.scores["utilities"][name] == pytest.approx(mean, rel=1e-4)
        assert found.scores["standard_errors"][name] == pytest.approx(error, rel=1e-4)
        wins = [
            (left > right) + 0.5 * (left == right)
            for x in range(X)
            for left in rows["policy"][x]
            for right in rows["reference"][x]
        ]
        assert found.scores["win_rates"]["reference"][name] == pytest.approx(np.mean(wins))
    kl, kl_error = mean_and_error(drawn["policy"].log_ratio.mean(axis=1))
    assert found.scores["kl"] == pytest.approx(kl, rel=1e-4)
    assert found.scores["kl_standard_error"] == pytest.approx(kl_error, rel=1e-4)
    assert found.scores["minimum"] == pytest.approx(min(utilities), rel=1e-4)
    assert found.scores["mean"] == pytest.approx(0.7 * utilities[0] + 0.3 * utilities[1], rel=1e-4)
    assert found.scores["value"] == pytest.approx(min(utilities) - BETA * kl, rel=1e-4)


def test_functions_and_writing_by_definition(drawn: dict[str, Responses], monkeypatch: Any) -> None:
    found = scores("reference")
    # A response has a word a token, the end token left out.
    words = {name: 1.0 - each.mask.sum(axis=2) for name, each in drawn.items()}
    judged = found.texts["functions"]["concise"]
    own, reference = words["policy"], words["reference"]
    gain, error = mean_and_error(own.mean(axis=1) - reference.mean(axis=1))
    assert judged["mean"] == pytest.approx(own.mean())
    assert judged["reference"] == pytest.approx(reference.mean())
    assert (judged["gain"], judged["gain_standard_error"]) == pytest.approx((gain, error))
    assert judged["reference_spread"] == pytest.approx(reference.std())
    wins = [
        np.mean([(a > b) + 0.5 * (a == b) for a in own[x] for b in reference[x]]) for x in range(X)
    ]
    assert (judged["win_rate"], judged["win_rate_standard_error"]) == pytest.approx(
        mean_and_error(wins)
    )
    lengths = drawn["policy"].mask.sum(axis=2)
    assert found.scores["length"] == pytest.approx(lengths.mean())
    assert found.scores["at_full_length"] == pytest.approx((lengths == T).mean())
    assert found.table.columns["policy"] == ["policy"] * X * N + ["reference"] * X * N
    assert found.table.columns["prompt"] == (["left"] * N + ["right"] * N) * 2
    np.testing.assert_array_equal(found.table.columns["tokens"][: X * N], lengths.ravel())
