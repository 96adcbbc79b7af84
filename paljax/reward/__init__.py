"""The reward stage: fit, choose on validation data, refit, score, and keep the trained model."""
