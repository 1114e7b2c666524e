"""Read images from files, folders and NumPy arrays."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import tensorflow as tf

from bnn_keras.data.pipelines import normalise
from bnn_keras.data.resizing import resize_and_crop
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")


def read_images(source: str | Path, experiment: Experiment) -> tuple[list[str], np.ndarray]:
    """Read images and preprocess them for an experiment's network.

    Image files and uint8 arrays are preprocessed as in evaluation; image files are resized first if necessary. Float
    arrays are used unchanged.

    Args:
        source: An image file, a folder of image files, or a `.npy` file of images (N, height, width, channels) or of
            one image (height, width, channels).
        experiment: Sets image shape and preprocessing.

    Returns:
        Names of the images, and the images as float32, (N, height, width, channels).

    Raises:
        BnnError: The images cannot be read, or an array does not have the network's image shape.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import bnn_keras
        >>> import numpy as np
        >>> from bnn_keras.data import read_images
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(Path(folder, "digits.npy"), np.zeros((2, 28, 28, 1), np.uint8))
        ...     names, images = read_images(Path(folder, "digits.npy"), bnn_keras.resolve("lenet5").experiment)
        >>> names, images.shape
        (['digits.npy[0]', 'digits.npy[1]'], (2, 28, 28, 1))
    """
    path, shape = Path(source), experiment.input_shape
    if path.suffix == ".npy":
        batch = _read_array(path, shape)
        names = [f"{path.name}[{index}]" for index in range(len(batch))]
    else:
        files = _image_files(path)
        batch = np.stack([resize_and_crop(_read_image(file, shape[-1]), experiment).numpy() for file in files])
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
        raise BnnError(
            f"{str(path)!r} holds {array.dtype}; expected uint8 pixels or floats that are already normalised"
        )
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
    """Read an image file as uint8, with the network's number of channels."""
    try:
        return tf.io.decode_image(tf.io.read_file(str(path)), channels=channels, expand_animations=False)
    except tf.errors.OpError as error:
        # Drop the node names that TensorFlow adds to the message.
        reason = re.sub(r"\{\{.*?\}\} ?|\[Op:.*", "", error.message.splitlines()[0]).strip(" .")
        raise BnnError(
            f"cannot read {str(path)!r} as an image ({reason}); give a PNG, JPEG, BMP or GIF file"
        ) from error
