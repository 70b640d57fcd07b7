"""Results -> buckets -> presigned URLs of 7 days.

Knows S3 stores, their settings and a caller's own bucket. Knows nothing of images, models or jobs.

May import: errors, contract, settings, address_policy, threads, child_process.
"""
