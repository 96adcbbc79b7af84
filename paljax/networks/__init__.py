"""The only Flax in paljax: networks that turn vectors into latents and rewards."""

from paljax.networks.mlp import ACTIVATIONS, MLP, Activation, BatchedMLP, outputs

__all__ = ["ACTIVATIONS", "MLP", "Activation", "BatchedMLP", "outputs"]
