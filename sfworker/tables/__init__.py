"""Parties' files, rows aligned between parties, and labels."""
