"""Places parties on the nodes of a Ray cluster. `bridge` and `host` alone import ray, and no daemon imports these."""
