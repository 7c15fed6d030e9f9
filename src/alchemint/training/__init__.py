"""Optimisation: recipes, the training loop, checkpoints, and the two objectives (video VAE, AlcheMinT transformer)."""
