"""Saved models, fitted rules, checkpoints and predictions."""
