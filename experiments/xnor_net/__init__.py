"""XNOR-Net, as XNOR-Net-PyTorch trains it."""
