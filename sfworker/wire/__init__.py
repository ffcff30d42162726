"""Defines what crosses a boundary, which is envelopes and answers on Redis and frames between our processes."""
