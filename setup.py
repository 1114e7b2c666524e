"""Packaging. The folders `cli` and `experiments` of the checkout are installed as subpackages of `bnn_keras`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "bnn_keras" / "__init__.py").read_text()).group(1)

TENSORFLOW = ">=2.19,<2.22"

EXTRAS = {
    "cuda": [f"tensorflow[and-cuda]{TENSORFLOW}"],
    "tflite": ["larq-compute-engine>=0.16,<0.17"],
    "openvino": ["openvino>=2026.1"],
    "int8": ["nncf>=3,<4", "openvino>=2026.1"],
    "onnx": ["onnxruntime>=1.20", "tf2onnx>=1.16.1"],
    "qonnx": ["onnxruntime>=1.20", "qonnx>=1,<2", "tf2onnx>=1.16.1"],
    "torch": ["torch>=2.6"],
    "sweep": ["optuna>=4,<6"],
    "docs": ["l2m4m>=1.0,<2", "mkdocs>=1.6,<2", "mkdocs-material>=9.7,<10", "mkdocstrings-python>=2,<3"],
}
EXTRAS["test"] = [
    *(
        "hls4ml>=1.3,<2",
        "hypothesis>=6",
        "mypy>=1.15",
        "playwright>=1.49",
        "pytest>=8",
        "pytest-cov>=7",
        "pytest-xdist>=3",
        "ruff>=0.9",
    ),
    *(need for name in ("tflite", "int8", "onnx", "qonnx", "torch", "sweep") for need in EXTRAS[name]),
]

setup(
    name="bnn-keras",
    version=VERSION,
    description="Train, verify and deploy binarized neural networks in Keras, on top of Larq",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.13",
    package_dir={"bnn_keras.cli": "cli", "bnn_keras.experiments": "experiments"},
    packages=[
        *find_packages(include=["bnn_keras", "bnn_keras.*"]),
        "bnn_keras.cli",
        "bnn_keras.experiments",
        *(f"bnn_keras.experiments.{name}" for name in find_packages("experiments")),
    ],
    package_data={
        "bnn_keras": ["py.typed", "plugin_template/*.py", "plugin_template/*.toml"],
        "bnn_keras.data.mnist_5k": ["*.npz", "*.md"],
        "bnn_keras.experiments": ["*/*.toml"],
        "bnn_keras.export.c": ["*.c"],
        "bnn_keras.pretrained": ["*.safetensors", "*.toml"],
        "bnn_keras.report": ["page.css", "page.html"],
    },
    install_requires=[
        "click>=8.1",
        "importlib-resources>=6",  # TFDS 4.9 imports it and does not require it
        "jinja2>=3.1",
        "larq>=0.14,<0.15",
        "larq-zoo>=2.4,<3",
        "matplotlib>=3.8",
        "numpy>=1.26,<2.2",
        "pillow>=10.1",
        "pydantic>=2.7,<3",
        "rich>=13",
        "safetensors>=0.5",
        "setuptools>=70.1,<81",  # TensorBoard 2.19 imports pkg_resources
        f"tensorboard{TENSORFLOW}",  # a dependency of TensorFlow until 2.20
        f"tensorflow{TENSORFLOW}",
        "tensorflow-datasets>=4.8",
        f"tf-keras{TENSORFLOW}",
        "tomli>=2; python_version < '3.11'",
        "tomli-w>=1",
    ],
    extras_require={
        **EXTRAS,
        "all": sorted({need for name, needs in EXTRAS.items() if name != "cuda" for need in needs}),
    },
    entry_points={"console_scripts": ["bnnk = bnn_keras.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Operating System :: POSIX",
    ],
)
