"""alchemint: video generation from storyboards, with subjects that are on screen when they are told to be.

    from alchemint import AlchemintPipeline, load_storyboard

The names below are imported when they are first used, so that `import alchemint` stays quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alchemint.diffusion.guidance import Guidance
    from alchemint.model.transformer import AlchemintTransformer3DModel
    from alchemint.pipeline import AlchemintPipeline
    from alchemint.storyboard import Event, Storyboard, StoryboardError, Subject, load_storyboard

__version__ = "0.1.0"

__all__ = [
    "AlchemintPipeline",
    "AlchemintTransformer3DModel",
    "Event",
    "Guidance",
    "Storyboard",
    "StoryboardError",
    "Subject",
    "load_storyboard",
]

_HOMES = {
    "AlchemintPipeline": "alchemint.pipeline",
    "AlchemintTransformer3DModel": "alchemint.model.transformer",
    "Event": "alchemint.storyboard",
    "Guidance": "alchemint.diffusion.guidance",
    "Storyboard": "alchemint.storyboard",
    "StoryboardError": "alchemint.storyboard",
    "Subject": "alchemint.storyboard",
    "load_storyboard": "alchemint.storyboard",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
