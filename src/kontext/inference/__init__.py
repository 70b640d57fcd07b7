"""Runs the model: chooses a mode for the GPU, edits images, and checks the results for safety.

Knows torch, diffusers and the GPU; does not know URLs, buckets or Runpod. It is the only package
that imports torch. Its modules `edit`, `executor`, `memory`, `mode`, `plan`, `schedule` and
`weights` do not, so they are imported in no time.

May import: errors, contract, settings, threads, torch, torchao, diffusers, transformers.
"""
