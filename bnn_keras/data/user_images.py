"""Read images from files, folders and NumPy arrays."""

from __future__ import annotations

import functools
import io
import itertools
import math
import os
import tokenize
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from bnn_keras.data.pipelines import normalise
from bnn_keras.data.readers import reason_of
from bnn_keras.data.resizing import resize_and_crop
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
BACKGROUND = (255, 255, 255, 255)  # behind transparent pixels: white

_BATCH_PIXELS = 8 * 224 * 224  # outputs of a first layer for 224 × 224 pixels have 3 MB per image
_MAX_BATCH = 128

T = TypeVar("T")


def prediction_batch(input_shape: Sequence[int]) -> int:
    """Return the number of images to predict at once: fewer if they are large, to limit memory.

    Args:
        input_shape: Height, width and channels of an image; or another shape, whose last axis is that of channels.

    Example:
        >>> [prediction_batch(shape) for shape in ((28, 28, 1), (224, 224, 3))]
        [128, 8]
    """
    return max(1, min(_MAX_BATCH, _BATCH_PIXELS // math.prod(input_shape[:-1])))


def image_batches(
    sources: Iterable[Any],
    experiment: Experiment | None,
    batch_size: int,
    failed: dict[str, str] | None = None,
    input_shape: tuple[int, ...] | None = None,
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Read images batch by batch and preprocess them for an experiment's network.

    Image files and uint8 arrays are preprocessed as in evaluation. Image files are first rotated as their EXIF
    orientation says, transparent pixels are blended with white, and images of another size are resized and cropped
    (`resize_and_crop`), with a warning at the end. Float arrays are used unchanged, with a warning at the end if they
    look like pixels.

    No more than a batch is held in memory. `.npy` files are mapped into memory.

    Args:
        sources: Each is an image file; a folder of image files, also in folders inside; a `.npy` file; or an array. An
            array has images (N, height, width, channels) or one image (height, width, channels), where grey images need
            no axis of channels. Folders are read in the order of their files' names, without hidden files and folders
            and without links to folders.
        experiment: Sets image shape and preprocessing. None for a network without an experiment, whose preprocessing is
            unknown: it takes float arrays and `.npy` files of floats only.
        batch_size: Images per batch; the last batch may have fewer.
        failed: Receives the error message of each source or file that cannot be read, by its name; the others are read.
            By default the first one raises its error.
        input_shape: Shape of an input. Default: that of the experiment.

    Yields:
        Names of the images, and the images as float32, (N, height, width, channels).

    Raises:
        BnnError: Images cannot be read, an array does not have the network's image shape, a float array has NaN or
            infinite values, or images need a preprocessing that is unknown.

    Example:
        >>> import bnn_keras
        >>> import numpy as np
        >>> from bnn_keras.data import image_batches
        >>> digits = np.zeros((3, 28, 28, 1), np.uint8)
        >>> for names, images in image_batches([digits], bnn_keras.resolve("lenet5").experiment, batch_size=2):
        ...     print(names, images.shape)
        ['images[0][0]', 'images[0][1]'] (2, 28, 28, 1)
        ['images[0][2]'] (1, 28, 28, 1)
    """
    reader = _Reader(experiment, failed, input_shape)
    images = reader.images(sources)
    while batch := list(itertools.islice(images, batch_size)):
        yield [name for name, _ in batch], reader.inputs([pixels for _, pixels in batch])


class _Reader:
    """Reads sources image by image.

    Args:
        experiment: Sets image shape and preprocessing; None if the preprocessing is unknown.
        failed: Receives the error messages of what cannot be read; None to raise the first error.
        input_shape: Shape of an input. Default: that of the experiment.
    """

    def __init__(
        self, experiment: Experiment | None, failed: dict[str, str] | None, input_shape: tuple[int, ...] | None
    ) -> None:
        self._experiment, self._failed = experiment, failed
        self._shape = input_shape or (experiment.input_shape if experiment else ())
        self._files, self._other_sizes = 0, 0
        self._first_other = ""
        self._without_negatives: list[str] = []

    @functools.cached_property
    def _normalise(self) -> Callable[[np.ndarray], tf.Tensor]:
        """`normalise`, made once: it may hold a matrix."""
        assert self._experiment
        return normalise(self._experiment)

    def inputs(self, images: list[np.ndarray]) -> np.ndarray:
        """Return images as one array of network inputs: pixels are normalised, floats are unchanged."""
        parts = []
        for are_pixels, group in itertools.groupby(images, lambda image: image.dtype == np.uint8):
            values = np.stack(list(group))
            pixels = self._experiment and are_pixels
            parts.append(self._normalise(values).numpy() if pixels else values.astype(np.float32))
        return np.concatenate(parts)

    def images(self, sources: Iterable[Any]) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the name and the pixels or floats of each image. Warn at the end if some had another size."""
        for position, source in enumerate(sources):
            if isinstance(source, str | os.PathLike):
                for file in self._attempt(_files, str(source), Path(source)):
                    yield from self._attempt(self._read_file, str(file), file)
            else:
                yield from self._attempt(self._read_array, f"images[{position}]", source)
        self._warn()

    def _attempt(self, read: Callable[[str, Any], Iterable[T]], name: str, source: Any) -> Iterable[T]:
        try:
            return read(name, source)
        except BnnError as error:
            if self._failed is None:
                raise
            self._failed[name] = str(error)
            return ()

    def _read_file(self, name: str, file: Path) -> Iterable[tuple[str, np.ndarray]]:
        if file.suffix == ".npy":
            return _named(file.name, self._checked(name, _map_array(file)))
        if self._experiment is None:
            raise BnnError(_unprepared(name, "an image file"))
        height, width, channels = self._experiment.input_shape
        image = _read_image(file, channels)
        self._files += 1
        if image.shape[:2] != (height, width):
            self._other_sizes += 1
            self._first_other = self._first_other or f"{name!r} ({image.shape[0]} × {image.shape[1]})"
        pixels = np.asarray(resize_and_crop(image, self._experiment))
        if pixels.dtype != np.uint8:  # floats stand for images that are normalised
            pixels = self._normalise(pixels).numpy()
        return [(name, pixels)]

    def _read_array(self, name: str, array: Any) -> Iterable[tuple[str, np.ndarray]]:
        return _named(name, self._checked(name, np.asarray(array)))

    def _checked(self, name: str, array: np.ndarray) -> np.ndarray:
        array = _check_array(name, array, self._shape)
        if self._experiment is None and array.dtype == np.uint8:
            raise BnnError(_unprepared(name, "an array of uint8 pixels"))
        if array.dtype != np.uint8 and self._centred and array.min() >= 0:
            self._without_negatives.append(name)
        return array

    @property
    def _centred(self) -> bool:
        """Whether normalised images have negative values."""
        return self._experiment is not None and max(self._experiment.data.mean) > 0

    def _warn(self) -> None:
        if self._other_sizes:
            height, width, _ = self._shape
            warnings.warn(
                f"{self._other_sizes} of {self._files} images are not {height} × {width} pixels, so they are resized "
                f"and their centre is cropped; the first is {self._first_other}",
                stacklevel=1,
            )
        if self._without_negatives:
            assert self._experiment
            warnings.warn(
                f"{self._without_negatives[0]!r} holds floats, which are used unchanged, but none is negative, as some "
                f"are in images normalised with mean {self._experiment.data.mean}; if they are pixels, give uint8",
                stacklevel=1,
            )


def _unprepared(name: str, what: str) -> str:
    return (
        f"{name!r} is {what}, and the network has no experiment, which would define the preprocessing of images; give "
        "an array, or a .npy file, of floats that are prepared as for its training"
    )


def _named(name: str, images: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    return ((f"{name}[{index}]", image) for index, image in enumerate(images))


def _map_array(path: Path) -> np.ndarray:
    try:
        # Mapping the file compares its size with the shape in its header, and does not take .npz files or objects.
        with np.errstate(over="raise"):
            return np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, ArithmeticError, EOFError, tokenize.TokenError) as error:
        raise BnnError(f"cannot read {str(path)!r} as a NumPy array ({error}); give a .npy file of images") from error


def _check_array(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array as inputs (N, …), usually images (N, height, width, channels).

    Raises:
        BnnError: It has another shape or type, or NaN or infinite values.
    """
    received = array.shape
    if shape[-1] == 1 and array.shape[-2:] == shape[:2]:
        array = array[..., None]
    if array.shape == shape:
        array = array[None]
    if array.shape[1:] != shape or not array.shape or not len(array):
        expected = ("N", *shape)
        raise BnnError(f"{name!r} has shape {received}; expected ({', '.join(map(str, expected))}); reshape it")
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise BnnError(f"{name!r} holds {array.dtype}; expected uint8 pixels or floats that are already normalised")
    unusable = 0 if array.dtype == np.uint8 else len(array) - sum(map(_is_finite, array))
    if unusable:
        raise BnnError(
            f"{name!r} has NaN or infinite values in {unusable} of {len(array)} images; expected finite float32 "
            "pixels; correct the array"
        )
    return array


def _is_finite(image: np.ndarray) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.isfinite(image.astype(np.float32)).all())


def _files(name: str, path: Path) -> list[Path]:
    """Return the image files of a folder, or the file itself."""
    if not path.exists():
        raise BnnError(f"no file or folder {name!r}; give an image, a folder of images or a .npy file")
    if not path.is_dir():
        return [path]
    try:
        files = list(_image_files(path))
    except OSError as error:
        raise BnnError(
            f"cannot read folder {error.filename or name!r} ({error.strerror}); fix its permissions"
        ) from error
    if not files:
        raise BnnError(f"folder {name!r} has no images; expected files named *{', *'.join(IMAGE_SUFFIXES)}")
    return files


def _image_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if not path.is_symlink():  # a link may lead back to this folder
                yield from _image_files(path)
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            yield path


def _read_image(path: Path, channels: int) -> np.ndarray:
    """Read an image file as uint8, (height, width, channels), upright and without transparency."""
    try:
        image = ImageOps.exif_transpose(_decode(path.read_bytes()))
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, BACKGROUND), image.convert("RGBA"))
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, tf.errors.OpError) as error:
        raise BnnError(
            f"cannot read {str(path)!r} as an image ({reason_of(error)}); give a PNG, JPEG, BMP, GIF, WebP or TIFF file"
        ) from error
    return pixels.reshape(*pixels.shape[:2], channels)


def _decode(data: bytes) -> Image.Image:
    """Decode an image file. TensorFlow decodes JPEGs, because decoders differ in rounding and evaluation uses it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about damage that is an error when pixels are read
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    if tf.io.is_jpeg(data):
        decoded = Image.fromarray(tf.io.decode_jpeg(data, channels=3).numpy())
    elif image.format == "PNG" and image.mode.startswith("I"):  # 16 bits
        decoded = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode.startswith(("I", "F")):
        raise ValueError(f"its pixels are of mode {image.mode}; expected 8 bits per channel")
    else:
        return image
    decoded.info = image.info  # has the EXIF data
    return decoded
