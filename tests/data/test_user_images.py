"""Read images of users: orientation, transparency, colours, sizes, and errors."""

import os
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bnn_keras import resolve
from bnn_keras.data import user_images
from bnn_keras.data.pipelines import denormalise, normalise
from bnn_keras.data.user_images import image_batches
from bnn_keras.errors import BnnError


@pytest.fixture(scope="module")
def grey():
    """An experiment on grey images of 28 × 28 pixels."""
    return resolve("lenet5").experiment


@pytest.fixture(scope="module")
def coloured():
    """An experiment on coloured images of 32 × 32 pixels."""
    return resolve("resnet20").experiment


def read_images(source, experiment):
    """Return the names of the images of a source, and the images."""
    ((names, images),) = image_batches([source], experiment, 100)
    return names, images


def pixels_of(source, experiment):
    _, images = read_images(source, experiment)
    return np.asarray(denormalise(experiment)(images)).round().astype(int)


def gradient(height, width, channels=3):
    """Return a smooth image that no rotation or reflection maps to itself."""
    rows, columns = np.mgrid[0:height, 0:width]
    image = np.stack([rows * 6, columns * 3, rows * 4 + columns * 2], -1).astype(np.uint8)
    return image[..., :channels]


ROTATIONS = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image.swapaxes(0, 1)[:, ::-1],
    7: lambda image: image.swapaxes(0, 1)[::-1, ::-1],
    8: lambda image: image.swapaxes(0, 1)[::-1],
}


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("orientation", ROTATIONS)
def test_exif_orientation_is_applied(coloured, tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"image.{suffix}"
    options = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    Image.fromarray(gradient(32, 32)).save(file, exif=exif, **options)
    expected = ROTATIONS[orientation](gradient(32, 32).astype(int))
    assert np.abs(pixels_of(file, coloured)[0] - expected).mean() < (4 if suffix == "jpg" else 1e-6)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white(coloured, grey, tmp_path, mode):
    for experiment in (coloured, grey):
        size = experiment.input_shape[0]
        image = Image.new("RGBA", (size, size), (0, 0, 0, 255))
        image.paste((0, 0, 0, 0), (0, 0, size, size // 2))
        image.convert(mode).save(tmp_path / "image.png")
        pixels = pixels_of(tmp_path / "image.png", experiment)[0]
        assert pixels[: size // 2].min() == 255
        assert pixels[size // 2 :].max() == 0


def test_half_transparent_pixels_are_blended_with_white(coloured, tmp_path):
    Image.new("RGBA", (32, 32), (0, 100, 200, 51)).save(tmp_path / "image.png")
    assert np.abs(pixels_of(tmp_path / "image.png", coloured)[0, 0, 0] - [204, 224, 244]).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "jpg", "webp", "tif"])
def test_grey_networks_read_every_format(grey, tmp_path, suffix):
    file = tmp_path / f"image.{suffix}"
    Image.fromarray(gradient(28, 28)).save(file)
    expected = np.asarray(Image.fromarray(gradient(28, 28)).convert("L"), int)
    assert np.abs(pixels_of(file, grey)[0, ..., 0] - expected).mean() < 4


def test_cmyk_jpegs_are_converted(coloured, grey, tmp_path):
    for experiment, mode in ((coloured, "RGB"), (grey, "L")):
        size, _, channels = experiment.input_shape
        image = Image.fromarray(gradient(size, size))
        image.convert("CMYK").save(tmp_path / "image.jpg", quality=100)
        expected = np.asarray(image.convert(mode), int).reshape(size, size, channels)
        assert np.abs(pixels_of(tmp_path / "image.jpg", experiment)[0] - expected).mean() < 3


def test_sixteen_bits_are_reduced_to_eight(grey, tmp_path):
    image = gradient(28, 28)[..., 0]
    Image.fromarray(image.astype(np.uint16) * 257).save(tmp_path / "image.png")
    assert np.array_equal(pixels_of(tmp_path / "image.png", grey)[0, ..., 0], image)


def test_shorter_side_is_resized_and_centre_is_cropped(coloured, tmp_path):
    Image.fromarray(gradient(32, 64)).save(tmp_path / "wide.png")
    Image.fromarray(gradient(32, 32)).save(tmp_path / "fits.png")
    message = r"1 of 2 images are not 32 × 32 pixels, so they are resized .*; the first is '.*wide.png' \(32 × 64\)$"
    with pytest.warns(UserWarning, match=message):
        pixels = pixels_of(tmp_path, coloured)
    assert np.abs(pixels[1] - gradient(32, 64)[:, 16:48]).max() <= 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_images(tmp_path / "fits.png", coloured)


def test_floats_that_look_like_pixels_are_used_with_a_warning(grey):
    pixels = gradient(28, 28)[..., :1]
    message = (
        r"^'images\[0\]' holds floats, .* but none is negative, .* mean \[0.1307\]; if they are pixels, give uint8$"
    )
    with pytest.warns(UserWarning, match=message):
        _, images = read_images(pixels / 255, grey)
    np.testing.assert_array_equal(images[0], (pixels / 255).astype(np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_images(normalise(grey)(pixels).numpy(), grey)
        read_images(pixels, grey)
        without_mean = grey.model_copy(update={"data": grey.data.model_copy(update={"mean": [0.0]})})
        read_images(pixels / 255, without_mean)


def test_both_sides_are_resized_without_keep_aspect(coloured, tmp_path):
    squeezed = coloured.model_copy(update={"data": coloured.data.model_copy(update={"keep_aspect": False})})
    columns = np.broadcast_to(np.arange(64)[:, None] * 4, (32, 64, 3)).astype(np.uint8)
    Image.fromarray(columns).save(tmp_path / "wide.png")
    with pytest.warns(UserWarning, match="1 of 1 images"):
        pixels = pixels_of(tmp_path / "wide.png", squeezed)
    assert np.abs(pixels[0, 0, 2:-2, 0] - (np.arange(32) * 8 + 2)[2:-2]).max() <= 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_array_must_be_finite(grey, tmp_path, value):
    images = np.zeros((3, 28, 28, 1))
    images[1, 4, 5] = value
    np.save(tmp_path / "images.npy", images)
    with pytest.raises(BnnError, match=r"'.*images.npy' has NaN or infinite values in 1 of 3 images; expected finite"):
        read_images(tmp_path / "images.npy", grey)


def header_only(file, images):
    """Write a `.npy` file whose header claims a number of images, without them."""
    with file.open("wb") as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": (images, 28, 28, 1)}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.write(b"pixels")


@pytest.mark.parametrize("images", [48_000_000, 10**17, 10**30])
def test_array_that_is_shorter_than_its_header_claims(grey, tmp_path, images):
    header_only(tmp_path / "images.npy", images)
    with pytest.raises(
        BnnError, match=r"cannot read '.*images.npy' as a NumPy array \(.*\); give a .npy file of images"
    ):
        read_images(tmp_path / "images.npy", grey)


def test_array_with_an_unclosed_bracket_in_its_header(grey, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((1, *grey.input_shape), np.uint8))
    data = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(data.replace(b"), }", b"   ["))
    with pytest.raises(BnnError, match=r"cannot read .*x.npy' as a NumPy array"):
        read_images(tmp_path / "x.npy", grey)


def test_archive_of_arrays_named_as_one_array(grey, tmp_path):
    np.savez(tmp_path / "images.npz", np.zeros((1, 28, 28, 1), np.uint8))
    (tmp_path / "images.npz").rename(tmp_path / "images.npy")
    with pytest.raises(
        BnnError, match=r"cannot read '.*images.npy' as a NumPy array \(.*\); give a .npy file of images"
    ):
        read_images(tmp_path / "images.npy", grey)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "webp", "tif"])
def test_damaged_image(grey, tmp_path, suffix):
    file = tmp_path / f"image.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)).save(file)
    data = file.read_bytes()
    for damaged in (data[: len(data) // 2], data[:20], b"", b"no image"):
        file.write_bytes(damaged)
        with pytest.raises(
            BnnError, match=r"cannot read '.*' as an image \([^<>{}\[\]]+\); give a PNG, JPEG, BMP, GIF, WebP or TIFF"
        ):
            read_images(file, grey)


def test_file_name_that_is_not_utf_8(grey, tmp_path):
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    Image.fromarray(gradient(28, 28)).save(file)
    names, _ = read_images(tmp_path, grey)
    assert names == [str(file)]


def test_no_more_than_a_batch_is_read_ahead(grey, tmp_path, monkeypatch):
    for index in range(10):
        Image.fromarray(gradient(28, 28)).save(tmp_path / f"{index}.png")
    read = []
    monkeypatch.setattr(
        user_images, "_read_image", lambda file, channels: read.append(file.name) or gradient(28, 28, 1)
    )
    counts = [(len(names), len(read)) for names, _ in image_batches([tmp_path], grey, 4)]
    assert counts == [(4, 4), (4, 8), (2, 10)]
    assert read == [f"{index}.png" for index in range(10)]


def test_array_files_are_not_read_as_a_whole(grey, tmp_path):
    header_only(tmp_path / "images.npy", 1_000_000)
    os.truncate(tmp_path / "images.npy", 1_000_000 * 28 * 28 + 128)  # zeros that occupy no space on the disk
    tracemalloc.start()
    names, images = next(image_batches([tmp_path / "images.npy"], grey, 32))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (names[31], images.shape) == ("images.npy[31]", (32, 28, 28, 1))
    assert peak < 10_000_000


def test_folders_of_folders_in_the_order_of_names(grey, tmp_path):
    for name in ("b.png", "a/2.png", "a/1.PNG", "a/deep/0.bmp", "c/x.png", ".hidden/x.png", "a/.x.png", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(gradient(28, 28)).save(tmp_path / name, format="PNG")
    (tmp_path / "loop").symlink_to(tmp_path)
    names, _ = read_images(tmp_path, grey)
    assert [os.path.relpath(name, tmp_path) for name in names] == [
        *("a/1.PNG", "a/2.png", "a/deep/0.bmp"),
        *("b.png", "c/x.png"),
    ]


def test_what_cannot_be_read_is_left_out(grey, tmp_path):
    for name in ("1.png", "3.png"):
        Image.fromarray(gradient(28, 28)).save(tmp_path / name)
    (tmp_path / "2.png").write_text("no image")
    np.save(tmp_path / "bad.npy", np.zeros((2, 5, 5, 1), np.uint8))
    (tmp_path / "empty").mkdir()
    sources = [tmp_path, tmp_path / "bad.npy", np.zeros((28, 28), np.uint8), tmp_path / "empty", tmp_path / "gone.png"]
    failed = {}
    ((names, images),) = image_batches(sources, grey, 100, failed)
    assert [Path(name).name for name in names] == ["1.png", "3.png", "images[2][0]"]
    assert len(images) == 3
    assert [Path(name).name for name in failed] == ["2.png", "bad.npy", "empty", "gone.png"]
    for name, message in failed.items():
        assert name in message
    with pytest.raises(BnnError, match=r"cannot read '.*2.png' as an image"):
        list(image_batches(sources, grey, 100))


def test_arrays(grey, coloured):
    pixels = gradient(28, 28, 1)
    expected = normalise(grey)(pixels[None]).numpy()
    for array in (pixels, pixels[None], pixels[..., 0], pixels[None, ..., 0], expected, expected[0].astype(np.float64)):
        names, images = read_images(array, grey)
        assert names == ["images[0][0]"]
        assert images.dtype == np.float32
        assert np.array_equal(images, expected)
    ((_, images),) = image_batches([pixels, expected, pixels], grey, 3)
    assert np.array_equal(images, np.repeat(expected, 3, 0))
    for array, message in {
        "grey": (pixels[..., 0], r"'images\[0\]' has shape \(28, 28\); expected \(N, 32, 32, 3\); reshape it"),
        "integers": (np.zeros((32, 32, 3), int), r"'images\[0\]' holds int64; expected uint8 pixels or floats"),
        "objects": ([None], r"'images\[0\]' has shape \(1,\)"),
    }.values():
        with pytest.raises(BnnError, match=message):
            read_images(array, coloured)
