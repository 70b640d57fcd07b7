"""Trains the stand-in, the tiny FLUX.1 Kontext that the worker runs where the real weights are not.

    make stand-in

`train` runs the whole; `layout`, `autoencoder`, `text`, `routes` and `conditioning` set the weights
that need no training; `decoding`, `prompting` and `editing` train the rest.
"""
