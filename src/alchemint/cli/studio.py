"""`alchemint studio`: a web page on this machine, on which storyboards are written and their videos watched."""

import ipaddress
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from alchemint.cli.memory import MemoryOption, QuantizeOption
from alchemint.cli.models import (
    BASE_HELP,
    MODEL_HELP,
    TOY,
    DeviceOption,
    Dtype,
    ModelSource,
    find_model,
    load_pipeline,
    pick_device,
    pick_dtype,
)

if TYPE_CHECKING:
    from alchemint.memory import MemoryOptions
    from alchemint.perception.watcher import Watcher
    from alchemint.pipeline import AlchemintPipeline
    from alchemint.rendering import Options
    from alchemint.studio.settings import Settings
    from alchemint.studio.worker import PipelineMaker

LEAST_PASSWORD = 8

Perception = Literal["auto", "toy", "grounded-sam2", "none"]


def studio(
    model: Annotated[str, typer.Option(help=f"{MODEL_HELP}.")] = TOY,
    base: Annotated[str | None, typer.Option(help=BASE_HELP, show_default=False)] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 7860,
    folder: Annotated[Path, typer.Option(help="Where pictures and results are kept.")] = Path("out/studio"),
    password_file: Annotated[Path | None, typer.Option(help="A file whose first line is the password that browsers "
                                                       "are asked for.", show_default=False)] = None,
    allow_host: Annotated[list[str] | None, typer.Option(help="Another name by which browsers reach this server, as "
                                                         "behind a proxy; may be repeated.", show_default=False)]
    = None,
    max_duration: Annotated[float, typer.Option(min=0.1, max=600, help="Seconds of the longest video that is "
                                                "made.")] = 30.0,
    device: DeviceOption = "auto",
    dtype: Annotated[Dtype, typer.Option(help="auto is bfloat16 on cuda and float32 on a CPU.")] = "auto",
    memory: MemoryOption = "high",
    quantize: QuantizeOption = None,
    perception: Annotated[Perception, typer.Option(help="Who looks when subjects are seen in a finished video: toy for "
                                                   "videos of the toy model, grounded-sam2 (Grounding DINO, CLIP and "
                                                   "SAM 2) for others; auto is toy for toy, else none.")] = "auto",
) -> None:
    """Serve a page on which storyboards are written by dragging, and videos made of them one after the other."""
    from alchemint.cli.allocator import keep_memory

    keep_memory()
    source = find_model(model, base)
    try:
        import uvicorn

        from alchemint.studio.server import create_app
    except ModuleNotFoundError as error:
        raise ValueError(f'{error.name} is not installed, which the studio needs; pip install "alchemint[studio]"'
                         ) from error
    from alchemint.memory import MemoryOptions

    settings = settings_of(model if base is None else f"{model} on {base}", source, folder, device, dtype,
                           MemoryOptions(memory, quantize), perception, max_duration, host, tuple(allow_host or ()),
                           None if password_file is None else read_password(password_file))
    bound = _bind(host, port)
    server = uvicorn.Server(uvicorn.Config(
        create_app(settings), host=host, port=port, log_level="warning", server_header=False, timeout_keep_alive=20,
        timeout_graceful_shutdown=3, h11_max_incomplete_event_size=2**16, ws="none"))
    if not is_loopback(host) and settings.password is None:
        typer.echo(f"warning: everybody who reaches {host}:{port} can make videos and see yours; give "
                   "--password-file, or leave out --host", err=True)
    address = f"[{host}]" if ":" in host else host
    typer.echo(f"studio  http://{address}:{bound.getsockname()[1]}  (Ctrl+C ends it)")
    with suppress(KeyboardInterrupt):  # the usual way to end it
        server.run(sockets=[bound])


def settings_of(
    model: str, source: ModelSource, folder: Path, device: Any, dtype: Any, memory: "MemoryOptions",
    perception: Perception, max_duration_s: float, host: str, hosts: tuple[str, ...], password: str | None,
) -> "Settings":
    """Return what the server needs to know; nothing heavy is loaded yet."""
    from alchemint.model_folder import read_defaults
    from alchemint.studio.settings import Limits, Settings, StudioModel

    defaults, transformer = read_defaults(source.config_folder, source.base_folder)
    encoding = transformer["interval_encoding"]

    def curves(board: Any) -> Any:
        from alchemint.interval_curves import curves

        return curves(board, encoding, transformer, defaults.num_frames)

    maker = _maker(model, source, defaults.num_frames, device, dtype, memory, perception)
    return Settings(StudioModel(model, defaults, encoding, curves, maker.sees), maker, folder, host, hosts, password,
                    Limits(max_duration_s=max_duration_s))


def read_password(path: Path) -> str:
    """Return the first line of a file; ValueError when it is too short to protect anything."""
    lines = path.read_text(encoding="utf-8").splitlines()
    password = lines[0].strip() if lines else ""
    if len(password) < LEAST_PASSWORD:
        raise ValueError(f"the password in {path} has {len(password)} characters, but at least {LEAST_PASSWORD} are "
                         "needed; write a longer one into its first line")
    return password


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach what listens at `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens; ValueError when the address is taken or not this machine's."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ValueError(f"cannot listen at {host}, port {port}: {_reason(error)}; end what listens there, or "
                         "give another --host or --port") from error


def _reason(error: OSError) -> str:
    known = error.errno is not None and not isinstance(error, socket.gaierror)
    return os.strerror(error.errno) if known and error.errno else str(error.strerror)


def _maker(model: str, source: ModelSource, window: int, device: Any, dtype: Any, memory: "MemoryOptions",
           perception: Perception) -> "PipelineMaker":
    from alchemint.studio.worker import PipelineMaker

    def options() -> "Options":
        from alchemint.acceleration import AccelerationOptions
        from alchemint.diffusion.guidance import Guidance
        from alchemint.model_folder import read_guidance
        from alchemint.rendering import Options

        guidance, guidance_2 = (Guidance(**read_guidance(source.config_folder, source.base_folder, second))
                                for second in (False, True))
        chosen = pick_device(device)
        return Options(40, guidance, guidance_2, True, chosen, pick_dtype(dtype, chosen), 1, window, None, None,
                       AccelerationOptions(), memory)

    def load() -> "AlchemintPipeline":
        from alchemint.memory import fit

        chosen = options()
        pipeline = load_pipeline(source, chosen.device, chosen.dtype, memory)
        fit(pipeline, memory, chosen.device)
        return pipeline

    def watcher() -> "Watcher":
        if perception == "grounded-sam2":
            from alchemint.perception.loading import load_grounded_sam2

            return load_grounded_sam2(device=pick_device(device))
        from alchemint.cli.perceptions import load_toy

        return load_toy()[0]

    blind = perception == "none" or (perception == "auto" and model != TOY)
    return PipelineMaker(model, load, options, None if blind else watcher)
