"""Compares the project's editor with Black Forest Labs' own code, on the same random weights.

make reference-check BFL=FOLDER
"""
