"""The node that says how strongly pictures and prompt steer; without it the model's own values hold."""

from typing import Any

from .types_of_links import GUIDANCE


class GuidanceNode:
    """Guidance's scales, and the part of the steps in which they hold."""

    CATEGORY, FUNCTION = "alchemint", "run"
    RETURN_TYPES, RETURN_NAMES = (GUIDANCE,), ("guidance",)
    DESCRIPTION = "How strongly pictures and prompt steer. Leave this node out for the model's own values."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """Return the inputs; new ones are only ever appended, so that old workflows keep loading."""
        def scale(default: float, tooltip: str) -> tuple[str, dict[str, Any]]:
            return "FLOAT", {"default": default, "min": -100.0, "max": 100.0, "step": 0.1, "round": 1e-6,
                             "tooltip": tooltip}

        def part(default: float, tooltip: str) -> tuple[str, dict[str, Any]]:
            return "FLOAT", {"default": default, "min": 0.0, "max": 1.0, "step": 0.05, "round": 1e-6,
                             "tooltip": tooltip}

        return {
            "required": {
                "mode": (["chained", "joint"], {"default": "chained"}),
                "image_scale": scale(3.0, "How strongly the pictures steer."),
                "text_scale": scale(4.0, "How strongly the prompt steers."),
            },
            "optional": {
                "joint_scale": scale(0.0, "How strongly both together steer (joint only)."),
                "start": part(0.0, "Guided from this part of the steps on"),
                "end": part(1.0, "to this one; outside of it each step is one evaluation, and quicker."),
            },
        }

    def run(self, mode: str, image_scale: float, text_scale: float, joint_scale: float = 0.0, start: float = 0.0,
            end: float = 1.0) -> tuple[dict[str, Any]]:
        """Return the values, checked: ValueError for a part of the steps that ends before it starts."""
        from alchemint.diffusion.guidance import Guidance

        values: dict[str, Any] = {"mode": mode, "image_scale": image_scale, "text_scale": text_scale,
                                  "joint_scale": joint_scale, "interval": (start, end)}
        Guidance(**values)
        return (values,)
