"""Where a model's name leads, and what is said of one that can't be loaded."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from alchemint.cli.models import TOY_FOLDER, ModelSource, find_model, load_pipeline

Alchemint = Callable[..., Any]
FolderOf = Callable[..., Path]

WEIGHTS = "diffusion_pytorch_model.safetensors"


def test_toy_is_inside_the_package() -> None:
    import alchemint

    assert TOY_FOLDER.is_relative_to(Path(alchemint.__file__).parent)
    if (TOY_FOLDER / "model_index.json").is_file():
        assert find_model("toy").config_folder == TOY_FOLDER
    else:
        with pytest.raises(ValueError, match="holds no toy weights"):
            find_model("toy")


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    source = find_model(str(tmp_path))
    assert (source.pretrained, source.config_folder) == (str(tmp_path), tmp_path)


def test_the_edition_tells_weights_apart(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    weights, config = tmp_path / "transformer" / "model.safetensors", tmp_path / "model_index.json"
    weights.write_bytes(bytes(3_000_000))
    config.write_text("{}")
    first = find_model(str(tmp_path)).edition
    assert find_model(f"{tmp_path}/").edition == first
    (tmp_path / "notes.txt").write_text("no part of the model")
    assert find_model(str(tmp_path)).edition == first
    editions = {first}
    weights.write_bytes(bytes(2_999_999) + b"x")
    editions.add(find_model(str(tmp_path)).edition)
    weights.write_bytes(bytes(3_000_001))
    editions.add(find_model(str(tmp_path)).edition)
    config.write_text('{"fps": 6}')
    editions.add(find_model(str(tmp_path)).edition)
    assert len(editions) == 4
    revision = tmp_path / "snapshots" / "0123abc"
    assert ModelSource("owner/name", revision).edition == "0123abc"


@pytest.mark.parametrize("name", ["nothing", "./nothing", "a/b/c", "", "../../x"])
def test_what_is_neither_folder_nor_hub_name_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    with pytest.raises(ValueError, match="neither toy nor a folder nor a name on the hub"):
        find_model(name)


def test_the_edition_tells_bases_apart(folder_of: FolderOf, tmp_path: Path) -> None:
    alone = folder_of("tiny", layout="original") / WEIGHTS
    first = find_model(str(alone), str(folder_of("tiny"))).edition
    assert first == find_model(str(alone), str(folder_of("tiny"))).edition
    other = shutil.copytree(folder_of("tiny"), tmp_path / "wan")
    weights = load_file(other / "vae" / WEIGHTS)
    save_file({**weights, "quant_conv.bias": weights["quant_conv.bias"] + 1}, other / "vae" / WEIGHTS)
    assert find_model(str(alone), str(other)).edition != first


def test_of_a_model_on_the_hub_json_files_are_fetched_first_and_then_what_is_loaded(
    folder_of: FolderOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is stood for by a folder, of which a call gives what its patterns name."""
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    hub, cache = shutil.copytree(folder_of("tiny"), tmp_path / "hub"), tmp_path / "cache" / "0123abc"
    (hub / "assets").mkdir()
    (hub / "assets" / "film.mp4").touch()
    calls: list[set[str]] = []

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        assert name == "owner/wan"
        files = [str(path.relative_to(hub)) for path in hub.rglob("*") if path.is_file()]
        calls.append(set(filter_repo_objects(files, allow_patterns=allow_patterns)))
        for file in calls[-1]:
            (cache / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(hub / file, cache / file)
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    source = find_model("owner/wan")
    assert (source.edition, source.is_wan) == ("0123abc", True)
    pipeline = load_pipeline(source, "cpu", "float32")
    first, second = calls
    assert first == {file for file in second if file.endswith(".json")}
    assert "assets/film.mp4" not in second
    weights = load_file(hub / "transformer" / WEIGHTS)
    assert torch.equal(pipeline.transformer.proj_out.weight, weights["proj_out.weight"])
    alone = folder_of("tiny", layout="original") / WEIGHTS
    load_pipeline(find_model(str(alone), "owner/wan"), "cpu", "float32")
    assert calls[-1] == {file for file in second if not file.endswith(f"transformer/{WEIGHTS}")}


# Through `alchemint generate`


@pytest.fixture
def board(tmp_path: Path) -> Path:
    path = tmp_path / "board.yaml"
    path.write_text("{prompt: A red balloon waits., width: 64, height: 32, duration: 0.25, fps: 16, seed: 1}\n")
    return path


@pytest.mark.parametrize("layout", ["diffusers", "original"])
def test_a_plain_wan_makes_a_video_with_one_warning(
    alchemint: Alchemint, folder_of: FolderOf, board: Path, tmp_path: Path, layout: str
) -> None:
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger("alchemint").addHandler(handler)
    outcome = alchemint("generate", board, "--model", folder_of("tiny-a14b", layout=layout), "--steps", 2,
                        "-o", tmp_path / "a.mp4")
    logging.getLogger("alchemint").removeHandler(handler)
    assert outcome.status == 0, outcome.err
    assert (tmp_path / "a.mp4").is_file()
    assert len(messages) == 1


def test_a_file_and_its_base_make_a_video_and_are_recorded(
    alchemint: Alchemint, folder_of: FolderOf, board: Path, tmp_path: Path
) -> None:
    alone, base = folder_of("tiny", layout="original") / WEIGHTS, folder_of("tiny")
    outcome = alchemint("generate", board, "--model", alone, "--base", base, "--steps", 1, "-o", tmp_path / "a.mp4")
    assert outcome.status == 0, outcome.err
    assert json.loads((tmp_path / "a.json").read_text())["model"] == f"{alone} on {base}"


def test_a_dry_run_of_a_plain_wan_needs_its_json_files_only(
    alchemint: Alchemint, folder_of: FolderOf, board: Path, tmp_path: Path
) -> None:
    for layout in ("diffusers", "original"):
        folder = shutil.copytree(folder_of("tiny-5b", layout=layout), tmp_path / layout,
                                 ignore=shutil.ignore_patterns("*.safetensors", "*.pth"))
        outcome = alchemint("generate", board, "--model", folder, "--dry-run")
        assert outcome.status == 0, outcome.err
        assert "tokens  4 video + 0 reference + 0 word-tag = 4" in outcome.out


def changed(path: Path, **values: Any) -> None:
    """Change values of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def cut(path: Path, length: int = -10) -> None:
    path.write_bytes(path.read_bytes()[:length])


def renamed(path: Path, old: str, new: str) -> None:
    """Give a tensor of a file another name."""
    weights = load_file(path)
    save_file({new if name == old else name: tensor for name, tensor in weights.items()}, path)


DIFFUSERS_FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "an image-to-video pipeline": (
        lambda folder: changed(folder / "model_index.json", _class_name="WanImageToVideoPipeline"),
        "holds a WanImageToVideoPipeline, but an AlchemintPipeline or a text-to-video WanPipeline is needed"),
    "image-to-video channels": (
        lambda folder: changed(folder / "transformer/config.json", in_channels=36),
        "holds an image-to-video Wan (it takes 36 channels and gives 16), but a text-to-video Wan is needed"),
    "a VACE transformer": (
        lambda folder: changed(folder / "transformer/config.json", _class_name="WanVACETransformer3DModel"),
        "holds a WanVACETransformer3DModel, but a text-to-video Wan is needed"),
    "a broken config": (lambda folder: cut(folder / "transformer/config.json"), "config.json can't be read"),
    "no transformer": (lambda folder: shutil.rmtree(folder / "transformer"), "config.json can't be read"),
    "a wrong width": (
        lambda folder: changed(folder / "transformer/config.json", ffn_dim=64),
        "blocks.0.ffn.net.0.proj.weight is (48, 24), but its config asks for (64, 24); they don't belong together"),
    "a layer too many": (
        lambda folder: changed(folder / "transformer/config.json", num_layers=3),
        "lacks blocks.2.scale_shift_table, which its config asks for"),
    "a layer too few": (
        lambda folder: changed(folder / "transformer/config.json", num_layers=1),
        "which its config does not ask for, and 26 more"),
    "a transformer cut short": (lambda folder: cut(folder / "transformer" / WEIGHTS), "is cut short"),
    "a text encoder cut short": (lambda folder: cut(folder / "text_encoder/model.safetensors"), "is cut short"),
    "a VAE cut short": (lambda folder: cut(folder / "vae" / WEIGHTS), "is cut short"),
    "no weights": (lambda folder: (folder / "vae" / WEIGHTS).unlink(), "holds no weights"),
    "no tokenizer": (lambda folder: shutil.rmtree(folder / "tokenizer"), "tokenizer holds no tokenizer; fetch it"),
    "a strange tensor": (
        lambda folder: renamed(folder / "transformer" / WEIGHTS, "proj_out.bias", "proj_in.bias"),
        "lacks proj_out.bias"),
}

ORIGINAL_FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "image-to-video": (
        lambda folder: changed(folder / "config.json", model_type="i2v", in_dim=36),
        "holds an image-to-video Wan, but a text-to-video Wan is needed"),
    "VACE": (lambda folder: changed(folder / "config.json", model_type="vace"), "holds a Wan VACE, but"),
    "another model": (lambda folder: (folder / "config.json").write_text('{"model_type": "llama"}'),
                      "holds a llama, but a text-to-video Wan is needed"),
    "a wrong width": (lambda folder: changed(folder / "config.json", freq_dim=64),
                      "time_embedding.0.weight is (24, 32), but its config asks for (24, 64)"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "is no model folder"),
    "no VAE": (lambda folder: (folder / "Wan2.1_VAE.pth").unlink(), "Wan2.1_VAE.pth is not there; fetch it again"),
    "a VAE cut short": (lambda folder: cut(folder / "Wan2.1_VAE.pth"), "Wan2.1_VAE.pth is cut short"),
    "a VAE that is a list": (lambda folder: torch.save([1], folder / "Wan2.1_VAE.pth"), "holds no tensors by name"),
    "a VAE of another kind": (lambda folder: torch.save({"a": torch.ones(1)}, folder / "Wan2.1_VAE.pth"),
                              "holds no VAE of Wan's"),
    "a VAE that would run code": (lambda folder: torch.save({"a": Path("x")}, folder / "Wan2.1_VAE.pth"),
                                  "is cut short or no file of tensors"),
    "a text encoder of another kind": (
        lambda folder: shutil.copy(folder / "Wan2.1_VAE.pth", folder / "models_t5_umt5-xxl-enc-bf16.pth"),
        "holds no UMT5 encoder"),
    "no tokenizer": (lambda folder: shutil.rmtree(folder / "google"), "umt5-xxl holds no tokenizer; fetch it again"),
}


@pytest.mark.parametrize(("layout", "fault"), [*(("diffusers", fault) for fault in DIFFUSERS_FAULTS),
                                               *(("original", fault) for fault in ORIGINAL_FAULTS)])
def test_what_is_wrong_with_a_wan_is_one_line(
    alchemint: Alchemint, folder_of: FolderOf, board: Path, tmp_path: Path, layout: str, fault: str
) -> None:
    damage, message = (DIFFUSERS_FAULTS if layout == "diffusers" else ORIGINAL_FAULTS)[fault]
    folder = shutil.copytree(folder_of("tiny", layout=layout), tmp_path / "wan")
    damage(folder)
    outcome = alchemint("generate", board, "--model", folder, "--steps", 1, "-o", tmp_path / "a.mp4")
    assert (outcome.status, len(outcome.err.splitlines())) == (2, 1), outcome.err
    assert outcome.err.startswith("error: ")
    assert message in outcome.err
    assert str(folder) in outcome.err
    assert not (tmp_path / "a.mp4").exists()


def test_a_missing_shard_is_one_line(
    alchemint: Alchemint, make_wan: ModuleType, board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_wan, "SHARD_SIZE", "40KB")
    for layout in ("diffusers", "original"):
        make_wan.make("tiny", tmp_path / layout, layout=layout)
        shard = next((tmp_path / layout).rglob("diffusion_pytorch_model-00002-*"))
        shard.unlink()
        outcome = alchemint("generate", board, "--model", tmp_path / layout, "--steps", 1, "-o", tmp_path / "a.mp4")
        assert (outcome.status, len(outcome.err.splitlines())) == (2, 1), outcome.err
        assert f"names {shard.name}, which is not there; fetch it again" in outcome.err


@pytest.mark.parametrize(("extra", "message"), [
    ({"vace_blocks.0.after_proj.bias": (1,)}, "holds a Wan VACE, but a text-to-video Wan is needed"),
    ({"img_emb.proj.0.weight": (1,)}, "holds an image-to-video Wan"),
    ({"patch_embedding.weight": (24, 36, 1, 2, 2)}, "holds an image-to-video Wan (it takes 36 channels and gives 16)"),
    ({"blocks.0.ffn.0.scale_weight": (1,)}, "holds a quantised Wan"),
    ({"blocks.0.self_attn.q.lora_A.weight": (1, 1)}, "holds adapters (LoRA)"),
    ({"decoder.middle.0.residual.0.gamma": (1,)}, "holds a VAE"),
    ({"head.head.weight": None}, "holds no Wan transformer: it has no 'proj_out.weight'"),
    ({"blocks.1.norm3.weight": None}, "lacks blocks.1.norm2.weight"),
    ({"blocks.0.ffn.2.bias": (3,)}, "blocks.0.ffn.2.bias is (3,), but its config asks for (24,)"),
])
def test_a_transformer_of_another_kind_is_one_line(
    alchemint: Alchemint, folder_of: FolderOf, board: Path, tmp_path: Path, extra: dict[str, Any], message: str
) -> None:
    whole = load_file(folder_of("tiny", layout="original") / WEIGHTS)
    changes = {name: None if shape is None else torch.ones(shape) for name, shape in extra.items()}
    save_file({name: tensor for name, tensor in {**whole, **changes}.items() if tensor is not None},
              tmp_path / "wan.safetensors")
    outcome = alchemint("generate", board, "--model", tmp_path / "wan.safetensors", "--base", folder_of("tiny"),
                        "--steps", 1, "-o", tmp_path / "a.mp4")
    assert (outcome.status, len(outcome.err.splitlines())) == (2, 1), outcome.err
    assert message in outcome.err


@pytest.mark.parametrize(("name", "base", "message"), [
    ("wan.safetensors", None, "say with --base (base=) which Wan is to supply VAE, text encoder and tokenizer"),
    ("wan.safetensors", "tiny-a14b", "holds one transformer, but the base"),
    ("trained", None, "holds a transformer that was trained, without its base: name the base with --base"),
    ("export", None, "put a whole model together with `alchemint export RUN --out FOLDER`"),
    ("export", "tiny", "put a whole model together with `alchemint export RUN --out FOLDER`"),
    ("empty", None, "is no model folder"), ("empty", "tiny", "holds no weights"),
    ("nothing", "tiny", "is no file or folder; a transformer that is to be used with a base has to be here")])
def test_what_is_no_whole_model_is_one_line(
    alchemint: Alchemint, folder_of: FolderOf, board: Path, tmp_path: Path, name: str, base: str | None, message: str
) -> None:
    shutil.copyfile(folder_of("tiny", layout="original") / WEIGHTS, tmp_path / "wan.safetensors")
    (tmp_path / "export" / "lora").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    trained = shutil.copytree(folder_of("tiny") / "transformer", tmp_path / "trained" / "transformer")
    changed(trained / "config.json", _class_name="AlchemintTransformer3DModel")
    options = [] if base is None else ["--base", folder_of(base)]
    outcome = alchemint("generate", board, "--model", tmp_path / name, *options, "--steps", 1, "-o", tmp_path / "a.mp4")
    assert (outcome.status, len(outcome.err.splitlines())) == (2, 1), outcome.err
    assert message in outcome.err


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("component", ["transformer", "vae", "text_encoder"])
def test_a_trained_model_cut_short_is_one_line(
    alchemint: Alchemint, board: Path, tmp_path: Path, component: str
) -> None:
    folder = shutil.copytree(TOY_FOLDER, tmp_path / "toy")
    cut(next((folder / component).glob("*.safetensors")))
    outcome = alchemint("generate", board, "--model", folder, "--steps", 1, "-o", tmp_path / "a.mp4")
    assert (outcome.status, len(outcome.err.splitlines())) == (2, 1), outcome.err
    assert f"{folder / component}" in outcome.err
