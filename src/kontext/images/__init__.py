"""Fetches and decodes input images, and encodes results.

Knows URLs, image formats, hostile files and the processes that decode them. Does not know models,
buckets or jobs.

May import: errors, contract, address_policy, threads.
"""
