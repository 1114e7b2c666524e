"""Topologies: one file per family, each network a function f(scheme, images, classes, **options) -> logits.

Layers are named as the modules of the reference, so that `bnn_keras.interop` needs no table of names. Stride and
padding are Keras's ('same'): networks whose reference is in PyTorch are the reference's turned by 180°
(`layers.Rotate180`).
"""
