"""Runs the party process, from the template that forks it to the job function, with its data roots and its logs."""
