"""The CUDA code of every plan, generated and compiled on a machine that has no GPU."""
