"""Runs SecretFlow's own components inside our session."""
