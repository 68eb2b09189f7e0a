"""Open the web app: take the home, start the services, show the page, prepare the base behind it."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

from playground.errors import PlaygroundError
from playground.gpu.device import Wrap
from playground.settings import Settings
from playground.workspace.visitors import WAIT_S, Home, HomeTaken

if TYPE_CHECKING:
    from gradio import Blocks

    from playground.services import Services

HEAD_START_S = 0.1
"""The page's first files go out before the base is loaded behind it."""


def serve(settings: Settings, zero: Wrap | None = None) -> None:
    """Until stopped. zero: ``spaces.GPU`` on a ZeroGPU Space. Raises PlaygroundError where another serves it."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        home = Home.take(settings, WAIT_S)
    except HomeTaken as taken:
        runs = f"Prompt or Tune already runs in {settings.home}{f' at {taken.url}' if taken.url else ''}"
        raise PlaygroundError(f"{runs}. Open that one, or set PLAYGROUND_HOME to another folder.") from taken
    services = None
    try:
        from playground.services import build_services

        services = build_services(settings, zero=zero)
        page, url = launch(services, home)
        print(f"Prompt or Tune is open at {url}", file=sys.stderr)
        page.block_thread()
    finally:
        if services is not None:
            services.close()
        home.release()


def launch(services: Services, home: Home) -> tuple[Blocks, str]:
    """Show the page and return it with its address; the services start once the page stands."""
    from starlette.middleware import Middleware

    from playground.server.gate import Answered, Gate, Login
    from playground.server.observed import Observed, Traced, log_as_json
    from playground.server.routes import build_routes
    from playground.ui.page import build_page, launch_options

    settings = services.settings
    os.environ["GRADIO_TEMP_DIR"] = str(settings.incoming_dir)  # only what lies there counts as uploaded
    if settings.log_json:
        log_as_json()
    observed = Observed(services)
    routes = build_routes(services, home.token, observed)
    middleware = [
        Middleware(Traced, observed=observed),
        Middleware(Answered, space=bool(os.environ.get("SPACE_ID")), shared=settings.shared),
        Middleware(Gate, settings=settings, own=routes),
    ]
    page = build_page(services)
    _, url, _ = page.launch(
        **launch_options(),
        auth=Login(*settings.login) if settings.login else None,
        auth_message="Whoever runs this app gave you a name and a password." if settings.login else None,
        app_kwargs={"routes": routes, "middleware": middleware},
        max_file_size=settings.upload_limit_bytes,
        prevent_thread_lock=True,
        quiet=True,
        show_error=False,
        ssr_mode=False,
        run_history=False,
        mcp_server=False,
        enable_monitoring=False,
    )
    home.serves(url)
    threading.Timer(HEAD_START_S, services.start).start()
    return page, str(url)
