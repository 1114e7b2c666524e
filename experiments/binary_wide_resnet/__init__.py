"""McDonnell's wide residual networks, as binary-wide-resnet trains them."""
