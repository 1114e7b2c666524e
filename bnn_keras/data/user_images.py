"""Read images from files, folders and NumPy arrays."""

from __future__ import annotations

import io
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from bnn_keras.data.pipelines import normalise
from bnn_keras.data.readers import reason_of
from bnn_keras.data.resizing import resize_and_crop
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")
_FORMATS = ("PNG", "JPEG", "BMP", "GIF")
BACKGROUND = (255, 255, 255, 255)  # behind transparent pixels: white


def read_images(source: str | Path, experiment: Experiment) -> tuple[list[str], np.ndarray]:
    """Read images and preprocess them for an experiment's network.

    Image files and uint8 arrays are preprocessed as in evaluation. Image files are first rotated as their EXIF
    orientation says, transparent pixels are blended with white, and images of another size are resized and cropped
    (`resize_and_crop`), with a warning. Float arrays are used unchanged.

    Args:
        source: An image file, a folder of image files, or a `.npy` file of images (N, height, width, channels) or of
            one image (height, width, channels).
        experiment: Sets image shape and preprocessing.

    Returns:
        Names of the images, and the images as float32, (N, height, width, channels).

    Raises:
        BnnError: The images cannot be read, an array does not have the network's image shape, or a float array has
            NaN or infinite values.

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
        batch = np.stack(list(_resized(files, experiment)))
        names = [str(file) for file in files]
    return names, normalise(experiment)(batch).numpy() if batch.dtype == np.uint8 else batch


def _read_array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    try:
        # Mapping the file compares its size with the shape in its header, and does not take .npz files or objects.
        with np.errstate(over="raise"):
            array = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, ArithmeticError, EOFError, tokenize.TokenError) as error:
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
    if array.dtype == np.uint8:
        return np.array(array)
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    unusable = len(array) - int(np.isfinite(array).all((1, 2, 3)).sum())
    if unusable:
        raise BnnError(
            f"{str(path)!r} has NaN or infinite values in {unusable} of {len(array)} images; expected finite float32 "
            "pixels; correct the array"
        )
    return array


def _image_files(path: Path) -> list[Path]:
    if not path.exists():
        raise BnnError(f"no file or folder {str(path)!r}; give an image, a folder of images or a .npy file")
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise BnnError(f"folder {str(path)!r} has no images; expected files named *{', *'.join(IMAGE_SUFFIXES)}")
    return files


def _read_image(path: Path, channels: int) -> np.ndarray:
    """Read an image file as uint8, (height, width, channels), upright and without transparency."""
    try:
        image = ImageOps.exif_transpose(_decode(path.read_bytes()))
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, BACKGROUND), image.convert("RGBA"))
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, tf.errors.OpError) as error:
        raise BnnError(
            f"cannot read {str(path)!r} as an image ({reason_of(error)}); give a PNG, JPEG, BMP or GIF file"
        ) from error
    return pixels.reshape(*pixels.shape[:2], channels)


def _decode(data: bytes) -> Image.Image:
    """Decode an image file. TensorFlow decodes JPEGs, because decoders differ in rounding and evaluation uses it."""
    image = Image.open(io.BytesIO(data), formats=_FORMATS)
    if tf.io.is_jpeg(data):
        decoded = Image.fromarray(tf.io.decode_jpeg(data, channels=3).numpy())
    elif image.mode.startswith("I"):  # 16 bits
        decoded = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    else:
        return image
    decoded.info = image.info  # has the EXIF data
    return decoded


def _resized(files: list[Path], experiment: Experiment) -> Iterator[np.ndarray]:
    """Yield images in the network's size. Warn at the end if some had another size."""
    height, width, channels = experiment.input_shape
    others = []
    for file in files:
        image = _read_image(file, channels)
        if image.shape[:2] != (height, width):
            others.append(f"{str(file)!r} ({image.shape[0]} × {image.shape[1]})")
        yield np.asarray(resize_and_crop(image, experiment))
    if others:
        warnings.warn(
            f"{len(others)} of {len(files)} images are not {height} × {width} pixels, so they are resized and their "
            f"centre is cropped; the first is {others[0]}",
            stacklevel=1,
        )
