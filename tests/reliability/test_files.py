"""Saved models: the same predictions after loading, no code that runs, and a refusal of every file that was damaged."""

import io
import json
import os
import pickle
import struct
import warnings
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from statml.adapters.attribute_robust import AttributeAdversarialClassifier, Rotation
from statml.adapters.viewpoint import ActiveClassificationEnv
from torch import nn

from statml import adapters

from ._public import public_objects
from ._recipes import NET, records


def images():
    return np.random.default_rng(0).uniform(size=(40, 1, 6, 6)).astype(np.float32)


@cache
def small_network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
        ).eval()


def on_records(name, **parameters):
    model = getattr(adapters, name)(**NET | parameters).fit(**records("X", "y"))
    X = records("X_new")["X_new"]
    return model, lambda other: getattr(other, "predict_proba", other.predict)(X)


def mixed():
    given = records("X", "y", "X_val", "y_val", "X_new")
    X_new = given.pop("X_new")
    model = adapters.AMALClassifier(**NET)
    model.fit(aux=[adapters.Teacher(np.eye(2)[given["y"]], name="t")], **given)
    return model, lambda other: other.predict_proba(X_new)


def grouped():
    given = records("X", "y", "groups", "X_new")
    X_new = given.pop("X_new")
    return adapters.GroupDRONet(**NET).fit(**given), lambda other: other.predict_proba(X_new)


def on_images():
    X, y = images(), np.arange(40) % 3
    model = AttributeAdversarialClassifier(attributes=[Rotation(10)], n_steps=1, **NET).fit(X, y)
    return model, lambda other: other.predict_proba(X)


def open_set():
    given = records("X", "y", "X_new")
    X_new = given.pop("X_new")
    model = adapters.OpenVAEClassifier(
        hidden=(8,), latent_dim=2, likelihood="gaussian", epochs=2, random_state=0
    ).fit(**given)
    return model, lambda other: np.column_stack(
        [other.predict_proba(X_new), other.outlier_proba(X_new)]
    )


def quantized():
    model = adapters.GenieQuantizer(
        n_samples=16, distill_batch=8, distill_iter=2, generator_channels=(4, 4), latent_dim=4,
        recon_iter=2, random_state=0, progress=False,
    ).fit(small_network(), input_shape=(1, 6, 6))  # fmt: skip
    return model, lambda other: other.decision_function(images())


def looking():
    env = ActiveClassificationEnv(n_targets=2, horizon=10)
    model = adapters.ViewpointPolicy(
        d_model=8, n_heads=2, total_steps=8, warm_start=None, n_envs=2, n_steps=4, batch_size=8,
        random_state=0, progress=False,
    ).fit(env)  # fmt: skip
    seen, _ = env.vector(3).reset(seed=0)
    return model, lambda other: other.predict(seen)


# Each line: the class, how one is fitted and asked, what `load` is handed.
FILES = {
    adapters.NetClassifier: (lambda: on_records("NetClassifier"), {}),
    adapters.NetRegressor: (lambda: on_records("NetRegressor"), {}),
    adapters.PruningClassifier: (lambda: on_records("PruningClassifier", sparsity=0.5), {}),
    adapters.PruningRegressor: (lambda: on_records("PruningRegressor", sparsity=0.5), {}),
    adapters.GroupDRONet: (grouped, {}),
    adapters.JTTNet: (lambda: on_records("JTTNet"), {}),
    adapters.LfFNet: (lambda: on_records("LfFNet"), {}),
    adapters.AGRONet: (lambda: on_records("AGRONet", cv=2, slicer_epochs=1), {}),
    adapters.AMALClassifier: (mixed, {}),
    AttributeAdversarialClassifier: (on_images, {"attributes": [Rotation(10)]}),
    adapters.OpenVAEClassifier: (open_set, {}),
    adapters.GenieQuantizer: (quantized, {"model": small_network()}),
    adapters.ViewpointPolicy: (looking, {}),
}
BY_NAME = {cls.__name__: cls for cls in FILES}
every_class = pytest.mark.parametrize("name", BY_NAME)


@cache
def fitted(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of such short trainings
        return FILES[BY_NAME[name]][0]()


@pytest.fixture
def saved(name, tmp_path):
    """A file, a function that loads it, what the model in it answers, and the question."""
    model, ask = fitted(name)
    path = tmp_path / "model"
    model.save(path)
    handed = FILES[BY_NAME[name]][1]
    return path, lambda: BY_NAME[name].load(path, **handed), ask(model), ask


@every_class
def test_a_loaded_model_answers_the_same(saved):
    path, load, answers, ask = saved
    np.testing.assert_array_equal(ask(load()), answers)
    assert [other.name for other in path.parent.iterdir()] == [path.name]


class Trap:
    """Leaves a folder where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@every_class
@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_pickle_in_place_of_the_file_is_refused_and_not_run(saved, tmp_path, how):
    path, load, *_ = saved
    trap = tmp_path / "sprung"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Trap(trap)))
    else:
        content = io.BytesIO()
        torch.save({"model": Trap(trap)}, content)
        path.write_bytes(content.getvalue())
    with pytest.raises(ValueError, match="safetensors"):
        load()
    assert not trap.exists()


@every_class
def test_the_file_of_another_class_is_refused(name, saved):
    path, *_ = saved
    for cls, (_, handed) in FILES.items():
        if cls is not BY_NAME[name]:
            with pytest.raises(ValueError, match=f"{path}.*(holds a|holds no|was not written by)"):
                cls.load(path, **handed)


def attempt(load):
    try:
        return load(), None
    except ValueError as error:
        return None, error


@every_class
def test_a_damaged_file_is_refused(name, tmp_path):
    model, ask = fitted(name)
    path = tmp_path / "model"
    model.save(path)
    whole, answers, handed = path.read_bytes(), ask(model), FILES[BY_NAME[name]][1]
    (n_header,) = struct.unpack("<Q", whole[:8])

    @settings(max_examples=max(settings().max_examples, 60), report_multiple_bugs=False)
    @given(
        st.sampled_from(["flip in header", "flip anywhere", "cut", "more"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 7),
    )
    def damage(how, where, bit):
        at = int(where * (8 + n_header if how == "flip in header" else len(whole)))
        changed = bytearray(whole)
        changed[at] ^= 1 << bit
        content = {"cut": whole[:at], "more": whole + bytes(1 + at)}.get(how, bytes(changed))
        path.write_bytes(content)
        found, error = attempt(lambda: BY_NAME[name].load(path, **handed))
        if error is None:  # 1e-5 and 1E-5 are the same
            assert how.startswith("flip")
            np.testing.assert_array_equal(ask(found), answers)
        else:
            assert str(path) in str(error), repr(error)

    damage()


def rewritten(whole, **metadata):
    """The file with other metadata; None leaves one out."""
    (n_header,) = struct.unpack("<Q", whole[:8])
    parts = json.loads(whole[8 : 8 + n_header])
    kept = {**parts.pop("__metadata__"), **metadata}
    parts["__metadata__"] = {name: text for name, text in kept.items() if text is not None}
    header = json.dumps(parts).encode()
    return struct.pack("<Q", len(header)) + header + whole[8 + n_header :]


@every_class
def test_a_header_that_was_edited_is_refused(saved):
    path, load, *_ = saved
    whole = path.read_bytes()
    (n_header,) = struct.unpack("<Q", whole[:8])
    own = json.loads(json.loads(whole[8 : 8 + n_header])["__metadata__"]["header"])
    path.write_bytes(rewritten(whole))  # as it was, only written anew
    load()
    for changed in ({**own, "more": 1}, {"parameters": own["parameters"]}, {}, [], None):
        path.write_bytes(rewritten(whole, header=json.dumps(changed)))
        with pytest.raises(ValueError, match="was changed after it was written"):
            load()
    for metadata in ({"sha256": "0" * 64}, {"format": "another"}):
        path.write_bytes(rewritten(whole, **metadata))
        with pytest.raises(ValueError, match=str(path)):
            load()


@every_class
def test_metadata_that_lack_something_or_are_no_json_are_refused(saved):
    path, load, *_ = saved
    whole = path.read_bytes()
    for metadata in ({"header": "{"}, {"header": ""}, {"header": None}, {"sha256": None}):
        path.write_bytes(rewritten(whole, **metadata))
        with pytest.raises(ValueError, match="was changed after it was written"):
            load()


@pytest.mark.parametrize("damage", ["cut", "flip", "pickle", "empty"])
def test_a_damaged_checkpoint_of_a_training_is_refused(tmp_path, damage):
    options = {**NET, "checkpoint_dir": tmp_path / "kept"}
    adapters.NetClassifier(**options).fit(**records("X", "y"))
    path, trap = tmp_path / "kept" / "training.pt", tmp_path / "sprung"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    path.write_bytes(
        {
            "cut": whole[: len(whole) // 2],
            "flip": bytes(flipped),
            "pickle": pickle.dumps(Trap(trap)),
            "empty": b"",
        }[damage]
    )
    with pytest.raises(ValueError, match="is damaged, so that nothing is known of the run"):
        adapters.NetClassifier(**options).fit(**records("X", "y"))
    assert not trap.exists()


def test_every_public_class_that_saves_and_loads_is_tried():
    found = {
        thing
        for thing in public_objects().values()
        if isinstance(thing, type) and hasattr(thing, "save") and hasattr(thing, "load")
    }
    assert found == set(FILES)
