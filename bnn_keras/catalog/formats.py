"""Export formats."""

from __future__ import annotations

from bnn_keras.catalog.rows import FormatRow, table

FORMATS = table(
    FormatRow(
        name="packed",
        module="bnn_keras.export.packed",
        description="one bit per binary weight, for Keras and for your own runtime (safetensors)",
        floats=("float32", "float16"),
        packs="all",
        softmax=False,
        self_contained=True,
    ),
    FormatRow(
        name="tflite",
        module="bnn_keras.export.tflite",
        description="Larq Compute Engine, for ARM: Raspberry Pi, Android",
        floats=("float32", "int8"),
        packs="binary inputs",
        suffix=".tflite",
        batch="one",
        extra="tflite",
        packages=("larq-compute-engine",),
    ),
    FormatRow(
        name="openvino",
        module="bnn_keras.export.openvino",
        description="OpenVINO, for x86",
        floats=("float32", "bfloat16", "int8"),
        packs="binary inputs",
        suffix=".xml",
        companions=(".bin",),
        batch="fixed",
        extra="openvino",
        float_extras={"int8": "int8"},
        packages=("openvino", "nncf"),
    ),
    FormatRow(
        name="saved_model",
        module="bnn_keras.export.saved_model",
        description="TensorFlow's SavedModel, for TensorFlow Serving; float kernels",
        floats=("float32",),
        packs="none",
        folder=True,
        code=True,
    ),
    FormatRow(
        name="onnx",
        module="bnn_keras.export.onnx",
        description="ONNX; float kernels",
        floats=("float32",),
        packs="none",
        suffix=".onnx",
        extra="onnx",
        packages=("tf2onnx",),
    ),
)
