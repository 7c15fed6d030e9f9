"""Tensors in files: every kind gives the same, what is broken is named, and nothing but tensors is unpickled."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from alchemint.wan.tensors import open_tensors

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "b.bias": torch.ones(4, dtype=torch.bfloat16)}


def sharded(folder: Path, stem: str = "model") -> Path:
    """Write each tensor to a shard of its own; return the index."""
    places = {name: f"{stem}-{number}.safetensors" for number, name in enumerate(WEIGHTS)}
    for name, file in places.items():
        save_file({name: WEIGHTS[name]}, folder / file)
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder / f"{stem}.safetensors.index.json"


def same(path: Path) -> bool:
    stored = open_tensors(path)
    return stored.keys() == WEIGHTS.keys() and all(
        tensor.shape == WEIGHTS[name].shape and torch.equal(tensor.read(), WEIGHTS[name])
        and tensor.read().dtype == WEIGHTS[name].dtype for name, tensor in stored.items())


def test_all_kinds_of_files_hold_the_same(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "one.safetensors")
    torch.save(WEIGHTS, tmp_path / "one.pth")
    torch.save(WEIGHTS, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": WEIGHTS, "step": 3}, tmp_path / "nested.bin")
    for name in ("one.safetensors", "one.pth", "old.pt", "nested.bin"):
        assert same(tmp_path / name)
    (tmp_path / "shards").mkdir()
    assert same(sharded(tmp_path / "shards"))
    assert same(tmp_path / "shards")


@pytest.mark.parametrize("prefix", ["model.", "diffusion_model.", "model.diffusion_model."])
def test_a_prefix_of_all_names_is_left_out(tmp_path: Path, prefix: str) -> None:
    save_file({prefix + name: tensor for name, tensor in WEIGHTS.items()}, tmp_path / "one.safetensors")
    assert same(tmp_path / "one.safetensors")
    save_file({prefix + "a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "other.safetensors")
    assert set(open_tensors(tmp_path / "other.safetensors")) == {prefix + "a", "b"}


@pytest.mark.parametrize("name", ["one.safetensors", "one.pth"])
@pytest.mark.parametrize("cut", [-3, 60, 8, 0])
def test_a_file_cut_short_is_told_in_one_line(tmp_path: Path, name: str, cut: int) -> None:
    save_file(WEIGHTS, tmp_path / "one.safetensors")
    torch.save(WEIGHTS, tmp_path / "one.pth")
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:cut])
    with pytest.raises(ValueError, match=rf"^{tmp_path / name} is cut short or no file of tensors \(.+\); fetch it "
                                         r"again$"):
        open_tensors(tmp_path / name)


def test_shards_that_are_missing_or_lack_a_tensor_are_named(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    save_file({"other": torch.ones(1)}, tmp_path / "model-1.safetensors")
    with pytest.raises(ValueError, match=r"looks for b\.bias in model-1\.safetensors, which does not hold it"):
        open_tensors(index)
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(ValueError, match=r"index\.json names model-1\.safetensors, which is not there"):
        open_tensors(tmp_path)
    index.write_text("{}")
    with pytest.raises(ValueError, match="is no index of shards"):
        open_tensors(tmp_path)


class Trap:
    """What writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("is_zip", [True, False])
def test_nothing_but_tensors_is_unpickled(tmp_path: Path, is_zip: bool) -> None:
    torch.save({**WEIGHTS, "c": Trap(tmp_path / "sprung")}, tmp_path / "one.pth",
               _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ValueError, match="no file of tensors"):
        open_tensors(tmp_path / "one.pth")
    assert not (tmp_path / "sprung").exists()
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(ValueError, match="no file of tensors"):
        open_tensors(tmp_path / "plain.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("value", [[torch.ones(1)], {"step": 3}, {}, torch.ones(1)])
def test_a_pth_that_is_no_state_dict_is_told(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "one.pth")
    with pytest.raises(ValueError, match=r"one\.pth holds no tensors by name"):
        open_tensors(tmp_path / "one.pth")


def test_a_folder_with_weights_of_several_models_asks_for_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no weights"):
        open_tensors(tmp_path)
    torch.save(WEIGHTS, tmp_path / "Phantom-Wan-1.3B.pth")
    torch.save(WEIGHTS, tmp_path / "Wan2.1_VAE.pth")
    torch.save(WEIGHTS, tmp_path / "models_t5_umt5-xxl-enc-bf16.pth")
    assert same(tmp_path)
    index = sharded(tmp_path, "Phantom_Wan_14B")
    with pytest.raises(ValueError, match=r"\(Phantom_Wan_14B\.safetensors\.index\.json, Phantom-Wan-1\.3B\.pth\); name "
                                         "one"):
        open_tensors(tmp_path)
    assert same(index)
    with pytest.raises(ValueError, match=r"nothing\.pth is not there"):
        open_tensors(tmp_path / "nothing.pth")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"notes\.txt is no file of weights; they end in \.safetensors, \.pth"):
        open_tensors(tmp_path / "notes.txt")


def test_a_tensor_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    """The file is mapped: what changes in it later is seen, which a copy would not."""
    save_file({"a": torch.zeros(1024)}, tmp_path / "one.safetensors")
    stored = open_tensors(tmp_path / "one.safetensors")
    with (tmp_path / "one.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(torch.ones(1).numpy().tobytes())
    assert stored["a"].read()[-1] == 1
