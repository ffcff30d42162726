"""A worker that runs SecretFlow jobs from a Redis Stream.

The path of a job, and the package that each step lives in::

    cli > daemon > intake | pool | publish > broker > wire | catalog > settings | errors
    party process > jobs > runtime > wire | catalog > settings | errors

The daemon never imports SecretFlow and party processes never import redis; a test checks both.
"""

__version__ = "0.1.0"
