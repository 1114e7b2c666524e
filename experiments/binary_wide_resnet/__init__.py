"""Wide residual networks of McDonnell, from binary-wide-resnet."""
