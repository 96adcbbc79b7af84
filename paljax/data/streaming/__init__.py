"""Comparisons and embeddings that memory can't hold: shards, their order, batches from them."""

from paljax.data.streaming.batches import (
    Sample,
    StreamBatches,
    StreamPlan,
    samples,
    to_stream_batch,
)
from paljax.data.streaming.embeddings import Embeddings
from paljax.data.streaming.order import Order, hold_out
from paljax.data.streaming.shards import Shards, open_shards
from paljax.data.streaming.survey import Survey, survey

__all__ = [
    "Embeddings",
    "Order",
    "Sample",
    "Shards",
    "StreamBatches",
    "StreamPlan",
    "Survey",
    "hold_out",
    "open_shards",
    "samples",
    "survey",
    "to_stream_batch",
]
