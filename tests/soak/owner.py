"""A home's owner and nothing else: supervises runs until it is killed. ``python -m tests.soak.owner HOME BASE``"""

import sys
import threading
from pathlib import Path

from playground.services import build_services
from playground.settings import Settings
from playground.workspace.visitors import WAIT_S, Home

if __name__ == "__main__":
    settings = Settings(home=Path(sys.argv[1]), base=sys.argv[2])
    home = Home.take(settings, WAIT_S)
    services = build_services(settings)
    services.training.start_supervisor()
    print("ready", flush=True)
    threading.Event().wait()
