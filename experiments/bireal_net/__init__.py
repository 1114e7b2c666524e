"""Bi-Real Net, as Bi-Real-net trains it."""
