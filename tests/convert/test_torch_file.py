"""The checkpoint reader against archives written by hand to PyTorch's format, and against hostile ones."""

from __future__ import annotations

import collections
import io
import pickle
import sys
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest

from rdm_jax.convert.torch_file import read_state_dict
from rdm_jax.core.errors import UserError


class _Torch:
    """Stands for PyTorch's modules while a pickle is written, so that it names what PyTorch's would."""

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch
        self.storages, self.sizes, self.names = {}, {}, {}

    def name(self, module, attribute):
        if (module, attribute) in self.names:
            return self.names[module, attribute]

        def stand_in(*_):
            raise AssertionError("only named, never called")

        stand_in.__module__, stand_in.__qualname__, stand_in.__name__ = module, attribute, attribute
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            package = ".".join(parts[:end])
            if package not in sys.modules:
                self.monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
        self.monkeypatch.setattr(sys.modules[module], attribute, stand_in, raising=False)
        self.names[module, attribute] = stand_in
        return stand_in

    def tensor(self, flat, storage, offset, size, stride):
        key = str(len(self.storages))
        self.storages[key], self.sizes[key] = flat.tobytes(), flat.dtype.itemsize
        reference = ("storage", self.name("torch", storage), key, "cpu", flat.size)
        rebuild = self.name("torch._utils", "_rebuild_tensor_v2")
        return _Reduced(rebuild, (_Reference(reference), offset, size, stride, False, collections.OrderedDict()))

    def save(self, path, content, compression=zipfile.ZIP_STORED):
        buffer = io.BytesIO()
        _Pickler(buffer, protocol=2).dump(content)
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("any/data.pkl", buffer.getvalue())
            for key, data in self.storages.items():
                archive.writestr(f"any/data/{key}", data)

    def save_legacy(self, path, content, version=1001, kept=None):
        """Writes the file of PyTorch before 1.6: its storages' references have a view, and follow the pickles."""
        keys = sorted(self.storages)
        with open(path, "wb") as file:
            for part in (0x1950A86A20F9469CFC6C, version, {"little_endian": True}, content, keys):
                _LegacyPickler(file, protocol=2).dump(part)
            for key in keys:
                data, size = self.storages[key], self.sizes[key]
                file.write(np.int64(len(data) // size).tobytes() + data[:kept])


class _Reference:
    def __init__(self, pid):
        self.pid = pid


class _Reduced:
    def __init__(self, function, arguments, *state):
        self.parts = function, arguments, *state

    def __reduce__(self):
        return self.parts


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, _Reference) else None


class _LegacyPickler(pickle.Pickler):
    def persistent_id(self, obj):
        return (*obj.pid, None) if isinstance(obj, _Reference) else None


@pytest.fixture
def torch(monkeypatch):
    return _Torch(monkeypatch)


@pytest.mark.parametrize(
    ("storage", "dtype"),
    [
        ("FloatStorage", np.float32),
        ("HalfStorage", np.float16),
        ("BFloat16Storage", ml_dtypes.bfloat16),
        ("LongStorage", np.int64),
        ("BoolStorage", np.bool_),
    ],
)
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_tensors_round_trip(tmp_path, torch, storage, dtype, compression):
    values = (np.arange(24) % 7).astype(dtype)
    state = {
        "all": torch.tensor(values, storage, 0, (2, 3, 4), (12, 4, 1)),
        "transposed": torch.tensor(values, storage, 0, (4, 6), (1, 4)),
        "inner": torch.tensor(values, storage, 5, (3,), (2,)),
        "scalar": torch.tensor(values, storage, 3, (), ()),
        "empty": torch.tensor(values[:0], storage, 0, (0, 4), (4, 1)),
        "no tensor": 3,
    }
    torch.save(tmp_path / "a.ckpt", {"epoch": 1, "state_dict": collections.OrderedDict(state)}, compression)
    read = read_state_dict(tmp_path / "a.ckpt")
    assert set(read) == set(state) - {"no tensor"}
    assert all(array.dtype == dtype for array in read.values())
    np.testing.assert_array_equal(read["all"], values.reshape(2, 3, 4))
    np.testing.assert_array_equal(read["transposed"], values.reshape(6, 4).T)
    np.testing.assert_array_equal(read["inner"], values[5:10:2])
    assert read["scalar"] == values[3] and read["scalar"].shape == () and read["empty"].shape == (0, 4)


@pytest.mark.parametrize(("storage", "dtype"), [("FloatStorage", np.float32), ("HalfStorage", np.float16)])
def test_files_of_pytorch_before_its_archives_are_read(tmp_path, torch, storage, dtype):
    first, second = np.arange(24).astype(dtype), np.arange(5).astype(dtype)
    state = {
        "all": torch.tensor(first, storage, 0, (2, 3, 4), (12, 4, 1)),
        "transposed": torch.tensor(second, storage, 1, (2, 2), (1, 2)),
    }
    torch.save_legacy(tmp_path / "a.pth", collections.OrderedDict(state))
    read = read_state_dict(tmp_path / "a.pth")
    np.testing.assert_array_equal(read["all"], first.reshape(2, 3, 4))
    np.testing.assert_array_equal(read["transposed"], second[1:].reshape(2, 2).T)
    assert read["all"].dtype == dtype


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda torch, path, state: torch.save_legacy(path, state, version=1002), "unknown version"),
        (lambda torch, path, state: torch.save_legacy(path, state, kept=8), "is truncated"),
        (lambda torch, path, state: torch.save_legacy(path, {"x": torch.name("os", "system")}), "names os.system"),
        (
            lambda torch, path, state: torch.save_legacy(path, state) or path.write_bytes(path.read_bytes()[:150]),
            "damaged",
        ),
    ],
)
def test_damaged_and_hostile_files_before_its_archives_are_refused(tmp_path, torch, wrong, message):
    state = {"x": torch.tensor(np.ones(6, np.float32), "FloatStorage", 0, (6,), (1,))}
    wrong(torch, tmp_path / "a.pth", state)
    with pytest.raises(UserError, match=message):
        read_state_dict(tmp_path / "a.pth")


def test_a_plain_dictionary_of_tensors_is_read(tmp_path, torch):
    torch.save(tmp_path / "a.pt", {"x": torch.tensor(np.ones(2, np.float32), "FloatStorage", 0, (2,), (1,))})
    np.testing.assert_array_equal(read_state_dict(tmp_path / "a.pt")["x"], [1.0, 1.0])


def test_lightning_records_are_ignored_and_not_imported(tmp_path, torch):
    checkpoint = torch.name("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
    content = {"callbacks": {checkpoint: _Reduced(checkpoint, (1, 2))}, "state_dict": {}}
    torch.save(tmp_path / "a.ckpt", content)
    torch.monkeypatch.undo()
    assert read_state_dict(tmp_path / "a.ckpt") == {}
    assert "pytorch_lightning" not in sys.modules


def test_the_modules_of_a_torchscript_program_are_read(tmp_path, torch):
    values = np.arange(6, dtype=np.float16)
    module = torch.name("__torch__.clip.model.___torch_mangle_9", "Linear")
    weight = torch.tensor(values, "HalfStorage", 0, (2, 3), (3, 1))
    names = _Reduced(torch.name("torch.jit._pickle", "restore_type_tag"), (["a", "b"], "List[str]"))
    inner = _Reduced(module, (), {"training": False, "names": names, "weight": weight})
    outer = _Reduced(module, (), {"visual": inner, "scale": torch.tensor(values, "HalfStorage", 5, (), ())})
    torch.save(tmp_path / "a.pt", outer)
    read = read_state_dict(tmp_path / "a.pt")
    assert set(read) == {"visual.weight", "scale"} and read["scale"] == 5
    np.testing.assert_array_equal(read["visual.weight"], values.reshape(2, 3))


@pytest.mark.parametrize(
    ("module", "name"), [("os", "system"), ("builtins", "eval"), ("torch", "load"), ("my", "Model")]
)
def test_other_names_are_refused(tmp_path, torch, module, name):
    command = torch.name(module, name) if module in ("torch", "my") else getattr(sys.modules[module], name)
    torch.save(tmp_path / "a.ckpt", {"state_dict": {"x": _Reduced(command, ("exit(1)",))}})
    with pytest.raises(UserError, match=rf"names (posix|nt|__builtin__|{module})\.{name}, which is not allowed"):
        read_state_dict(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (7,), (1,)), (5, (2,), (1,)), (0, (2,), (6,)), (-1, (1,), (1,)), (0, (2,), (-1,))],
)
def test_tensors_past_their_storage_are_refused(tmp_path, torch, offset, size, stride):
    values = np.ones(6, np.float32)
    torch.save(tmp_path / "a.ckpt", {"x": torch.tensor(values, "FloatStorage", offset, size, stride)})
    with pytest.raises(UserError, match="damaged"):
        read_state_dict(tmp_path / "a.ckpt")


def test_files_of_other_kinds_are_refused(tmp_path, torch):
    with pytest.raises(UserError, match="does not exist"):
        read_state_dict(tmp_path / "none.ckpt")
    (tmp_path / "a.ckpt").write_bytes(b"no archive")
    with pytest.raises(UserError, match="no zip archive"):
        read_state_dict(tmp_path / "a.ckpt")
    with zipfile.ZipFile(tmp_path / "b.ckpt", "w") as archive:
        archive.writestr("readme", "hello")
    with pytest.raises(UserError, match=r"no data\.pkl"):
        read_state_dict(tmp_path / "b.ckpt")
    torch.save(tmp_path / "c.ckpt", [1, 2])
    with pytest.raises(UserError, match="not a dictionary"):
        read_state_dict(tmp_path / "c.ckpt")


def test_a_golden_checkpoint_has_the_names_and_shapes_of_its_table(golden):
    state = read_state_dict(golden / "rdm_small.ckpt")
    rows = [line.split("\t") for line in (golden / "rdm_small_keys.tsv").read_text().splitlines()]
    assert {name: (str(list(array.shape)), f"torch.{array.dtype}") for name, array in state.items()} == {
        name: (shape, dtype) for name, shape, dtype in rows
    }
