"""Progress bars on stderr."""

from collections.abc import Iterable
from typing import TypeVar

Item = TypeVar("Item")


def progress(items: Iterable[Item], total: int, what: str) -> Iterable[Item]:
    """Yield the items and show a bar, which disappears at the end; `what` is being done, to `total` of them."""
    from rich.console import Console
    from rich.progress import track

    return track(items, what, total=total, console=Console(stderr=True), transient=True)


def without_loading_bars() -> None:
    """Keep diffusers and transformers from drawing bars while they read and write weights."""
    import transformers
    from diffusers.utils import logging

    logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
