"""Training batches from clips on disk. Batch number m is a pure function of the seed and m: nothing needs to be saved
for a run to be resumed, and any number of loading processes sees the same batches.

In each epoch every clip is in one batch at least. All clips of a batch have one bucket; where a bucket's clips don't
fill its last batch, some of them come again.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from torch.utils.data import Dataset

from alchemint import timeline
from alchemint.data.clip_plans import Bucket
from alchemint.data.latent_cache import LatentCache
from alchemint.data.record_clips import ClipFolder
from alchemint.data.samples import Sample, SampleBatch, to_batch

MAX_BROKEN_IN_A_ROW = 8


class AnnotatedClips(Dataset[SampleBatch]):
    """Batches of a folder's clips, without end: give a DataLoader `sampler=range(start, end)` and `batch_size=None`.

    `batch_size` is that of the whole batch; `share` is (part, number of parts), of which this process makes samples
    part, part + number of parts, ... With a cache, videos come as latents from it.
    """

    def __init__(self, clips: ClipFolder, batch_size: int, seed: int, share: tuple[int, int] = (0, 1),
                 cache: LatentCache | None = None) -> None:
        """Raise ValueError when the batch cannot be divided, or the cache holds none of the clips."""
        if batch_size < 1 or batch_size % share[1]:
            raise ValueError(f"batch_size {batch_size} can't be divided among {share[1]} processes; choose a multiple")
        self._clips = clips
        self._batch_size = batch_size
        self._seed = seed
        self._share = share
        self._cache = cache
        self._buckets: dict[Bucket, list[int]] = defaultdict(list)
        for number, plan in enumerate(clips.plans):
            if cache is None or plan.clip_id in cache:
                self._buckets[plan.bucket].append(number)
        if not self._buckets:
            raise ValueError(f"{clips.folder}: its cache holds none of its {len(clips.plans)} clips; see which of them "
                             "could not be read, mend them and precompute anew")
        self._epoch: tuple[int, list[list[int]]] | None = None

    @property
    def buckets(self) -> dict[Bucket, int]:
        """How many clips there are of each bucket."""
        return {bucket: len(numbers) for bucket, numbers in sorted(self._buckets.items())}

    @property
    def batches_per_epoch(self) -> int:
        """How many batches it takes to see every clip."""
        return sum(-(-len(numbers) // self._batch_size) for numbers in self._buckets.values())

    @property
    def heaviest(self) -> int:
        """Number of the batch of the first epoch that has the most tokens; of several, of one with timed captions."""
        def weight(number: int) -> tuple[int, bool]:
            bucket = self._clips.plans[batches[number][0]].bucket
            num_latents = timeline.num_latents(bucket.num_frames) + bucket.num_subjects
            return num_latents * bucket.height * bucket.width, self._has_events(number)

        batches = self.batches(0)
        return max(range(len(batches)), key=weight)

    def __getitem__(self, number: int) -> SampleBatch:
        epoch, place = divmod(number, self.batches_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, self.batches(epoch)
        clips = self._epoch[1][place]
        samples, broken = [], []
        part, num_parts = self._share
        for position in range(part, self._batch_size, num_parts):
            sample, failed = self._first_readable(clips[position], number, position)
            samples.append(sample)
            broken += failed
        return to_batch(samples, self._has_events(number), broken)

    def batches(self, epoch: int) -> list[list[int]]:
        """Return the batches of an epoch, each as numbers of the folder's plans."""
        random = np.random.default_rng((self._seed, 1, epoch))
        batches: list[list[int]] = []
        for _, numbers in sorted(self._buckets.items()):
            size = self._batch_size
            count = -(-len(numbers) // size)
            # np.resize repeats from the start, as often as it takes.
            filled = np.resize(random.permutation(numbers), count * size)
            batches += filled.reshape(count, size).tolist()
        return [batches[place] for place in random.permutation(len(batches))]

    def _has_events(self, number: int) -> bool:
        share = self._clips.options.event_share
        return bool(np.random.default_rng((self._seed, 3, number)).random() < share)

    def _first_readable(self, clip: int, number: int, position: int) -> tuple[Sample, list[str]]:
        """Return a sample of a clip or, where it cannot be read, of the next of its bucket that can; and those failed.

        Raises ValueError when too many fail in a row.
        """
        failed: list[str] = []
        for one in islice(self._from(clip), MAX_BROKEN_IN_A_ROW):
            try:
                return self._sample(one, np.random.default_rng((self._seed, 2, number, position))), failed
            except (ValueError, OSError) as error:
                failed.append(f"{self._clips.plans[one].clip_id}: {error}")
        raise ValueError("\n".join([f"{self._clips.folder}: {len(failed)} clips in a row cannot be read; mend them or "
                                    "leave them out of the records", *failed]))

    def _from(self, clip: int) -> Iterator[int]:
        """Yield a clip and, should they be wanted, the others of its bucket in their order from there."""
        yield clip
        bucket = self._buckets[self._clips.plans[clip].bucket]
        place = bucket.index(clip)
        yield from bucket[place + 1:]
        yield from bucket[:place]

    def _sample(self, clip: int, random: np.random.Generator) -> Sample:
        if self._cache is None:
            return self._clips.sample(clip, random)
        clip_id, cache = self._clips.plans[clip].clip_id, self._cache
        starts = cache.starts(clip_id)
        chosen = int(random.integers(len(starts)))
        window = self._clips.window(clip, random, starts[chosen])
        if not cache.num_variants:
            sample = self._clips.load(window, self._clips.picks(window, random), random, with_video=False)
            return replace(sample, latents=cache.latents(clip_id, chosen).float())
        variants = random.integers(cache.num_variants, size=len(window.entities)).tolist()
        references = [cache.reference(clip_id, chosen, entity, variant)
                      for entity, variant in zip(window.entities, variants, strict=True)]
        sample = self._clips.describe(window)
        latents = cache.latents(clip_id, chosen).float()
        empty = latents.new_zeros(0, latents.shape[0], *latents.shape[2:])
        return replace(sample, latents=latents, inside=sum(inside for _, inside in references), reference_latents=(
            torch.stack([reference.float() for reference, _ in references]) if references else empty))
