"""What a learner is: a pair of pure functions that any training loop can drive."""

from typing import Any, NamedTuple, Protocol

from jaxtyping import Array, Float, PRNGKeyArray

State = Any  # a NamedTuple of arrays, `params` and `step` among them: all the next step needs
Metrics = dict[str, Float[Array, ""]]  # what a person wants to see of one step


class Init(Protocol):
    def __call__(self, key: PRNGKeyArray) -> State: ...


class Step(Protocol):
    def __call__(self, state: State, batch: Any) -> tuple[State, Metrics]: ...


class Learner(NamedTuple):
    """`init(key) -> state` and `step(state, batch) -> (state, metrics)`, both pure."""

    init: Init
    step: Step
    of_users: tuple[str, ...] = ()  # fields of the state whose leading axis is the users
