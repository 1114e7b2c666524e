"""Bop, as rethinking-bnn-optimization trains with it."""
