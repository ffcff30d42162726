"""Benchmarks: `make bench` prints the figures as a table. A busy machine makes them worse; nothing here is a test."""
