"""All services of one process, built once and handed down."""

from __future__ import annotations

from playground.gpu.device import Device, find_device
from playground.gpu.manager import DeviceManager
from playground.services.adapters import AdapterService
from playground.services.bases import BaseService
from playground.services.compare import CompareService
from playground.services.data import DataService
from playground.services.demo import DemoService
from playground.services.residents import Residents
from playground.services.status import DeviceService
from playground.services.training import TrainingService
from playground.settings import Settings


class Services:
    """Quick to build: nothing is loaded, no folder but the database is made. ``start`` begins the work in the background."""

    def __init__(self, settings: Settings, device: Device | None = None) -> None:
        self.settings = settings
        self.manager = DeviceManager(device or find_device(), settings.budget_bytes)
        self.bases = BaseService(settings, self.manager)
        self.residents = Residents(self.manager, self.bases)
        self.data = DataService(settings, self.bases.tokenizer)
        self.adapters = AdapterService(settings, self.bases, self.residents)
        self.training = TrainingService(settings, self.manager, self.bases, self.data)
        self.compare = CompareService(self.manager, self.bases, self.data, self.adapters, self.residents)
        self.demo = DemoService(self.data, self.training, self.compare)
        self.device = DeviceService(self.manager, self.bases, self.training)

    def start(self) -> None:
        """Prepare the base and look after runs, in the background. For the one process that owns the home."""
        self.training.start_supervisor()
        self.bases.start()

    def close(self) -> None:
        self.training.close()


def build_services(settings: Settings) -> Services:
    return Services(settings)
