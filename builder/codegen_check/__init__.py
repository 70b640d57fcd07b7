"""Generates and compiles the CUDA code of every plan on a machine that has no GPU.

make codegen-check
"""
