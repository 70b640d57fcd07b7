"""Runpod's API v2 on your own machine: queue, workers, status, embedded bucket.

A development and single-box server: it imitates Runpod's queue, it does not replace it.
"""
