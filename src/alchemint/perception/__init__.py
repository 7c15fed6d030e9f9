"""Finding a word's or a picture's subject in a video and following it: what annotation and S2VTime both look with.

`sightings` says what is asked for and what is found; `watcher` puts a finder and a follower together. `grounding_dino`,
`clip` and `sam2` are the stages of the paper's pipeline (AlcheMinT, arXiv 2512.10943), `sam3` does the work of finder
and follower; `loading` loads them.
"""

from pathlib import Path

import alchemint

TOY_FOLDER = Path(alchemint.__file__).parent / "assets" / "toy-perception"
"""The weights of the toy perception that the package ships."""
