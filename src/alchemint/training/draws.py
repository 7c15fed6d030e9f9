"""The randomness of a training step: generators that depend on the seed, the step and the sample alone.

So a resumed run, and one that is divided among another number of processes, draws what the unbroken run would have
drawn.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Draws:
    """The generators of one part of a batch: sample i of part p of n is sample p + i n of the whole batch."""

    seed: int
    step: int
    part: int = 0
    num_parts: int = 1
    device: str = "cpu"

    def of_part(self) -> torch.Generator:
        """Return a generator for what is drawn once for the part."""
        return self._generator(self.part, 1)

    def of_samples(self, count: int) -> list[torch.Generator]:
        """Return a generator for each of the part's samples."""
        return [self._generator(self.part + number * self.num_parts, 0) for number in range(count)]

    def _generator(self, place: int, kind: int) -> torch.Generator:
        # A large odd multiplier for each number, modulo 2^63: neighbours share nothing.
        mixed = self.seed
        for number in (self.step, place, kind):
            mixed = (mixed * 6364136223846793005 + number * 2 + 1) % (1 << 63)
            mixed ^= mixed >> 29
        return torch.Generator(self.device).manual_seed(mixed)
