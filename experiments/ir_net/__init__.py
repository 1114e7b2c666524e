"""IR-Net, from its own repository."""
