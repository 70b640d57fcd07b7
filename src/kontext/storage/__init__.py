"""Stores results in S3 buckets and returns presigned URLs that are valid for 7 days.

Knows S3 stores, their settings and a caller's own bucket. Does not know images, models or jobs.

May import: errors, contract, settings, address_policy, threads, child_process.
"""
