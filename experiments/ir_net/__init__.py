"""IR-Net, as its repository trains it."""
