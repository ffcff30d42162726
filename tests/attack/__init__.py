"""Attacks by what a worker is given: each test names the boundary that it tries to cross."""
