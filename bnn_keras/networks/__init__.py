"""Topologies: one file per family, each `f(scheme, input_shape, num_classes) -> tf.keras.Model` with logits as output.

Layers are named as the modules of the reference, so that `bnn_keras.interop` needs no table of names.
"""
