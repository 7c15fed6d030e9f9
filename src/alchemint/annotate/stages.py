"""The stages of annotation, each a plain function of a clip and of the models it needs.

    cut -> caption -> name -> find -> follow -> judge -> ClipRecord

A stage returns the clip with more known of it, or raises `Unfit` with the reason why it ends there. Runners (in this
process, over Ray) load each stage where it runs, call it clip by clip, and make rows of what becomes of them.
"""

from collections.abc import Callable
from dataclasses import dataclass

from alchemint.annotate.clip import Clip


@dataclass(frozen=True)
class Stage:
    """A stage as runners take it. `load` returns the function, with its models loaded; it is called once a worker.

    where: "cpu", "gpu" (one worker to a GPU), or "network" (waits for a server; many at once).
    """

    name: str
    load: Callable[[], Callable[[Clip], Clip]]
    where: str = "cpu"
