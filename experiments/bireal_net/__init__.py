"""Bi-Real Net, from Bi-Real-net."""
