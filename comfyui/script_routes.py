"""Gives ComfyUI's page the timeline script and its style, as they lie in the installed package alchemint.

ComfyUI imports every .js file of WEB_DIRECTORY as an extension of its page, and serves that folder alone. The script is
no extension, and the package that has it may lie anywhere: a copy in web/ would grow old, and the package's own folder
as WEB_DIRECTORY would have the page of `alchemint studio` run inside of ComfyUI's. So two files have routes of their
own, and web/alchemint.js imports them from there.
"""

import importlib.util
from pathlib import Path
from typing import Any

ROUTES = {"/alchemint/timeline.js": "text/javascript", "/alchemint/timeline.css": "text/css"}
"""The routes, each with the type of what it gives; the page asks for them with ComfyUI's prefix /api."""


def add_routes() -> None:
    """Add the routes to ComfyUI's server, where there is one: nodes are imported without, too."""
    try:
        from server import PromptServer
    except ImportError:
        return
    if getattr(PromptServer, "instance", None) is None:
        return
    for route, content_type in ROUTES.items():
        PromptServer.instance.routes.get(route)(_handler(route.rpartition("/")[2], content_type))


def web_file(name: str) -> Path:
    """Return the path of a file of the studio's page in the installed package, which is not imported for it."""
    spec = importlib.util.find_spec("alchemint")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "studio" / "web" / name


def _handler(name: str, content_type: str) -> Any:
    async def give(request: Any) -> Any:
        from aiohttp import web

        path = web_file(name)
        if not path.is_file():
            raise web.HTTPNotFound(text=f"this installation of alchemint has no {name}; install a newer one")
        # A package that was upgraded gives its new script at once.
        return web.Response(body=path.read_bytes(), content_type=content_type, charset="utf-8",
                            headers={"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"})

    return give
