"""What a policy is: pure functions from prompts to responses and their log-probabilities.

B prompts, n responses of each, T tokens of a response, Y actions where they can be enumerated.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

Params = Any  # a pytree of arrays
Prompts = Any  # a pytree of arrays with leading axis B; finite policies take prompt numbers [B]


class Samples(NamedTuple):
    """Responses drawn from a policy."""

    tokens: Int[Array, "B n T"]
    mask: Bool[Array, "B n T"]  # True up to and including the end token
    # Nats, of every token given those before; 0 where masked. A language model's sampler rounds
    # otherwise than `Policy.log_probs` does: take both sides of a ratio from one of them.
    log_probs: Float[Array, "B n T"]


class Sample(Protocol):
    def __call__(
        self, params: Params, key: PRNGKeyArray, prompts: Prompts, num_samples: int
    ) -> Samples: ...


class LogProbs(Protocol):
    def __call__(
        self,
        params: Params,
        prompts: Prompts,
        tokens: Int[Array, "B n T"],
        mask: Bool[Array, "B n T"],
    ) -> Float[Array, "B n T"]: ...


class Actions(NamedTuple):
    """All that a finite policy can say."""

    log_policy: Callable[[Params, Prompts], Float[Array, "B Y"]]  # exact, each row normalised
    number: Callable[[Array, Array], Int[Array, "B n"]]  # (tokens, mask) -> which action it is
    num_actions: int  # Y


class Policy(NamedTuple):
    """A distribution over responses, as pure functions of its parameters.

    The KL of an objective is measured from `log_probs` at `reference(init(key))`.
    """

    init: Callable[[PRNGKeyArray], Params]  # (key) -> params of the reference policy
    sample: Sample  # (params, key, prompts, num_samples) -> Samples
    log_probs: LogProbs  # (params, prompts, tokens, mask) -> [B, n, T], nats, 0 where masked
    trainable: Callable[[Params], Any]  # (params) -> the same tree of booleans, for optax masks
    reference: Callable[[Params], Params]  # (params of `init`) -> params of the reference, a copy
    actions: Actions | None = None  # where the responses can be enumerated
