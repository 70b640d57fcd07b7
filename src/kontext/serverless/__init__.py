"""Runs the worker under Runpod's SDK: which mode runs, the job loop, the posts of results.

The only package that imports `runpod`. Knows how jobs arrive and how a worker shuts down; does not
know what an edit is.

May import: errors, logs, settings, jobs, worker, startup, inference.executor, runpod.
"""
