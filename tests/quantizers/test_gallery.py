"""The gallery of docs/quantizers.md: complete, and drawn from the present code."""

import inspect
import re

import numpy as np
import pytest
import tensorflow as tf
from helpers import ROOT

from bnn_keras import quantizers


@pytest.fixture(scope="module")
def gallery():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs")
        import quantizers as module  # docs/quantizers.py

    return module


PUBLIC = [getattr(quantizers, name) for name in quantizers.__all__]
CLASSES = [value for value in PUBLIC if inspect.isclass(value) and issubclass(value, tf.keras.layers.Layer)]


def test_every_quantizer_has_a_picture_that_its_documentation_names(gallery):
    assert set(gallery.GALLERY) == set(CLASSES)
    for class_ in CLASSES:
        assert f"Picture: docs/quantizers.md#{class_.__name__.lower()}" in inspect.getdoc(class_)
    names = {file.name for file in gallery.PICTURES.iterdir()}
    assert names == {gallery.file_of(class_).name for class_ in CLASSES}


def test_document_is_up_to_date(gallery):
    assert gallery.DOCUMENT.read_text() == gallery.document()


@pytest.mark.parametrize("class_", CLASSES)
def test_pictures_have_the_curves_of_the_code(gallery, class_):
    committed = gallery.committed_curves(class_)
    present = [curve.samples() for curve in gallery.GALLERY[class_].curves()]
    assert [curve["label"] for curve in committed] == [curve["label"] for curve in present]
    for old, new in zip(committed, present, strict=True):
        for key in ("x", "y", "gradient"):
            np.testing.assert_allclose(old[key], new[key], rtol=1e-3, atol=2e-4)


def test_pictures_need_no_other_file(gallery):
    for file in gallery.PICTURES.iterdir():
        assert not re.search(r"(href|src)=\"(?!#)|url\((?!#)|@import", file.read_text()), file.name
