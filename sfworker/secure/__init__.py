"""Matrices and functions that are computed on the SPU."""
