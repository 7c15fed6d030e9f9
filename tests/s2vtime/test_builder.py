"""Building suites: through the real client to a server on this machine, and with a tiny text-to-image pipeline."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alchemint.s2vtime import builder
from alchemint.s2vtime.builder import Chosen, Entity, Outcome, Prompt
from alchemint.s2vtime.suite import About, load_suite
from tests.language_server import serving

ABOUT = About(name="mine", version=1)
FOX = Prompt("a", "A Red Fox meets a duck.")
SOUND = {"entities": [{"word": "red fox", "start": 0.5, "end": 3.0}, {"word": "duck", "start": 1, "end": 5}]}


class Squares:
    """Paints squares whose grey is the seed; counts."""

    def __init__(self) -> None:
        self.painted: list[str] = []

    def paint(self, word: str, seed: int) -> Image.Image:
        self.painted.append(word)
        return Image.new("RGB", (16, 16), (seed % 256,) * 3)


@pytest.fixture
def server() -> Iterator[tuple[str, list[Any], list[Any]]]:
    """Address, answers to give one by one, and requests received; see tests/language_server.py."""
    with serving() as running:
        yield running.url, running.answers, running.requests


@pytest.fixture
def new_chooser() -> Callable[[str], builder.LlmChooser]:
    """A function that makes a chooser out of a server's address."""
    openai = pytest.importorskip("openai")
    return lambda url: builder.LlmChooser(openai.OpenAI(base_url=url, api_key="none", max_retries=2), "m", 5.0)


def test_the_language_model_is_asked_with_a_schema_and_told_what_does_not_fit(
    server: tuple[str, list[Any], list[Any]], new_chooser: Callable[[str], builder.LlmChooser]
) -> None:
    url, answers, requests = server
    wrong = {"entities": [{"word": "wolf", "start": 0, "end": 9}]}
    answers += [503, {"content": "no JSON"}, {"content": json.dumps(wrong)}, {"content": json.dumps(SOUND)}]
    outcome = new_chooser(url).choose(FOX)
    assert outcome.chosen == Chosen(**SOUND)
    schema = requests[0]["response_format"]["json_schema"]
    assert schema["strict"]
    assert schema["schema"]["required"] == ["entities"]
    assert schema["schema"]["additionalProperties"] is False
    assert requests[0]["messages"][1]["content"] == FOX.text
    assert "5 seconds" in requests[0]["messages"][0]["content"]
    told = requests[-1]["messages"][-1]["content"]
    assert '"wolf" does not stand in the description' in told
    assert "must lie within 0 to 5 s" in told


def test_refusals_and_hopeless_answers_are_recorded(
    server: tuple[str, list[Any], list[Any]], new_chooser: Callable[[str], builder.LlmChooser]
) -> None:
    url, answers, _ = server
    answers += [{"content": None, "refusal": "I can't help with foxes."}]
    assert new_chooser(url).choose(FOX) == Outcome(FOX, None, "refused: I can't help with foxes.")
    answers += [{"content": content} for content in ("{}", '{"entities": 0}', "{ }")]
    outcome = new_chooser(url).choose(FOX)
    assert outcome.chosen is None
    assert outcome.reason.startswith("invalid after 3 attempts: entities: Field required")


@pytest.mark.parametrize(("entities", "fault"), [
    ([], "there are 0 entities; choose 1 to 2"),
    ([("fox", 0, 1), ("duck", 0, 1), ("red", 0, 1)], "there are 3 entities"),
    ([("fox", 0, 1), ("Fox", 1, 2)], 'the word "fox" is chosen twice'),
    ([("ox", 0, 1)], 'the word "ox" does not stand in the description'),
    ([("fox", 3, 2)], '"fox" from 3 to 2 s'),
    ([("fox", 3, 3.2)], "last at least 0.5 s"),
    ([("fox", -1, 2)], "must lie within 0 to 5 s"),
    ([("fox", 4, 5.5)], "must lie within 0 to 5 s"),
])
def test_faults_of_a_choice(entities: list[tuple[str, float, float]], fault: str) -> None:
    chosen = Chosen(entities=tuple(Entity(word=word, start=start, end=end) for word, start, end in entities))
    assert any(fault in line for line in builder.faults_of(chosen, FOX.text, 5.0, 2))
    assert builder.faults_of(Chosen(**SOUND), FOX.text, 5.0, 2) == []


def test_the_shipped_prompts_are_sound() -> None:
    prompts = builder.shipped_prompts()
    assert len({prompt.text for prompt in prompts}) == 100
    for prompt in prompts:
        assert prompt.chosen is not None
        assert builder.faults_of(prompt.chosen, prompt.text, 5.0, 2) == []


def test_a_build_goes_on_where_it_was(tmp_path: Path) -> None:
    goat = Chosen(entities=(Entity(word="goat", start=0, end=4),))
    prompts = [FOX, Prompt("b", "A cat."), Prompt("c", "A goat.", goat)]
    asked = []

    def choose(prompt: Prompt) -> Outcome:
        asked.append(prompt.id)
        return Outcome(prompt, Chosen(**SOUND)) if prompt is FOX else Outcome(prompt, None, "refused: no")

    outcomes = list(builder.choose_all(tmp_path, prompts, choose))
    assert asked == ["a", "b"]
    assert list(builder.choose_all(tmp_path, prompts, choose)) == outcomes
    assert asked == ["a", "b"]
    painter = Squares()
    suite = builder.build_suite(tmp_path, ABOUT, outcomes, painter, 5.0)
    assert [entry.id for entry in suite.entries] == ["a", "c"]
    assert [subject.word for subject in suite.entries[0].storyboard.subjects] == ["Red Fox", "duck"]
    assert suite.entries[0].storyboard.subjects[0].appears == ((0.5, 3.0),)
    (tmp_path / "images" / "a-duck.png").unlink()
    again = builder.build_suite(tmp_path, ABOUT, outcomes, painter, 5.0)
    assert painter.painted == ["red fox", "duck", "goat", "duck"]
    assert again.sha256 == suite.sha256 == load_suite(tmp_path).sha256
    with pytest.raises(ValueError, match="of another prompt"):
        list(builder.choose_all(tmp_path, [Prompt("a", "Another.")], choose))


def test_nothing_chosen_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing was chosen of any of the 1 prompts"):
        builder.build_suite(tmp_path, ABOUT, [Outcome(FOX, None, "refused: no")], Squares(), 5.0)


def test_pictures_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "mine" / "red fox.png")
    outcome = Outcome(FOX, Chosen(**SOUND))
    with pytest.raises(FileNotFoundError, match=r'no picture of "duck" in .*; put one there as a-duck.png or duck.png'):
        builder.build_suite(tmp_path / "suite", ABOUT, [outcome], builder.Pictures(tmp_path / "mine"), 5.0)
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "mine" / "a-duck.png")
    suite = builder.build_suite(tmp_path / "suite", ABOUT, [outcome], builder.Pictures(tmp_path / "mine"), 5.0)
    colours = [np.asarray(Image.open(str(subject.images[0])))[0, 0].tolist()
               for subject in suite.entries[0].storyboard.subjects]
    assert colours == [[255, 0, 0], [0, 0, 255]]


def test_a_diffusers_pipeline_paints(tmp_path: Path, text_encoder: Any, tokenizer: Any) -> None:
    """A Stable Diffusion pipeline with random weights, loaded as the command loads any."""
    import torch
    from diffusers import (
        AutoencoderKL,
        AutoPipelineForText2Image,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    clip = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16,
                                        num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=64))
    tokenizer.model_max_length = 64
    StableDiffusionPipeline(
        vae=AutoencoderKL(block_out_channels=(8, 8), latent_channels=4, norm_num_groups=4,
                          down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2),
        text_encoder=clip, tokenizer=tokenizer, safety_checker=None, feature_extractor=None,
        unet=UNet2DConditionModel(block_out_channels=(8, 8), sample_size=8, cross_attention_dim=16, norm_num_groups=4,
                                  attention_head_dim=2, layers_per_block=1,
                                  down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                                  up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")),
        scheduler=DDIMScheduler(), requires_safety_checker=False).save_pretrained(tmp_path / "t2i")
    pipeline = AutoPipelineForText2Image.from_pretrained(tmp_path / "t2i")
    pipeline.set_progress_bar_config(disable=True)
    painter = builder.DiffusersPainter(pipeline, num_inference_steps=2)
    pictures = [np.asarray(painter.paint(word, seed)) for word, seed in (("fox", 0), ("fox", 0), ("fox", 1))]
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])
