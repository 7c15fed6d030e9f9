"""Finding a word's or a picture's subject in a video and following it: what annotation and S2VTime both look with.

`sightings` says what is found and how it is asked for; `grounding_dino`, `clip` and `sam2` are the three stages of the
paper's pipeline (AlcheMinT, arXiv 2512.10943), `grounded_sam2` is the whole.
"""
