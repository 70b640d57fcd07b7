"""Bytes and addresses -> upright sRGB images, and images -> files.

Knows URLs, image formats, their traps and the processes that decode them. Knows nothing of models,
buckets or jobs.

May import: errors, contract, address_policy, threads.
"""
