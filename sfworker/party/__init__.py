"""The party process, from the template that forks it to the job function: start, context, data roots, logs."""
