"""The folders of random weights that scripts/make_wan.py writes are what diffusers reads and writes itself."""

import logging
import re
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from safetensors.torch import load_file

from alchemint.model.transformer import AlchemintTransformer3DModel

TINY = ["tiny", "tiny-14b", "tiny-5b", "tiny-a14b"]


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What diffusers and transformers warn of, as they do of missing and unexpected weights."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    for logger in loggers:
        logger.addHandler(handler)
    yield messages
    for logger in loggers:
        logger.removeHandler(handler)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# diffusers' layout


@pytest.mark.parametrize("geometry", TINY)
def test_a_pipeline_loads_and_makes_a_video(
    folder_of: Callable[[str], Path], warnings: list[str], geometry: str
) -> None:
    pipe = WanPipeline.from_pretrained(folder_of(geometry))
    assert warnings == []
    assert (pipe.transformer_2 is not None) == (pipe.config.boundary_ratio is not None) == (geometry == "tiny-a14b")
    assert pipe.config.expand_timesteps == (geometry == "tiny-5b")
    ratio = 16 if geometry == "tiny-5b" else 8
    pipe.set_progress_bar_config(disable=True)
    arguments = {"prompt": "A red balloon waits.", "height": 32, "width": 64, "num_frames": 5, "num_inference_steps": 3,
                 "max_sequence_length": 16, "generator": torch.Generator().manual_seed(0)}
    latents = pipe(**arguments, output_type="latent").frames
    assert latents.shape == (1, pipe.vae.config.z_dim, 2, 32 // ratio, 64 // ratio)
    assert 0.3 < latents.std() < 3
    frames = pipe(**arguments, output_type="np").frames
    assert frames.shape == (1, 5, 32, 64, 3)
    assert 0.05 < frames.std() < 0.4


def test_a_weight_that_is_missing_would_be_warned_of(
    make_wan: ModuleType, warnings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_wan.weights_of
    monkeypatch.setattr(make_wan, "weights_of", lambda pipe, dtype: {
        name: {key: tensor for key, tensor in tensors.items() if "proj_out" not in key and ".q." not in key}
        for name, tensors in whole(pipe, dtype).items()})
    make_wan.make("tiny", tmp_path / "wan")
    WanTransformer3DModel.from_pretrained(tmp_path / "wan/transformer")
    assert any("proj_out" in message for message in warnings)


@pytest.mark.parametrize("geometry", TINY)
def test_files_are_those_that_diffusers_would_save(
    folder_of: Callable[[str], Path], tmp_path: Path, geometry: str
) -> None:
    WanPipeline.from_pretrained(folder_of(geometry)).save_pretrained(tmp_path)
    ours, theirs = files_of(folder_of(geometry)), files_of(tmp_path)
    assert ours.keys() == theirs.keys()
    assert all(ours[name] == theirs[name] for name in ours if name.endswith(".safetensors"))


def test_shards_are_those_that_diffusers_would_save(
    make_wan: ModuleType, folder_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_wan, "SHARD_SIZE", "40KB")
    make_wan.make("tiny", tmp_path / "sharded", dtype=torch.float32)
    model = WanTransformer3DModel.from_pretrained(folder_of("tiny"), subfolder="transformer")
    model.save_pretrained(tmp_path / "theirs", max_shard_size="40KB")
    ours, theirs = files_of(tmp_path / "sharded/transformer"), files_of(tmp_path / "theirs")
    assert len(ours) > 3
    assert {name: ours[name] for name in ours if name != "config.json"} == {
        name: theirs[name] for name in theirs if name != "config.json"}
    text_encoder = WanPipeline.from_pretrained(tmp_path / "sharded").text_encoder
    assert (tmp_path / "sharded/text_encoder/model.safetensors.index.json").is_file()
    text_encoder.save_pretrained(tmp_path / "text", max_shard_size="40KB")
    ours, theirs = files_of(tmp_path / "sharded/text_encoder"), files_of(tmp_path / "text")
    assert all(ours[name] == theirs[name] for name in ours if name.endswith(".safetensors"))


def test_a_seed_gives_the_same_bytes(make_wan: ModuleType, folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    for seed in (0, 1):
        make_wan.make("tiny-a14b", tmp_path / str(seed), dtype=torch.float32, seed=seed)
    first = files_of(folder_of("tiny-a14b"))
    assert files_of(tmp_path / "0") == first
    changed = {name for name, content in files_of(tmp_path / "1").items() if content != first[name]}
    assert changed == {name for name in first if name.endswith(".safetensors")}
    experts = [first[f"{name}/diffusion_pytorch_model.safetensors"] for name in ("transformer", "transformer_2")]
    assert experts[0] != experts[1]


def test_pieces_are_of_one_stream(make_wan: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn in several pieces, a big tensor doesn't repeat itself and has the scale asked for."""
    monkeypatch.setattr(make_wan, "PIECE", 4096)
    pieces = list(make_wan.draw(0, "transformer", "proj_out.weight", torch.empty(100, 100, device="meta")))
    assert [len(piece) for piece in pieces] == [4096, 4096, 10000 - 8192]
    assert not torch.equal(pieces[0], pieces[1])
    assert torch.cat(pieces).std().item() == pytest.approx(0.1, rel=0.05)


def test_norms_are_one_and_biases_zero(folder_of: Callable[[str], Path]) -> None:
    weights = load_file(folder_of("tiny") / "transformer/diffusion_pytorch_model.safetensors")
    vae = load_file(folder_of("tiny") / "vae/diffusion_pytorch_model.safetensors")
    for name, tensor in [*weights.items(), *vae.items()]:
        if name.endswith(".bias"):
            assert not tensor.any()
        elif re.search(r"norm\w*\.weight$|gamma$", name):
            assert (tensor == 1).all()
        else:
            assert tensor.std() > 0


# Wan's own layout


@pytest.mark.parametrize("geometry", TINY)
def test_the_original_layout_holds_the_same_weights(
    folder_of: Callable[..., Path], warnings: list[str], geometry: str
) -> None:
    files = sorted(folder_of(geometry, layout="original").rglob("*.safetensors"))
    assert len(files) == (2 if geometry == "tiny-a14b" else 1)
    for path, component in zip(files, ("transformer", "transformer_2"), strict=False):
        model = WanTransformer3DModel.from_single_file(str(path), config=str(folder_of(geometry)), subfolder=component)
        theirs = WanTransformer3DModel.from_pretrained(folder_of(geometry), subfolder=component).state_dict()
        assert model.state_dict().keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())
    assert warnings == []


@pytest.mark.parametrize(("geometry", "files"), [
    ("tiny", ["Wan2.1_VAE.pth", "config.json", "diffusion_pytorch_model.safetensors"]),
    ("tiny-5b", ["Wan2.2_VAE.pth", "config.json", "diffusion_pytorch_model.safetensors"]),
    ("tiny-a14b", ["Wan2.1_VAE.pth", "high_noise_model", "low_noise_model"])])
def test_the_original_layout_has_the_files_of_a_release(
    folder_of: Callable[..., Path], geometry: str, files: list[str]
) -> None:
    folder = folder_of(geometry, layout="original")
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*files, "google", "models_t5_umt5-xxl-enc-bf16.pth"])


def test_original_names_are_those_of_wans_code(make_wan: ModuleType) -> None:
    with torch.device("meta"):
        weights = WanTransformer3DModel(**make_wan.GEOMETRIES["tiny"].transformer).state_dict()
    originals = {make_wan.original_name(name): name for name in weights}
    assert len(originals) == len(weights)
    assert {"patch_embedding.weight", "text_embedding.2.bias", "time_embedding.0.weight", "time_projection.1.bias",
            "blocks.1.self_attn.o.weight", "blocks.0.cross_attn.norm_k.weight", "blocks.0.norm3.weight",
            "blocks.1.modulation", "blocks.0.ffn.2.bias", "head.modulation", "head.head.weight"} <= originals.keys()
    assert convert_wan_transformer_to_diffusers({name: name for name in originals}) == {
        name: original for original, name in originals.items()}


# Full size


@pytest.mark.parametrize(("geometry", "transformer", "vae"), [
    ("wan2.1-1.3b", 1.419e9, 126.9e6), ("wan2.1-14b", 14.288e9, 126.9e6), ("wan2.2-5b", 5.0e9, 704.7e6)])
def test_real_geometries_have_as_many_weights_as_the_models(
    make_wan: ModuleType, geometry: str, transformer: float, vae: float
) -> None:
    sizes = make_wan.GEOMETRIES[geometry]
    with torch.device("meta"):
        models = [WanTransformer3DModel(**sizes.transformer), AutoencoderKLWan(**sizes.vae)]
    for model, known in zip(models, (transformer, vae), strict=True):
        assert sum(tensor.numel() for tensor in model.state_dict().values()) == pytest.approx(known, rel=1e-3)


def test_a_tiny_text_encoder_fits_a_real_transformer(make_wan: ModuleType) -> None:
    pipe = make_wan.build(make_wan.GEOMETRIES["wan2.1-1.3b"], True, torch.bfloat16)
    weights = make_wan.weights_of(pipe, torch.bfloat16)
    assert pipe.text_encoder.config.d_model == pipe.transformer.config.text_dim == 4096
    assert sum(tensor.nbytes for tensor in weights["text_encoder"].values()) < 10e6
    assert {tensor.dtype for tensor in weights["transformer"].values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in weights["vae"].values()} == {torch.float32}


def test_the_real_text_encoder_is_umt5_xxl(make_wan: ModuleType) -> None:
    pipe = make_wan.build(make_wan.GEOMETRIES["wan2.1-1.3b"], False, torch.bfloat16)
    weights = make_wan.weights_of(pipe, torch.bfloat16)["text_encoder"]
    assert sum(tensor.nbytes for tensor in weights.values()) == 11_361_820_672


# What a user meets


def test_our_transformer_is_built_around_it(folder_of: Callable[[str], Path]) -> None:
    ours = AlchemintTransformer3DModel.from_wan(folder_of("tiny") / "transformer")
    assert torch.equal(ours.proj_out.weight, load_file(
        folder_of("tiny") / "transformer/diffusion_pytorch_model.safetensors")["proj_out.weight"])


def test_a_disk_that_is_too_small_is_named_before_anything_is_written(
    make_wan: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(make_wan.shutil, "disk_usage", lambda path: usage(0, 0, 2_000_000_000))
    with pytest.raises(ValueError, match=r"takes 3\.4 GB, but the disk of .* has 2\.0 GB free; choose"):
        make_wan.make("wan2.1-1.3b", tmp_path / "wan", tiny_text_encoder=True)
    assert not any(tmp_path.iterdir())


def test_nothing_is_overwritten(make_wan: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is there already"):
        make_wan.make("tiny", tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_what_breaks_off_leaves_no_folder(
    make_wan: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(make_wan, "write_shards", fail)
        make_wan.make("tiny", tmp_path / "wan")
    assert not (tmp_path / "wan").exists()
    make_wan.make("tiny", tmp_path / "wan")
    assert [path.name for path in tmp_path.iterdir()] == ["wan"]
