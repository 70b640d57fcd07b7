"""What accompanies a job: when the next one is fetched, its progress, its timings, its failure.

Knows asyncio and what a caller may read; does not know Runpod's SDK, images or GPUs.

May import: errors, logs.
"""
