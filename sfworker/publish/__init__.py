"""Builds the events and results for the web side, which the broker's scripts publish."""
