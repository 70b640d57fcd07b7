"""Runpod's API v2 on your own machine: queue, workers, status, embedded bucket.

A development and single-box server: it imitates Runpod's queue, it does not replace it.
"""

GRACE_SECONDS = 120.0
"""What a worker gets to finish its jobs when it is asked to end, unless told otherwise."""
