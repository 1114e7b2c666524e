"""XNOR-Net, from XNOR-Net-PyTorch."""
