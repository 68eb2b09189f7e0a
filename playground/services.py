"""Everything a process has, built once and handed down."""

from __future__ import annotations

from functools import partial

from playground.chat.batching import Batches
from playground.chat.compare import CompareService
from playground.chat.demo import DemoService
from playground.chat.programs import CompletionService, ReplayService
from playground.db import RunStore
from playground.gpu.device import CpuDevice, Device, Precision, Wrap, find_device, other_cards
from playground.gpu.manager import DeviceManager, Lanes
from playground.jobs import Jobs
from playground.library.adapters import AdapterLibrary
from playground.models.adapters import AdapterService, Residents
from playground.models.bases import BaseService, Load, load_engine
from playground.models.endpoints import Endpoints
from playground.models.exporting import Exporter, Pusher
from playground.models.remote import Client
from playground.models.vllm_engine import VllmEngine
from playground.runs.cluster import RayWorkers
from playground.runs.runner import ZeroRunner
from playground.runs.service import DeviceService, TrainingService
from playground.settings import Settings
from playground.storage import Cleaner, StorageService
from playground.training import processes
from playground.verdict.answers import Answering
from playground.verdict.bench import PromptBench, PromptBook
from playground.verdict.files import VerdictFiles
from playground.verdict.handover import HandoverService
from playground.verdict.judging import JudgingService, Labelling, Voting
from playground.verdict.losses import ForgettingService, ScoringService
from playground.verdict.race import RaceService
from playground.verdict.search import PromptSearch
from playground.verdict.service import VerdictService
from playground.workspace.examples import DataService
from playground.workspace.visitors import Quota, Sessions

KEEP_ALIVE_S = 1800.0
"""A model that nobody asked for so long gives its memory back; the next question brings it in again."""


class Services:
    """What page, server and command line work with. Quick to build: nothing is loaded, only the database's folder made.
    zero: ``spaces.GPU`` on a ZeroGPU Space; as an attribute, what runs jobs there. None elsewhere."""

    def __init__(self, settings: Settings, *, device: Device | None = None, zero: Wrap | None = None) -> None:
        self.settings = settings
        self.zero = ZeroRunner(zero, settings.zero_seconds) if zero is not None else None
        device = device or find_device()
        lanes = Lanes(settings.home) if isinstance(device, CpuDevice) and zero is None else None
        kind = device.kind if zero is None else ""
        precision = Precision(settings.precision, settings.home, kind)
        self.client = Client()
        load: Load = partial(load_engine, lanes=lanes, precision=precision)
        if settings.engine:
            load = lambda folder, limit: VllmEngine(settings.engine, folder, self.client)  # noqa: E731
        library = AdapterLibrary(settings.adapters_dir, settings.shipped_adapters_dir)
        store = RunStore(settings.database)
        self.quota = quota = Quota(settings, store, library, VerdictFiles(settings.home / "verdicts").bytes_of)
        self.sessions = Sessions(settings.database)
        self.manager = manager = DeviceManager(
            device, settings.budget_bytes, keep_alive_s=KEEP_ALIVE_S, lanes=lanes, others=other_cards(device)
        )
        self.jobs = jobs = Jobs()
        self.bases = bases = BaseService(settings, manager, load, jobs, precision)
        self.residents = residents = Residents(manager, bases, load)
        self.data = data = DataService(settings, bases.tokenizer, quota)
        self.adapters = adapters = AdapterService(settings, residents, library, quota, store)
        self.pusher = Pusher(adapters)
        self.exporter = Exporter(settings, manager.device, bases, adapters, quota, jobs)
        cluster = RayWorkers(settings.ray, settings.runs_dir, storage=settings.ray_storage) if settings.ray else None
        workers = self.zero or cluster or processes
        self.training = TrainingService(settings, store, manager, bases, data, library, quota, workers)
        shipped = (lambda: [one.system_prompt for one in data.sets()]) if settings.shared else None
        self.endpoints = Endpoints(settings.endpoints_file, named=settings.endpoints is not None)
        beside = shipped, settings.longest_reply, self.endpoints, self.client
        self.batches = batches = Batches(manager, bases, residents, self.zero if not settings.engine else None, *beside)
        self.scoring = ScoringService(manager, bases, residents)
        self.forgetting = forgetting = ForgettingService(bases, batches, self.scoring)
        self.compare = CompareService(bases, data, adapters, residents, batches)
        self.completion = CompletionService(settings, manager, bases, adapters, batches)
        self.replay = ReplayService(bases, adapters, batches)
        answering = Answering(bases, data, adapters, batches, self.scoring)
        self.verdicts = VerdictService(settings, bases, data, adapters, answering, forgetting, quota, jobs)
        self.handover = HandoverService(settings, bases, data, adapters, answering, quota, jobs)
        self.bench = PromptBench(self.verdicts, data, PromptBook(settings.home / "prompts"))
        self.search = PromptSearch(self.bench, data, adapters)
        self.voting = Voting(self.verdicts)
        self.labelling = Labelling(self.verdicts)
        self.judging = JudgingService(self.voting, self.labelling, self.verdicts.judges, quota, jobs)
        self.race = RaceService(settings, self.training, bases, data, adapters, self.batches, forgetting, jobs)
        self.demo = DemoService(data, self.training, self.compare, jobs)
        self.device = DeviceService(manager, bases, self.training, settings.shared)
        parts = (settings, bases, adapters, self.training, self.demo, self.sessions, self.verdicts)
        self.storage = StorageService(*parts, self.bench.book, quota)
        self.cleaner = Cleaner(settings, self.storage, self.sessions)

    def start(self) -> None:
        """Prepare the base and supervise runs, in the background. For the one process that owns the home."""
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
        self.jobs.close()
        self.training.close()


build_services = Services
