"""The only Flax in paljax: networks that turn vectors into latents and rewards."""

from paljax.networks.mlp import ACTIVATIONS, MLP, Activation, BatchedMLP, outputs
from paljax.networks.products import Products

__all__ = ["ACTIVATIONS", "MLP", "Activation", "BatchedMLP", "Products", "outputs"]
