"""What a caller may ask for, what breaks it, and what it costs.

Knows the fields of the contract, sizes, prices and the names of file formats. Pure: no I/O, no
settings, no image, no network.

May import: errors.
"""
