"""The model and the GPU: which mode a card can hold, one edit, its safety check.

The only package that imports torch, and the modules without it (`mode`, `weights`, `edit`,
`executor`, `schedule`) start in no time. Knows nothing of URLs, buckets or Runpod.

May import: errors, contract, settings, threads, torch, torchao, diffusers, transformers.
"""
