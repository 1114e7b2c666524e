"""Networks with weights: files that HDF5 cannot read are one error; the start of a training from another run."""

import re
import shutil

from bnn_keras import load_run, models
from bnn_keras.errors import BnnError


def test_damaged_weights_without_a_digest_are_one_error(trained, tmp_path, monkeypatch):
    """Weights of earlier versions have no digest, so HDF5 reads them, and raises errors of several kinds."""
    directory = shutil.copytree(trained, tmp_path / "run", ignore=lambda *_: ["checkpoints", "tensorboard"])
    content = (trained / "weights.h5").read_bytes()[512:]
    assert content.startswith(b"\x89HDF")
    _, model = load_run(trained)
    monkeypatch.setattr(models, "build_empty", lambda *_: model)
    messages = []
    for at in range(864, 1312, 96):
        (directory / "weights.h5").write_bytes(content[:at] + b"\xff" * 8 + content[at + 8 :])
        try:
            load_run(directory)
        except BnnError as error:  # any other error is a defect
            messages.append(str(error))
    pattern = r"cannot read '.*weights.h5' as the weights of lenet5 \(.*\); run `bnnk repair .*"
    assert all(re.fullmatch(pattern, message) for message in messages)
    assert "attribute" in "".join(messages)
