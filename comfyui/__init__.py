"""Nodes for ComfyUI: timed subject-to-video generation by alchemint, which is installed beside it as a package.

ComfyUI imports this folder from custom_nodes/ and reads the three names of `__all__`. Nothing heavy is imported here.
"""

import importlib.util
import sys

if importlib.util.find_spec("alchemint") is None:
    raise ImportError("the package alchemint is not installed in ComfyUI's Python; "
                      f'run: "{sys.executable}" -m pip install alchemint, or with the path of its source')

from .generate_node import Generate
from .guidance_node import GuidanceNode
from .model_node import LoadModel
from .script_routes import add_routes
from .storyboard_nodes import StoryboardFromJSON, StoryboardOfSubjects, TimelineStoryboard
from .subject_node import SubjectNode

# Workflows hold the keys: they are never renamed.
NODE_CLASS_MAPPINGS = {
    "AlchemintTimeline": TimelineStoryboard,
    "AlchemintSubject": SubjectNode,
    "AlchemintStoryboard": StoryboardOfSubjects,
    "AlchemintStoryboardFromJSON": StoryboardFromJSON,
    "AlchemintLoadModel": LoadModel,
    "AlchemintGuidance": GuidanceNode,
    "AlchemintGenerate": Generate,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "AlchemintTimeline": "Storyboard timeline (alchemint)",
    "AlchemintSubject": "Subject (alchemint)",
    "AlchemintStoryboard": "Storyboard of subjects (alchemint)",
    "AlchemintStoryboardFromJSON": "Storyboard from JSON (alchemint)",
    "AlchemintLoadModel": "Load model (alchemint)",
    "AlchemintGuidance": "Guidance (alchemint)",
    "AlchemintGenerate": "Generate video (alchemint)",
}
WEB_DIRECTORY = "./web"

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]

add_routes()
