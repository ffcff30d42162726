"""From the streams to jobs worth starting: which to take, and which to refuse at once."""
