"""From the environment to a worker that is ready for its first job.

Knows what a worker needs, what a stand-in may replace, and how to make a cold start short. It
imports torch only through `kontext.inference`, while the worker boots.

May import: errors, logs, contract, settings, address_policy, threads, images, inference, storage,
jobs, worker.
"""
