"""ReCU, from its own repository."""
