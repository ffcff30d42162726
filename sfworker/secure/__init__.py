"""Computes matrices and functions on the SPU."""
