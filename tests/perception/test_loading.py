"""Loading perception models: folders of the real layout, and one line for what can't be had."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import load_file, save_file

from alchemint.perception import loading
from alchemint.perception.grounding_dino import GroundingDinoFinder
from alchemint.perception.sightings import Sought
from tests import tiny_perception as tiny

Save = Callable[..., Path]
LOADERS: dict[str, Callable[..., Any]] = {
    "detector": loading.load_detector, "comparer": loading.load_comparer, "tracker": loading.load_tracker,
    "SAM 3": loading.load_sam3}


def test_the_papers_three_models_are_loaded_from_folders(
    saved_models: Save, dino_model: Any, dino_processor: Any, clip_model: Any, clip_processor: Any, sam_model: Any,
    word_tokenizer: Any, video: np.ndarray
) -> None:
    perception = loading.load_grounded_sam2(
        saved_models("dino", dino_model, dino_processor), saved_models("clip", clip_model, clip_processor),
        saved_models("sam", sam_model))
    assert isinstance(perception.finder, GroundingDinoFinder)
    assert perception.finder.box_threshold == 0.25
    mine = GroundingDinoFinder(dino_model, word_tokenizer, dino_processor, 0.0)
    loose = GroundingDinoFinder(perception.finder.model, perception.finder.tokenizer, perception.finder.processor, 0.0)
    assert loose.find(video[:1], Sought("fox")) == mine.find(video[:1], Sought("fox"))
    assert perception.look(video, [Sought("fox")]).masks.shape == (1, *video.shape[:3])


@pytest.mark.parametrize(("parts", "prompt"), [
    ((tiny.clip_model, tiny.clip_processor), "a photo of a {}"),
    ((tiny.siglip_model, tiny.siglip_processor), "this is a photo of {}."),
    ((tiny.siglip2_model, tiny.siglip2_processor), "this is a photo of {}."),
])
def test_the_comparer_is_what_its_config_says(saved_models: Save, parts: Any, prompt: str, video: np.ndarray) -> None:
    model, processor = (part() for part in parts)
    comparer = loading.load_comparer(saved_models("comparer", model, processor), dtype=torch.bfloat16)
    assert type(comparer.model) is type(model)
    assert type(comparer.processor) is type(processor)
    assert comparer.prompt == prompt
    assert comparer.model.dtype == torch.bfloat16
    assert comparer.embed_pictures([video[0]]).shape == comparer.embed_words(["fox"]).shape


def test_sam3_is_loaded(saved_models: Save, sam3_model: Any, word_tokenizer: Any, video: np.ndarray) -> None:
    spotter = loading.load_sam3(saved_models("sam3", sam3_model))
    with torch.inference_mode():
        words = spotter._prompted(video, ["fox"])[0].prompt_input_ids[0]
    assert words[0, :4].tolist() == [tiny.WORDS.index(word) for word in ("[CLS]", "fox", "[SEP]", "[PAD]")]
    for name, weight in sam3_model.state_dict().items():
        assert torch.equal(weight, spotter.model.state_dict()[name]), name


@pytest.mark.parametrize("what", LOADERS)
def test_a_folder_of_another_class_is_refused(saved_models: Save, clip_model: Any, sam_model: Any, what: str) -> None:
    folder = saved_models("other", sam_model if what == "comparer" else clip_model)
    kind = "sam2_video" if what == "comparer" else "clip"
    with pytest.raises(ValueError, match=f'{what} ".*" is a model of type {kind}, but must be .*; name another'):
        LOADERS[what](folder)


@pytest.mark.parametrize("what", LOADERS)
def test_a_folder_without_a_model_is_refused(tmp_path: Path, what: str) -> None:
    with pytest.raises(ValueError, match=f'^{what} ".*" is a folder without config.json'):
        LOADERS[what](tmp_path)


def test_a_folder_without_weights_is_refused(saved_models: Save, sam_model: Any) -> None:
    folder = saved_models("sam", sam_model)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r'weights of tracker ".*" cannot be loaded: .*model\.safe') as raised:
        loading.load_tracker(folder)
    assert len(str(raised.value).splitlines()) == 1


def test_weights_that_are_not_there_are_not_made_up(saved_models: Save, sam_model: Any) -> None:
    folder = saved_models("sam", sam_model)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "memory_encoder" in name)
    save_file({key: value for key, value in weights.items() if key != name}, folder / "model.safetensors",
              {"format": "pt"})
    with pytest.raises(ValueError, match=f"lacks 1 of its weights, such as {name}; fetch it anew"):
        loading.load_tracker(folder)


@pytest.mark.parametrize("damaged", ["{", "[]"])
def test_a_damaged_config_is_told(tmp_path: Path, damaged: str) -> None:
    (tmp_path / "config.json").write_text(damaged)
    with pytest.raises(ValueError, match=r"its config\.json is damaged"):
        loading.load_comparer(tmp_path)


def test_a_missing_processor_is_told(saved_models: Save, clip_model: Any) -> None:
    with pytest.raises(ValueError, match=r'^comparer ".*" has no tokenizer or preprocessing beside its weights: '):
        loading.load_comparer(saved_models("clip", clip_model))


@pytest.mark.parametrize(("error", "line"), [
    (errors.GatedRepoError, "is gated: ask for access at https://huggingface.co/facebook/sam3, then log in"),
    (errors.RepositoryNotFoundError, "is no folder and is not on the hub, or is private"),
    (errors.RemoteEntryNotFoundError, "has no config.json on the hub"),
    (errors.LocalEntryNotFoundError, "is not in the hub's cache, and the hub cannot be reached"),
    (errors.OfflineModeIsEnabled, "is not in the hub's cache, and the hub cannot be reached"),
])
def test_what_the_hub_refuses_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], line: str
) -> None:
    def refuse(name: str, file: str) -> str:
        assert (name, file) == ("facebook/sam3", "config.json")
        if issubclass(error, errors.HfHubHTTPError):
            raise error("refused\nat length", response=httpx2.Response(401, request=httpx2.Request("GET", "https://x")))
        raise error("refused\nat length")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(ValueError, match=r'^SAM 3 "facebook/sam3" ') as raised:
        loading.load_sam3()
    assert line in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_a_name_that_is_none_is_refused_without_asking_the_hub() -> None:
    with pytest.raises(ValueError, match=r'^detector "no/such/folder" is neither a folder nor of the form owner/name'):
        loading.load_detector("no/such/folder")


def test_a_config_of_the_hub_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda name, file: str(tmp_path / file))
    with pytest.raises(ValueError, match=r'^detector "someone/something" is a model of type llama, but must be'):
        loading.load_detector("someone/something")
