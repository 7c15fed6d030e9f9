"""Train the perception that S2VTime uses on the toyworld: a matcher that finds subjects, a tiny CLIP that names them.

    python scripts/train_toy_perception.py matcher --steps 4600      # about an hour on one core
    python scripts/train_toy_perception.py clip                      # half an hour

The shipped matcher is that after 2,000 of its 4,600 steps, then `matcher --continue 1 --steps 1500`, and,
on today's toyworld and through today's VAE, `matcher --continue 2 --steps 2000`.

A judge may know everybody, so both learn on the subjects of all splits, never-seen ones included; the clips, and with
them all colours, patterns, poses and backgrounds, are others than those of the suites. `benchmarks/toy_perception.py`
tells how right they are. perception.json beside the weights holds what was set by hand: how like its references
(mean cosine by the tiny CLIP) what was followed must be. Of 232 subjects of 100 held-out clips that no suite has, two
reach less, through the VAE nine; of 100 strangers, two reach more (by the matcher before the last turn).
"""

import argparse
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from PIL import Image, ImageFilter
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

import alchemint
from alchemint import media, timeline
from alchemint.cli.allocator import keep_memory
from alchemint.cli.perceptions import FOLDER
from alchemint.model.latents import as_uint8, decode_video, encode_video
from alchemint.perception import matcher as network
from alchemint.perception.sightings import as_crop, bounding_box, crop
from alchemint.toyworld import Clip, WorldConfig, render_clip, sprites
from alchemint.training.tokenizer import load_or_train

TOY = Path(alchemint.__file__).parent / "assets" / "toy"
FIRST_CLIP = 1_000_000
HELDOUT_SHARE = 0.15
WORLD = WorldConfig()

Rng = np.random.Generator


def clips(seed: int) -> Iterator[Clip]:
    """Yield clips of all subjects with one to four in each, without end."""
    random = np.random.default_rng(seed)
    for index in range(FIRST_CLIP * (seed + 1), FIRST_CLIP * (seed + 2)):
        split = "heldout" if random.random() < HELDOUT_SHARE else "train"
        yield render_clip(split, index, WORLD, num_subjects=int(random.choice([1, 2, 3, 4], p=[0.3, 0.3, 0.2, 0.2])))


def _fit(model: torch.nn.Module, loss_of_a_step: Callable[[], Tensor], save: Callable[[], None], steps: int, lr: float,
         weight_decay: float, goes_on: bool) -> None:
    """Train `model` by AdamW in one cycle of the learning rate, up to `lr`; save and tell how it goes on the way.

    goes_on: the model is trained already; the learning rate goes down from `lr` over the steps.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=weight_decay)
    schedule = (torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps) if goes_on else
                torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, pct_start=0.1))
    started, losses = time.perf_counter(), []
    for step in range(1, steps + 1):
        loss = loss_of_a_step()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
        if step % 100 == 0:
            print(f"step {step}/{steps}  loss {np.mean(losses[-100:]):.4f}  "
                  f"{step / (time.perf_counter() - started):.2f} steps/s", flush=True)
            save()


# The matcher.

CLIPS_PER_STEP, FRAMES_PER_CLIP, SOUGHT_PER_CLIP = 8, 5, 4
WAYS = {"reference": 0.6, "own frame": 0.25, "anything": 0.15}
"""How the subjects of a clip are sought, and how often: by the reference, by a cut-out of one of the clip's frames, or
all of them as one."""


def train_matcher(steps: int, turn: int = 0) -> None:
    """Train the matcher on frames with pictures of who is there, of recoloured doubles, and of strangers.

    turn: 0 from random weights; from 1 on those that are there go on, on clips that only this turn has.
    """
    torch.manual_seed(0)
    random = np.random.default_rng(turn)
    matcher = network.Matcher()
    if turn:
        matcher.load_state_dict(load_file(FOLDER / "matcher.safetensors"))
    vae = AutoencoderKLWan.from_pretrained(TOY, subfolder="vae").eval()
    source = clips(2 * turn)

    def loss_of_a_step() -> Tensor:
        frames, canvases, ways, targets = _scenes([next(source) for _ in range(CLIPS_PER_STEP)], random)
        if random.random() < 0.25:
            kept = _kept(random)
            frames = _through(vae, frames.unflatten(0, (-1, FRAMES_PER_CLIP))[:, kept].flatten(0, 1))
            targets = targets[:, :, kept]
        else:
            frames = _softened(frames, random)
        with torch.autocast("cpu", torch.bfloat16):
            looks = _looks(matcher, canvases, ways)
            frames = frames.unflatten(0, (-1, FRAMES_PER_CLIP))
            if random.random() < 0.15:  # each frame alone, as when it is looked for the first time
                frames = frames.flatten(0, 1).unsqueeze(1)
                looks = network.Looks(*(part.repeat_interleave(FRAMES_PER_CLIP, 0) for part in looks))
                targets = targets.transpose(1, 2).flatten(0, 1).unsqueeze(2)
            logits = matcher(frames, looks).float()
        return _share_loss(logits.transpose(0, 1).flatten(1, 2), targets.transpose(0, 1).flatten(1, 2))

    _fit(matcher, loss_of_a_step, lambda: save_file(matcher.state_dict(), FOLDER / "matcher.safetensors"), steps,
         lr=1.4e-3 if turn else 2e-3, weight_decay=0.01, goes_on=turn > 0)


def _looks(matcher: network.Matcher, canvases: Tensor, ways: list[str]) -> network.Looks:
    """Return the looks (clips, sought, P, width) of canvases or of anything, as each clip's way tells."""
    shown, whatever = matcher.looks_of_pictures(canvases), matcher.looks_of_anything(len(canvases))
    by_picture = torch.tensor([way != "anything" for way in ways]).repeat_interleave(SOUGHT_PER_CLIP)[:, None]
    return network.Looks(torch.cat([shown.features, whatever.features], 1).unflatten(0, (-1, SOUGHT_PER_CLIP)),
                     torch.cat([shown.counts & by_picture, whatever.counts & ~by_picture], 1).unflatten(
                         0, (-1, SOUGHT_PER_CLIP)))


def _kept(random: Rng) -> list[int]:
    """Return which of a window's frames toy's VAE shows in place of each: of a latent's four always the third."""
    into_latent = random.integers(timeline.TEMPORAL_STRIDE)
    numbers = np.arange(FRAMES_PER_CLIP) + into_latent
    thirds = numbers // timeline.TEMPORAL_STRIDE * timeline.TEMPORAL_STRIDE + 2 - into_latent
    return [int(number) for number in thirds.clip(0, FRAMES_PER_CLIP - 1)]


@torch.no_grad()
def _through(vae: AutoencoderKLWan, pictures: Tensor) -> Tensor:
    """Return pictures (B, 3, height, width), as `network.as_pixels` makes them, encoded and decoded one by one."""
    pixels = ((pictures * 128 + media.NEUTRAL) / 127.5 - 1).unsqueeze(2)
    decoded = as_uint8(decode_video(vae, encode_video(vae, pixels)))[:, :, 0]
    return (decoded.float() - media.NEUTRAL) / 128


def _share_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return cross-entropy and Dice loss of logits and true shares (N, F, h, w)."""
    logs = torch.cat([torch.zeros_like(logits[:1]), logits]).log_softmax(0)
    entropy = -(torch.cat([1 - targets.sum(0, keepdim=True), targets]) * logs).sum(0).mean()
    drawn = logs[1:].exp()
    overlap = 2 * (drawn * targets).sum((2, 3)) + 1
    return entropy * 5 + (1 - overlap / (drawn.sum((2, 3)) + targets.sum((2, 3)) + 1)).mean()


def _scenes(group: list[Clip], random: Rng) -> tuple[Tensor, Tensor, list[str], Tensor]:
    """Return frames (clips * frames, 3, h, w), canvases (clips * sought, 3, h, w), the way (clips) in which the sought
    are sought, and their true shares (clips, sought, frames, h / 2, w / 2). "Anything" is sought once."""
    blank = np.zeros((4, 4, 4), np.uint8)
    frames, canvases, ways, targets = [], [], [], []
    for row, clip in enumerate(group):
        way = str(random.choice(list(WAYS), p=list(WAYS.values())))
        chosen = _window(clip, random)
        nobody = np.zeros_like(clip.masks[0, chosen])
        if way == "anything":
            sought = [(blank, clip.masks[:, chosen].any(0))]
        else:
            sought = [(_picture(clip, number, way, random), clip.masks[number, chosen])
                      for number in range(len(clip.subjects)) if random.random() < 0.85]
            double = _recoloured(clip.subjects[random.integers(len(clip.subjects))].references[0], random)
            strangers = [] if double is None else [double]
            strangers += [_picture(group[row - away], 0, way, random) for away in (1, 2, 3, 4)]
            sought += [(stranger, nobody) for stranger in strangers]
        sought = (sought + [(blank, nobody)] * SOUGHT_PER_CLIP)[:SOUGHT_PER_CLIP]
        frames.append(clip.frames[chosen])
        canvases += [network.reference_canvas(picture) for picture, _ in sought]
        ways.append(way)
        targets.append(np.stack([mask for _, mask in sought]))
    shares = F.avg_pool2d(torch.from_numpy(np.stack(targets)).float().flatten(0, 1), 2)
    return (network.as_pixels(np.concatenate(frames)), network.as_pixels(np.stack(canvases)), ways,
            shares.unflatten(0, (len(group), SOUGHT_PER_CLIP)))


def _window(clip: Clip, random: Rng) -> slice:
    """Return some frames in a row; in most cases ones among which a subject comes or goes."""
    last = len(clip.frames) - FRAMES_PER_CLIP
    present = clip.masks.any((2, 3)).astype(int)
    changes = np.flatnonzero(np.diff(present, axis=1).any(0))
    if len(changes) and random.random() < 0.6:
        start = int(np.clip(random.choice(changes) - random.integers(FRAMES_PER_CLIP - 1), 0, last))
    else:
        start = int(random.integers(last + 1))
    return slice(start, start + FRAMES_PER_CLIP)


def _picture(clip: Clip, number: int, way: str, random: Rng) -> np.ndarray:
    """Return a subject's reference, or a rough cut-out from a frame that shows enough of it, RGBA."""
    if "own frame" not in way:
        return clip.subjects[number].references[0]
    areas = clip.masks[number].sum((1, 2))
    frame = int(random.choice(np.flatnonzero(areas >= 0.6 * areas.max())))
    mask = Image.fromarray(np.uint8(255) * clip.masks[number, frame])
    rough = (ImageFilter.MinFilter(3), ImageFilter.MaxFilter(3), None, None)[random.integers(4)]
    rough_mask = np.asarray(mask.filter(rough) if rough else mask)
    return np.dstack([clip.frames[frame], rough_mask if rough_mask.any() else mask])


def _recoloured(reference: np.ndarray, random: Rng) -> np.ndarray | None:
    """Return an RGBA picture with its colours exchanged, None where that changes too little to see (greys)."""
    order = random.permutation(3)
    double = reference[..., [*order, 3]]
    solid = reference[..., 3] > 127
    changed = np.abs(double[solid].astype(int) - reference[solid]).mean()
    return double if changed > 25 else None


def _softened(pictures: Tensor, random: Rng) -> Tensor:
    """Blur half of the batches slightly, as a VAE does."""
    if random.random() < 0.5:
        return pictures
    small = F.interpolate(pictures, scale_factor=float(random.uniform(0.5, 0.9)), mode="bilinear", antialias=True)
    return F.interpolate(small, pictures.shape[-2:], mode="bilinear")


# The tiny CLIP.

SUBJECTS_PER_STEP, NEW_PER_STEP, POOL, PICTURE = 160, 32, 4000, 32

View = tuple[np.ndarray, np.ndarray, str]
"""A crop of a frame, the reference on grey, and the word of a subject."""


def train_clip(steps: int, turn: int = 0) -> None:
    """Train crops of frames, references and words of the same subject to lie close, all others apart; `turn` as for
    the matcher."""
    torch.manual_seed(0)
    random = np.random.default_rng(1 + turn)
    words = sorted({subject.word for split in ("train", "heldout") for subject in sprites.subjects(split)})
    tokenizer = load_or_train(FOLDER / "clip", iter(words * 4), 1024)
    model = CLIPModel(CLIPConfig(
        text_config={"vocab_size": len(tokenizer), "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2,
                     "num_attention_heads": 4, "max_position_embeddings": 16, "pad_token_id": tokenizer.pad_token_id,
                     "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, "projection_dim": 64},
        vision_config={"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
                       "image_size": PICTURE, "patch_size": 8, "projection_dim": 64},
        projection_dim=64))
    processor = CLIPImageProcessorPil(
        do_resize=True, size={"height": PICTURE, "width": PICTURE}, do_center_crop=False, do_rescale=True,
        do_normalize=True, image_mean=[0.5] * 3, image_std=[0.25] * 3, do_convert_rgb=True)
    if turn:
        model = CLIPModel.from_pretrained(FOLDER / "clip")
    source = clips(2 * turn + 1)
    pool = deque(islice(_views(source, random), SUBJECTS_PER_STEP), maxlen=POOL + NEW_PER_STEP)

    def loss_of_a_step() -> Tensor:
        pool.extend(islice(_views(source, random), NEW_PER_STEP))
        drawn = [pool[number] for number in random.choice(len(pool), SUBJECTS_PER_STEP, replace=False)]
        crops, references, names = (list(column) for column in zip(*drawn, strict=True))
        pictures = torch.cat([_softened(_processed(processor, crops), random), _processed(processor, references)])
        tokens = tokenizer(names, padding=True, truncation=True, max_length=16, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16):
            seen, own = F.normalize(model.get_image_features(pixel_values=pictures).pooler_output.float(),
                                    dim=-1).chunk(2)
            told = F.normalize(model.get_text_features(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).pooler_output.float(), dim=-1)
        scale = model.logit_scale.exp().clamp(max=50)
        same_word = torch.tensor([[name == other for other in names] for name in names])
        itself = torch.eye(len(names), dtype=torch.bool)
        return (_contrast(scale * seen @ own.T, itself) + 0.5 * _contrast(scale * seen @ told.T, same_word)
                + 0.5 * _contrast(scale * own @ told.T, same_word))

    def save() -> None:
        model.save_pretrained(FOLDER / "clip")
        processor.save_pretrained(FOLDER / "clip")

    _fit(model, loss_of_a_step, save, steps, lr=1.5e-3, weight_decay=0.05, goes_on=turn > 0)


def _contrast(logits: Tensor, positive: Tensor) -> Tensor:
    """Return the symmetric contrastive loss of logits (n, n), where a row may have several that are right."""
    def one_way(logits: Tensor) -> Tensor:
        return (torch.logsumexp(logits, 1) - torch.logsumexp(logits.masked_fill(~positive, -torch.inf), 1)).mean()

    return (one_way(logits) + one_way(logits.T)) / 2


def _views(source: Iterator[Clip], random: Rng) -> Iterator[View]:
    """Yield the subjects of clips, each with a loose crop of a frame that shows enough of it."""
    for clip in source:
        for subject, masks in zip(clip.subjects, clip.masks, strict=True):
            areas = masks.sum((1, 2))
            frame = int(random.choice(np.flatnonzero(areas >= 0.4 * areas.max())))
            left, top, right, bottom = np.array(bounding_box(masks[frame])) + random.uniform(-3, 3, 4)
            yield (crop(clip.frames[frame], (left, top, right, bottom)), as_crop(subject.references[0]), subject.word)


def _processed(processor: CLIPImageProcessorPil, pictures: list[np.ndarray]) -> Tensor:
    pixels: Tensor = processor(images=pictures, return_tensors="pt",
                               input_data_format="channels_last")["pixel_values"]
    return pixels


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("matcher", "clip"))
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--continue", type=int, default=0, dest="turn", metavar="TURN",
                        help="the weights that are there go on; 1, 2 …: each turn has clips of its own")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    keep_memory()
    torch.set_num_threads(arguments.threads)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (train_matcher if arguments.what == "matcher" else train_clip)(arguments.steps, arguments.turn)
