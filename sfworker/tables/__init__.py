"""Reads and writes parties' files, and handles rows aligned between parties, and labels."""
