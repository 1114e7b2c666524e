"""Bop and BinaryNet, from rethinking-bnn-optimization."""
