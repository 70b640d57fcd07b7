"""Runpod's SDK: which of its modes runs, the job loop, posting of results.

The only package that imports `runpod`. Knows how jobs arrive and how a worker ends; nothing of
what an edit is.

May import: errors, logs, settings, jobs, worker, startup, inference.executor, runpod.
"""
