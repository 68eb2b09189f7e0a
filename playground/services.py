"""Everything a process has, built once and handed down."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from playground.chat.batching import Batches, CompletionService
from playground.chat.compare import CompareService
from playground.chat.demo import DemoService
from playground.chat.replay import ReplayService
from playground.db import RunStore
from playground.gpu.device import CpuDevice, Device, Lanes, Wrap, find_device
from playground.gpu.manager import DeviceManager
from playground.jobs import Jobs
from playground.library.adapters import AdapterLibrary
from playground.models.adapters import AdapterService, Residents
from playground.models.bases import BaseService, load_engine
from playground.models.exporting import Exporter, Pusher
from playground.runs.runner import ZeroRunner
from playground.runs.service import DeviceService, TrainingService
from playground.settings import Settings
from playground.training import processes
from playground.verdict.answers import Answering
from playground.verdict.bench import PromptBench, PromptBook
from playground.verdict.files import VerdictFiles
from playground.verdict.judging import JudgingService
from playground.verdict.losses import ForgettingService, ScoringService
from playground.verdict.race import Measuring, RaceService
from playground.verdict.service import VerdictService
from playground.verdict.votes import Voting
from playground.workspace.examples import DataService
from playground.workspace.quota import Quota
from playground.workspace.storage import Cleaner, StorageService
from playground.workspace.visitors import Sessions

KEEP_ALIVE_S = 1800.0
"""A model that nobody asked for so long gives its memory back; the next question brings it in again."""


@dataclass(frozen=True)
class Services:
    """What the page, the server and the command line work with. ``start`` begins the work in the background.

    zero: runs jobs on a ZeroGPU Space, None elsewhere.
    """

    settings: Settings
    zero: ZeroRunner | None
    quota: Quota
    sessions: Sessions
    manager: DeviceManager
    jobs: Jobs
    bases: BaseService
    residents: Residents
    data: DataService
    adapters: AdapterService
    pusher: Pusher
    exporter: Exporter
    training: TrainingService
    batches: Batches
    scoring: ScoringService
    forgetting: ForgettingService
    compare: CompareService
    completion: CompletionService
    replay: ReplayService
    race: RaceService
    verdicts: VerdictService
    bench: PromptBench
    voting: Voting
    judging: JudgingService
    demo: DemoService
    device: DeviceService
    storage: StorageService
    cleaner: Cleaner

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


def build_services(settings: Settings, *, device: Device | None = None, zero: Wrap | None = None) -> Services:
    """Quick: nothing is loaded, no folder but the database's is made. zero: ``spaces.GPU`` on a ZeroGPU Space."""
    runner = ZeroRunner(zero, settings.zero_seconds) if zero is not None else None
    device = device or find_device()
    lanes = Lanes(settings.home) if isinstance(device, CpuDevice) and zero is None else None
    load = partial(load_engine, lanes=lanes)
    library = AdapterLibrary(settings.adapters_dir, settings.shipped_adapters_dir)
    store = RunStore(settings.database)
    quota = Quota(settings, store, library, VerdictFiles(settings.home / "verdicts").bytes_of)
    sessions = Sessions(settings.database)
    manager = DeviceManager(device, settings.budget_bytes, keep_alive_s=KEEP_ALIVE_S, lanes=lanes)
    jobs = Jobs()
    bases = BaseService(settings, manager, load, jobs)
    residents = Residents(manager, bases, load)
    data = DataService(settings, bases.tokenizer, quota)
    adapters = AdapterService(settings, bases, residents, library, quota, store)
    training = TrainingService(settings, store, manager, bases, data, library, quota, workers=runner or processes)
    shipped = (lambda: [one.system_prompt for one in data.sets()]) if settings.shared else None
    batches = Batches(manager, bases, residents, runner, shipped, settings.longest_reply)
    scoring = ScoringService(manager, bases, residents)
    forgetting = ForgettingService(bases, batches, scoring)
    compare = CompareService(bases, data, adapters, residents, batches)
    answering = Answering(bases, data, adapters, batches, scoring)
    verdicts = VerdictService(settings, bases, data, adapters, answering, forgetting, quota, jobs)
    bench = PromptBench(verdicts, data, PromptBook(settings.home / "prompts"))
    voting = Voting(verdicts)
    demo = DemoService(data, training, compare, jobs)
    storage = StorageService(settings, bases, adapters, training, demo, sessions, verdicts, bench.book, quota)
    return Services(
        settings=settings,
        zero=runner,
        quota=quota,
        sessions=sessions,
        manager=manager,
        jobs=jobs,
        bases=bases,
        residents=residents,
        data=data,
        adapters=adapters,
        pusher=Pusher(adapters),
        exporter=Exporter(settings, manager, bases, adapters, quota, jobs),
        training=training,
        batches=batches,
        scoring=scoring,
        forgetting=forgetting,
        compare=compare,
        completion=CompletionService(settings, manager, bases, adapters, batches),
        replay=ReplayService(bases, adapters, batches),
        race=RaceService(settings, training, data, adapters, Measuring(bases, data, batches, forgetting), jobs),
        verdicts=verdicts,
        bench=bench,
        voting=voting,
        judging=JudgingService(voting, bases, adapters, batches, quota, jobs, shared=settings.shared),
        demo=demo,
        device=DeviceService(manager, bases, training, settings.shared),
        storage=storage,
        cleaner=Cleaner(settings, storage, sessions),
    )
