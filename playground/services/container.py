"""All services of one process, built once and handed down."""

from __future__ import annotations

from functools import partial

from playground.gpu.device import CpuDevice, Device, find_device
from playground.gpu.lanes import Lanes
from playground.gpu.manager import DeviceManager
from playground.gpu.zero import Wrap
from playground.library.adapters import AdapterLibrary
from playground.services import processes
from playground.services.adapters import AdapterService
from playground.services.answering import Answering
from playground.services.bases import BaseService, load_engine
from playground.services.batches import Batches
from playground.services.bench import PromptBench
from playground.services.cleaning import Cleaner
from playground.services.compare import CompareService
from playground.services.completion import CompletionService
from playground.services.data import DataService
from playground.services.demo import DemoService
from playground.services.exporting import Exporter
from playground.services.forgetting import ForgettingService
from playground.services.judging import JudgingService
from playground.services.learning import Learning
from playground.services.prompts import PromptBook
from playground.services.pushing import Pusher
from playground.services.quota import Quota
from playground.services.race import RaceService
from playground.services.race_measuring import Measuring
from playground.services.replay import ReplayService
from playground.services.residents import Residents
from playground.services.scoring import ScoringService
from playground.services.sessions import Sessions
from playground.services.status import DeviceService
from playground.services.storage import StorageService
from playground.services.store import RunStore
from playground.services.training import TrainingService
from playground.services.verdicts import VerdictService
from playground.services.voting import Voting
from playground.services.zero import ZeroRunner
from playground.settings import Settings

KEEP_ALIVE_S = 1800.0
"""A model that nobody asked for so long gives its memory back; the next question brings it in again."""


class Services:
    """Quick to build: nothing is loaded, no folder but the database is made. ``start`` begins the work in the background.

    zero: ``spaces.GPU`` on a ZeroGPU Space."""

    def __init__(self, settings: Settings, device: Device | None = None, zero: Wrap | None = None) -> None:
        self.settings = settings
        self.zero = ZeroRunner(zero, settings.zero_seconds) if zero is not None else None
        library = AdapterLibrary(settings.adapters_dir, settings.shipped_adapters_dir)
        store = RunStore(settings.database)
        self.quota = Quota(settings, store, library)
        self.sessions = Sessions(settings.database)
        device = device or find_device()
        lanes = Lanes(settings.home) if isinstance(device, CpuDevice) and zero is None else None
        load = partial(load_engine, lanes=lanes)
        self.manager = DeviceManager(device, settings.budget_bytes, keep_alive_s=KEEP_ALIVE_S, lanes=lanes)
        self.bases = BaseService(settings, self.manager, load)
        self.residents = Residents(self.manager, self.bases, load)
        self.data = DataService(settings, self.bases.tokenizer, self.quota)
        self.adapters = AdapterService(settings, self.bases, self.residents, library, self.quota, Learning(settings, store))
        self.pusher = Pusher(self.adapters)
        self.exporter = Exporter(settings, self.manager, self.bases, self.adapters, self.quota)
        self.training = TrainingService(
            settings, self.manager, self.bases, self.data, quota=self.quota, workers=self.zero or processes
        )
        shipped = (lambda: [one.system_prompt for one in self.data.sets()]) if settings.shared else None
        self.batches = Batches(self.manager, self.bases, self.residents, self.zero, shipped, settings.longest_reply)
        self.scoring = ScoringService(self.manager, self.bases, self.residents)
        self.forgetting = ForgettingService(self.bases, self.batches, self.scoring)
        self.compare = CompareService(self.bases, self.data, self.adapters, self.residents, self.batches)
        self.completion = CompletionService(settings, self.manager, self.bases, self.adapters, self.batches)
        self.replay = ReplayService(self.bases, self.adapters, self.batches)
        measuring = Measuring(self.bases, self.data, self.batches, self.forgetting)
        self.race = RaceService(settings, self.training, self.data, self.adapters, measuring)
        answering = Answering(self.bases, self.data, self.adapters, self.batches, self.scoring)
        self.verdicts = VerdictService(settings, self.bases, self.data, self.adapters, answering, self.forgetting, self.quota)
        self.bench = PromptBench(self.verdicts, self.data, PromptBook(settings.home / "prompts"))
        self.voting = Voting(self.verdicts)
        self.judging = JudgingService(self.voting, self.bases, self.adapters, self.batches, self.quota, shared=settings.shared)
        self.demo = DemoService(self.data, self.training, self.compare)
        self.device = DeviceService(self.manager, self.bases, self.training, settings.shared)
        self.storage = StorageService(
            settings,
            self.bases,
            self.adapters,
            self.training,
            self.demo,
            self.sessions,
            self.verdicts,
            self.bench.book,
            self.quota,
        )
        self.cleaner = Cleaner(settings, self.storage, self.sessions)

    def start(self) -> None:
        """Prepare the base and look after runs, in the background. For the one process that owns the home."""
        self.training.start_supervisor()
        self.race.start_measuring()
        self.bases.start()
        self.cleaner.start()

    def seen(self, owner: str) -> None:
        """A visitor did something."""
        self.sessions.seen(owner)
        if self.zero is not None:
            self.zero.remember(owner)

    def close(self) -> None:
        self.cleaner.close()
        self.race.close()
        self.training.close()


def build_services(settings: Settings, zero: Wrap | None = None) -> Services:
    return Services(settings, zero=zero)
