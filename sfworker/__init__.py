"""Runs SecretFlow jobs from a Redis Stream.

The path of a job, and the package that each step lives in::

    cli > daemon > pool | publish > broker > catalog > wire > settings | errors
    jobs > models | secure > tables | components > party > session > catalog > wire > settings | errors

The daemon never imports SecretFlow and party processes never import redis; a test checks both.
"""

__version__ = "0.2.0"
