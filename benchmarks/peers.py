"""The heads again in torch: as well as we can write them, and as the published code does it.

The published code is RamyaLab/pluralistic-alignment (src/pal_rm_a and pal_rm_b: learner.py,
userLearner.py, lightningmodule.py; src/dataset.py), of PAL, arXiv 2406.08469. Both have the
parameters and the losses of paljax's heads; B comparisons a batch, K prototypes, d latent width.
"Best" is eager with a table of users, one product for all prototypes and fused AdamW. "Published"
does what that code does in its training step: users' parameters in a dictionary, fetched user by
user and each a tensor of its own for AdamW in torch's default form; PAL-A projects every
comparison's user point and takes norms of differences; PAL-B reads the diagonal of a B x B matrix
of similarities. Its frame (Lightning, logging, the bound on points) is left out. Functions close
over parameters; a step is one call.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

Step = Callable[[], float]


class Comparisons(NamedTuple):
    """A batch for torch: inputs of both sides and of the prompt, and the users."""

    chosen: Any  # [B, D]
    rejected: Any  # [B, D]
    prompt: Any  # [B, E], or None
    user: Any  # [B] row numbers
    names: Sequence[str]  # [B] the same users as keys of a dictionary


class Weights:
    """Users' logits: a table, or a dictionary by name as published."""

    def __init__(self, num_users: int, num_prototypes: int, *, published: bool) -> None:
        self._table = None
        self._by_name: dict[str, Any] = {}
        if published:
            self._by_name = {
                str(user): torch.zeros(num_prototypes, requires_grad=True)
                for user in range(num_users)
            }
        else:
            self._table = torch.zeros(num_users, num_prototypes, requires_grad=True)

    def parameters(self) -> list[Any]:
        """Leaves to optimise."""
        return [self._table] if self._table is not None else list(self._by_name.values())

    def of(self, batch: Comparisons) -> Any:
        """Weights on the simplex, [B, K]."""
        if self._table is not None:
            logits = functional.embedding(batch.user, self._table)
        else:
            logits = torch.stack([self._by_name[name] for name in batch.names])
        return torch.softmax(logits, dim=1)


def batch_of(
    chosen: NDArray[Any], rejected: NDArray[Any], prompt: NDArray[Any] | None, user: NDArray[Any]
) -> Comparisons:
    """NumPy arrays as torch takes them."""
    return Comparisons(
        torch.from_numpy(chosen),
        torch.from_numpy(rejected),
        None if prompt is None else torch.from_numpy(prompt),
        torch.from_numpy(user.astype(np.int64)),
        [str(number) for number in user],
    )


def pal_b_step(
    batches: Sequence[Comparisons],
    *,
    num_users: int,
    num_prototypes: int,
    width: int,
    published: bool,
    bfloat16: bool,
) -> Step:
    """One training step of PAL-B (one hidden layer), the next batch at every call."""
    generator = torch.Generator().manual_seed(0)
    items = _mlp([width, width, width], generator)
    prompts = [_mlp([width, width, width], generator) for _ in range(num_prototypes)]
    users = Weights(num_users, num_prototypes, published=published)
    stacked = [torch.stack(parts) for parts in zip(*prompts, strict=True)]
    if published:
        leaves = [*items, *(leaf for mlp in prompts for leaf in mlp)]
    else:
        leaves = [*items, *stacked]

    def directions(batch: Comparisons, weights: Any) -> Any:
        if published:
            of_each = torch.stack([_apply(mlp, batch.prompt) for mlp in prompts], dim=1)
            return torch.einsum("bkd,bk->bd", of_each, weights.to(of_each.dtype))
        hidden = torch.baddbmm(
            stacked[1][:, None], batch.prompt.expand(num_prototypes, -1, -1), stacked[0].mT
        )
        of_each = torch.baddbmm(stacked[3][:, None], functional.gelu(hidden), stacked[2].mT)
        return torch.einsum("kbd,bk->bd", of_each, weights.to(of_each.dtype))

    def margin(batch: Comparisons) -> Any:
        user = directions(batch, users.of(batch))
        if published:
            sides = [_apply(items, side) for side in (batch.chosen, batch.rejected)]
            chosen, rejected = (torch.diagonal(side @ user.T) for side in sides)
            return chosen - rejected
        both = _apply(items, torch.cat([batch.chosen, batch.rejected]))
        chosen, rejected = both.split(len(user))
        return ((chosen - rejected) * user).sum(dim=1)

    return _step(batches, margin, leaves, users, fused=not published, bfloat16=bfloat16)


def pal_a_step(
    batches: Sequence[Comparisons],
    *,
    num_users: int,
    num_prototypes: int,
    widths: Sequence[int],
    published: bool,
    bfloat16: bool,
) -> Step:
    """One training step of PAL-A, the next batch at every call.

    Distances are squared, or plain as published.
    """
    generator = torch.Generator().manual_seed(0)
    items = _mlp(widths, generator)
    prototypes = torch.randn(num_prototypes, widths[0], generator=generator).requires_grad_()
    users = Weights(num_users, num_prototypes, published=published)

    def margin(batch: Comparisons) -> Any:
        weights = users.of(batch)
        if published:
            user = _apply(items, weights @ prototypes)
            chosen, rejected = (
                torch.linalg.norm(_apply(items, side) - user, dim=1)
                for side in (batch.chosen, batch.rejected)
            )
            return rejected - chosen
        everything = torch.cat([batch.chosen, batch.rejected, prototypes])
        points = _apply(items, everything)
        chosen, rejected, projected = points.split([len(weights), len(weights), num_prototypes])
        difference = chosen - rejected
        user = weights.to(projected.dtype) @ projected
        return (difference * (2 * user - chosen - rejected)).sum(dim=1)

    leaves = [*items, prototypes]
    return _step(batches, margin, leaves, users, fused=not published, bfloat16=bfloat16)


def published_new_users(
    margins: NDArray[Any], *, batch_size: int, learning_rate: float
) -> tuple[Callable[[], None], Callable[[], NDArray[Any]]]:
    """New users as published: everything is frozen but their weights, one parameter a user.

    AdamW descends the logistic loss of comparisons in random batches, users mixed, each comparison
    a sample that is collated (main_pal_b_unseen.py, lightningmodule.py). What the frozen networks
    say is given here, where the published code computes it again in every step.

    Args:
        margins: [U, n, K] of the chosen over the rejected item, under each prototype.
        batch_size: Comparisons a step.
        learning_rate: Of AdamW, without weight decay.

    Returns:
        A call that trains for an epoch, and one that gives the weights [U, K].
    """
    names = [str(user) for user in range(len(margins))]
    logits = {name: torch.randn(margins.shape[2], requires_grad=True) for name in names}
    optimizer = torch.optim.AdamW(logits.values(), lr=learning_rate, weight_decay=0.0)
    samples = [
        ((name, torch.from_numpy(margin)), 1)
        for name, of_user in zip(names, margins, strict=True)
        for margin in of_user
    ]
    loader = torch.utils.data.DataLoader(samples, batch_size=batch_size, shuffle=True)

    def epoch() -> None:
        for (users, of_prototypes), _ in loader:
            optimizer.zero_grad()
            weights = torch.softmax(torch.stack([logits[user] for user in users]), dim=1)
            loss = -functional.logsigmoid((weights * of_prototypes).sum(dim=1)).mean()
            loss.backward()
            optimizer.step()

    def weights() -> NDArray[Any]:
        with torch.no_grad():
            found: NDArray[Any] = torch.softmax(torch.stack(list(logits.values())), dim=1).numpy()
        return found

    return epoch, weights


def _step(
    batches: Sequence[Comparisons],
    margin: Callable[[Comparisons], Any],
    leaves: list[Any],
    users: Weights,
    *,
    fused: bool,
    bfloat16: bool,
) -> Step:
    for leaf in leaves:
        leaf.requires_grad_()
    everything = [*leaves, *users.parameters()]
    optimizer = torch.optim.AdamW(everything, lr=1e-3, fused=True if fused else None)
    number = 0

    def step() -> float:
        nonlocal number
        batch = batches[number % len(batches)]
        number += 1
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            margins = margin(batch)
        loss = -functional.logsigmoid(margins.float()).mean()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def _mlp(widths: Sequence[int], generator: Any) -> list[Any]:
    """Matrices and biases in turn, as `torch.nn.Linear` has them."""
    leaves = []
    for inputs, outputs in pairwise(widths):
        matrix = torch.randn(outputs, inputs, generator=generator) / math.sqrt(inputs)
        leaves += [matrix, torch.zeros(outputs)]
    return leaves


def _apply(leaves: Sequence[Any], inputs: Any) -> Any:
    for layer in range(0, len(leaves), 2):
        if layer:
            inputs = functional.gelu(inputs)
        inputs = functional.linear(inputs, leaves[layer], leaves[layer + 1])
    return inputs
