"""What accompanies a job: when the next one is prefetched, its progress, timings and failure.

Knows asyncio and what a caller may read; knows nothing of Runpod's SDK, images or GPUs.

May import: errors, logs.
"""
