"""Runpod's API v2 on your own machine: queue, workers, status, embedded bucket.

A development and single-box server: it imitates Runpod's queue, it does not replace it. It knows
workers only as processes that speak HTTP.

May import: errors, logs, contract, settings, address_policy, child_process,
storage.embedded_bucket.
"""

GRACE_SECONDS = 120.0
"""What a worker gets to finish its jobs when it is asked to end, unless told otherwise."""

QUEUE_LIMIT = 10_000
"""Jobs that may wait, unless told otherwise; with the largest bodies they take 200 GB of disk."""
