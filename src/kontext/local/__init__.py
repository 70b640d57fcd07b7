"""Runpod's API v2 on your own machine: a queue, workers, webhooks and an embedded bucket.

It imitates Runpod for development and for a single machine; it does not replace Runpod's queue and
autoscaler. Knows workers as processes that speak HTTP; does not know how they edit images.

May import: errors, logs, contract, settings, address_policy, child_process,
storage.embedded_bucket.
"""

MAX_WAITING_JOBS = 10_000
"""The default of `--queue-limit`; with the largest bodies, so many jobs take 200 GB of disk."""
