"""Batches of a stream: loaded ahead by Grain, distinct items gathered once from the memory map.

S steps an epoch, B comparisons a batch, I distinct items of D numbers and M distinct prompts of E
in one batch. An epoch here is so many steps and no pass through the data: epoch e is the positions
from e S B on, so that the number of finished epochs is the position in the stream.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from paljax.data.batches import Batch, Plan, Rows, Sizes, Tables, list_batches, plan_sizes_of
from paljax.data.dataset import Comparisons
from paljax.data.streaming.embeddings import Embeddings
from paljax.data.streaming.order import HeldOut, Order
from paljax.data.streaming.shards import Shards
from paljax.data.streaming.survey import Survey
from paljax.errors import UserError

LOADED_AHEAD = 1  # epochs that wait while one is loaded and one is trained on


class StreamPlan(NamedTuple):
    """S batches that bring their items and prompts with them."""

    plan: Plan
    items: NDArray[Any]  # [S, I, D]
    prompts: NDArray[Any] | None  # [S, M, E]


class Sample(NamedTuple):
    """Comparisons that are scored, and what they index."""

    comparisons: Comparisons  # items and prompts are rows of the tables, users of the whole table
    tables: Tables


class StreamBatches:
    """What a task reads, epoch by epoch.

    Args:
        order: The comparisons.
        survey: What is known of all of them.
        items: Of the comparisons.
        prompts: What `prompt` points to; None where the model does not look at them.
        batch_size: B.
        steps: S.
        epochs: How many will be asked for at most.
        label_smoothing: ε in [0, 1/2): the chosen item is preferred with probability 1 - ε.
        sizes: Of all plans, where they are known: those of `sizes_of_first`.
    """

    def __init__(
        self,
        order: Order,
        survey: Survey,
        items: Embeddings,
        prompts: Embeddings | None,
        *,
        batch_size: int,
        steps: int,
        epochs: int,
        label_smoothing: float,
        sizes: Sizes | None = None,
    ) -> None:
        self._order, self._survey = order, survey
        self._items, self._prompts = items, prompts
        self._shape, self._epochs = (steps, batch_size), epochs
        self._label_smoothing = label_smoothing
        self._sizes = sizes
        self._ahead: Iterator[StreamPlan] | None = None
        self._next = 0

    def __call__(self, epoch: int) -> StreamPlan:
        """The batches of an epoch; the next ones are loaded meanwhile."""
        if self._ahead is None or epoch != self._next:
            self._ahead = self._load_from(epoch)
        self._next = epoch + 1
        return next(self._ahead)

    def plan(self, epoch: int) -> StreamPlan:
        """The batches of an epoch, a pure function of its number."""
        rows = self.rows(epoch)
        order = np.arange(len(rows.weight)).reshape(self._shape)
        present = np.ones(self._shape, bool)
        if self._sizes is None:
            self._sizes = self.sizes_of_first() if epoch else plan_sizes_of(rows, order)
        plan = list_batches(
            rows, order, present, sizes=self._sizes, num_users=len(self._survey.comparisons)
        )
        prompts = None if self._prompts is None else self._prompts.read(plan.prompts)
        return StreamPlan(plan, self._items.read(plan.items), prompts)

    def sizes_of_first(self) -> Sizes:
        """The sizes of all plans, which are those of the first epoch's."""
        rows = self.rows(0)
        return plan_sizes_of(rows, np.arange(len(rows.weight)).reshape(self._shape))

    def rows(self, epoch: int) -> Rows:
        """The comparisons of an epoch, batch after batch, and what each counts."""
        steps, batch_size = self._shape
        start = epoch * steps * batch_size
        rows = self._order.rows(start, start + steps * batch_size)
        mean, own = self._survey.mean_weight, self._survey.comparisons[rows.user]
        return Rows(
            comparisons=rows,
            weight=(rows.weight / mean).astype(np.float32),
            target=np.where(rows.tie, 0.5, 1 - self._label_smoothing).astype(np.float32),
            prior_share=(1 / (mean * own)).astype(np.float32),
        )

    def _load_from(self, epoch: int) -> Iterator[StreamPlan]:
        # Grain is slow to import, and `--help` must not be.
        import grain

        ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=LOADED_AHEAD)
        epochs = grain.MapDataset.range(epoch, self._epochs)
        loaded: Iterator[StreamPlan] = iter(epochs.map(self.plan).to_iter_dataset(ahead))
        return loaded


def to_stream_batch(tables: None, plan: StreamPlan) -> Batch:
    """One step's batch; float16 becomes float32 here, on the device."""
    prompts = None if plan.prompts is None else jnp.asarray(plan.prompts, jnp.float32)
    return Batch(
        **plan.plan._asdict() | {"items": jnp.asarray(plan.items, jnp.float32), "prompts": prompts}
    )


def sample(
    shards: Shards,
    places: dict[int, NDArray[np.int64]],
    items: Embeddings,
    prompts: Embeddings | None,
    *,
    part: str,
) -> Sample:
    """Read held-out comparisons without ties, with their items and prompts.

    Args:
        shards: All rows.
        places: Of the rows, by group.
        items: Of the comparisons.
        prompts: What `prompt` points to, or None.
        part: What the rows are held out for, to name.

    Returns:
        The sample, on the device.

    Raises:
        UserError: If all of the rows are ties.
    """
    parts = [shards.read(group).select(where) for group, where in places.items()]
    rows = Comparisons(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))
    if rows.tie.all():
        raise UserError(
            f"data.comparisons: every row held out for {part!r} is a tie; nothing can be scored "
            "on them"
        )
    rows = rows.select(~rows.tie)
    numbers, sides = np.unique(np.stack([rows.chosen, rows.rejected]), return_inverse=True)
    chosen, rejected = sides.astype(np.int32)
    rows = rows._replace(chosen=chosen, rejected=rejected)
    prompt_table = None
    if prompts is not None:
        prompt_numbers, prompt = np.unique(rows.prompt, return_inverse=True)
        rows = rows._replace(prompt=prompt.astype(np.int32))
        prompt_table = jnp.asarray(prompts.read(prompt_numbers), jnp.float32)
    return Sample(rows, Tables(jnp.asarray(items.read(numbers), jnp.float32), prompt_table))


def samples(
    shards: Shards, held_out: HeldOut, items: Embeddings, prompts: Embeddings | None
) -> tuple[Sample, Sample]:
    """Validation and test comparisons."""
    return (
        sample(shards, held_out.validation, items, prompts, part="validation"),
        sample(shards, held_out.test, items, prompts, part="test"),
    )
