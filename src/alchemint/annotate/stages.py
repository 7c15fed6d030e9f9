"""The stages of annotation as runners take them: each loads its models where it runs, and is called clip by clip.

    caption -> name -> find -> follow -> judge

What a stage does is said in `annotation`. Runners (in this process, over Ray) make rows of what becomes of clips.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from alchemint.annotate.clip import Clip

if TYPE_CHECKING:
    from alchemint.annotate.captioner import Captioner
    from alchemint.annotate.recipe import Captions, Recipe, Words
    from alchemint.annotate.words import Namer
    from alchemint.perception.watcher import Watcher


@dataclass(frozen=True)
class Stage:
    """A stage as runners take it. `load` returns the function, with its models loaded; it is called once a worker.

    where: "cpu", "gpu" (one worker to a GPU), or "network" (waits for a server; many at once).
    """

    name: str
    load: Callable[[], Callable[[Clip], Clip]]
    where: str = "cpu"


def stages_of(recipe: "Recipe", device: str) -> list[Stage]:
    """Return the stages that a recipe asks for; their models go to `device` ("auto": a GPU where a worker has one)."""
    def waits(section: "Captions | Words") -> str:
        return "network" if section.by == "model" else "cpu"

    stages = [Stage("caption", partial(_load_caption, recipe), waits(recipe.captions)),
              Stage("name", partial(_load_name, recipe), waits(recipe.words))]
    where = "cpu" if recipe.perception.kind == "toy" or device == "cpu" else "gpu"
    if recipe.perception.kind == "sam3":
        stages.append(Stage("see", partial(_load_see, recipe, device), where))
    else:
        stages += [Stage("find", partial(_load_find, recipe, device), where),
                   Stage("follow", partial(_load_follow, recipe, device), where)]
    return [*stages, Stage("judge", partial(_load_judge, recipe))]


def load_captioner(options: "Captions") -> "Captioner | None":
    """Return who writes captions, None where nobody does."""
    if options.by == "nobody":
        return None
    from alchemint.annotate.captioner import Captioner
    from alchemint.language_model import connect

    model = options.model
    return Captioner(connect(model.url, model.timeout_s, model.retries), options)


def load_namer(options: "Words") -> "Namer":
    """Return who names the entities of captions."""
    from alchemint.annotate.namers import LlmNamer, RuleNamer
    from alchemint.language_model import connect

    model = options.model
    if options.by == "rules":
        return RuleNamer(options.most)
    return LlmNamer(connect(model.url, model.timeout_s, model.retries), model, options.most)


def _load_caption(recipe: "Recipe") -> Callable[[Clip], Clip]:
    from alchemint.annotate.annotation import caption

    return partial(caption, captioner=load_captioner(recipe.captions))


def _load_name(recipe: "Recipe") -> Callable[[Clip], Clip]:
    from alchemint.annotate.annotation import name

    return partial(name, namer=load_namer(recipe.words))


def _load_find(recipe: "Recipe", device: str) -> Callable[[Clip], Clip]:
    from alchemint.annotate.annotation import find

    options = recipe.perception
    if options.kind == "toy":
        watcher = _load_toy()
        return partial(find, finder=watcher.finder, comparer=watcher.comparer, options=options)
    from alchemint.perception.loading import load_comparer, load_detector

    finder = load_detector(options.detector, *_placed(device), options.box_threshold)
    return partial(find, finder=finder, comparer=load_comparer(options.comparer, *_placed(device)), options=options)


def _load_follow(recipe: "Recipe", device: str) -> Callable[[Clip], Clip]:
    from alchemint.annotate.annotation import follow

    options = recipe.perception
    if options.kind == "toy":
        watcher = _load_toy()
        return partial(follow, follower=watcher.follower, comparer=watcher.comparer)
    from alchemint.perception.loading import load_comparer, load_tracker

    return partial(follow, follower=load_tracker(options.tracker, *_placed(device)),
                   comparer=load_comparer(options.comparer, *_placed(device)))


def _load_see(recipe: "Recipe", device: str) -> Callable[[Clip], Clip]:
    from alchemint.annotate.annotation import see
    from alchemint.perception.loading import load_comparer, load_sam3

    options = recipe.perception
    return partial(see, spotter=load_sam3(options.sam3, *_placed(device)),
                   comparer=load_comparer(options.comparer, *_placed(device)), options=options)


def _load_judge(recipe: "Recipe") -> Callable[[Clip], Clip]:
    from alchemint.annotate.annotation import judge

    return partial(judge, recipe=recipe)


def _load_toy() -> "Watcher":
    from alchemint.perception.toy import MatchingSight, load_toy_perception

    watcher, comparer = load_toy_perception()
    assert isinstance(watcher.follower, MatchingSight)
    # Who is named is there: less will do to believe it than where strangers are to be told from subjects.
    return replace(watcher, comparer=comparer, follower=replace(watcher.follower, sure=0.5, num_sure_frames=1))


def _placed(device: str) -> tuple[str, Any]:
    """Return the device that is meant, on the machine that asks, and the precision there: bfloat16 on a GPU."""
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return device, torch.bfloat16 if device.startswith("cuda") else torch.float32
