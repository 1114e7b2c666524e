"""Images of the user's own: files, folders, arrays."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import tensorflow as tf

from bnn_keras.data.pictures import fit
from bnn_keras.data.pipelines import normalise
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")


def read_images(source: str | Path, experiment: Experiment) -> tuple[list[str], np.ndarray]:
    """Images as an experiment's network takes them.

    Args:
        source: An image file, a folder of them, or a `.npy` of NHWC images (or one HWC image). Images and uint8 arrays
            go through the experiment's evaluation preprocessing, an image of another size is resized first; float
            arrays are taken as they are.
        experiment: Says shape and preprocessing.

    Returns:
        Their names, and the images as float32, (images, height, width, channels).

    Raises:
        BnnError: The images cannot be read, or have another shape than the network takes.
    """
    path, shape = Path(source), experiment.input_shape
    if path.suffix == ".npy":
        batch = _read_array(path, shape)
        names = [f"{path.name}[{index}]" for index in range(len(batch))]
    else:
        files = _image_files(path)
        batch = np.stack([fit(_read_image(file, shape[-1]), experiment).numpy() for file in files])
        names = [str(file) for file in files]
    return names, normalise(experiment)(batch).numpy() if batch.dtype == np.uint8 else batch


def _read_array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BnnError(f"cannot read {str(path)!r} as a NumPy array ({error}); give a .npy file of images") from error
    if array.shape == shape:
        array = array[None]
    if array.ndim != 4 or array.shape[1:] != shape or not len(array):
        expected = ("N", *shape)
        raise BnnError(f"{str(path)!r} has shape {array.shape}; expected ({', '.join(map(str, expected))}); reshape it")
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise BnnError(f"{str(path)!r} holds {array.dtype}; expected uint8 pixels or floats as the network takes them")
    return array if array.dtype == np.uint8 else array.astype(np.float32)


def _image_files(path: Path) -> list[Path]:
    if not path.exists():
        raise BnnError(f"no file or folder {str(path)!r}; give an image, a folder of images or a .npy file")
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise BnnError(f"folder {str(path)!r} has no images; expected files named *{', *'.join(IMAGE_SUFFIXES)}")
    return files


def _read_image(path: Path, channels: int) -> tf.Tensor:
    """An image as uint8, with the network's number of channels."""
    try:
        return tf.io.decode_image(tf.io.read_file(str(path)), channels=channels, expand_animations=False)
    except tf.errors.OpError as error:
        reason = re.sub(r"\{\{.*?\}\} ?|\[Op:.*", "", error.message.splitlines()[0]).strip(
            " ."
        )  # less TensorFlow's own
        raise BnnError(
            f"cannot read {str(path)!r} as an image ({reason}); give a PNG, JPEG, BMP or GIF file"
        ) from error
