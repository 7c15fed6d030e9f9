"""Processes that begin at once: forked from one that has imported what takes seconds to, and has done nothing else."""

import multiprocessing

multiprocessing.set_forkserver_preload([
    "alchemint.cli.generate", "alchemint.cli.train", "alchemint.pipeline", "alchemint.s2vtime.runs",
    "alchemint.s2vtime.scoring", "alchemint.training.loop", "alchemint.training.transformer"])

FORKS = multiprocessing.get_context("forkserver")
