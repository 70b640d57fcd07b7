"""Defines what a caller may ask for, what is refused, and what a result costs.

Knows the contract's fields, sizes, prices and output formats. Pure: does no I/O, and does not know
settings, images or networks.

May import: errors.
"""
