"""Network topologies, one file per family. Each network is a function f(scheme, images, classes, **options) → logits.

Layers have the names of the reference's modules, so that `bnn_keras.interop` needs no table of names. Stride and
padding are Keras's ('same'): networks whose reference is in PyTorch are the reference's rotated by 180°
(`layers.Rotate180`).

Sizes such as `blocks` and `filters` are arguments with the reference's values as defaults. They are not keys of
experiments.
"""
