"""A stand-in for ``spaces.GPU`` that forks and pickles as ZeroGPU does, and keeps of an error its class alone."""

import faulthandler
import inspect
import multiprocessing
import os
import sys
import threading
from functools import wraps

from playground.runs.runner import decode

_fork = multiprocessing.get_context("fork")


class LentNothing(Exception):
    """As ``gr.Error``: a title and a message for a person."""

    def __init__(self, title, message):
        super().__init__(message)
        self.title, self.message = title, message


class ForkedGPU:
    """durations: asked for. refuse: lend nothing. die: at once. before: called in the fork. replies: forked too."""

    def __init__(self, replies=True):
        self.replies, self.before = replies, lambda: None
        self.durations = []
        self.pids = []
        self.refuse = self.die = False

    def __call__(self, *, duration):
        here = () if self.replies else (decode,)
        return lambda task: task if task in here else self._wrapped(task, duration)

    def _wrapped(self, task, duration):
        def stream(*args):
            process, answers, stop = self._started(task, duration, args)
            try:
                while (answer := answers.get())[0] == "item":
                    yield answer[1]
                if answer[0] == "error":
                    raise LentNothing("ZeroGPU worker error", answer[1])
                return answer[1]
            finally:
                stop.set()
                process.join(20)

        def whole(*args):
            try:
                next(stream(*args))
            except StopIteration as end:
                return end.value

        return wraps(task)(stream if inspect.isgeneratorfunction(task) else whole)

    def _begin(self):
        if self.die:
            os._exit(9)
        self.before()

    def _started(self, task, duration, args):
        self.durations.append(duration(*args))
        if self.refuse:
            words = "You have exceeded your free ZeroGPU quota (60s requested vs. 0s left)."
            raise LentNothing("ZeroGPU quota exceeded", words)
        questions, answers, stop = _fork.SimpleQueue(), _fork.SimpleQueue(), _fork.Event()
        process = _fork.Process(target=_child, args=(task, questions, answers, stop, self._begin), daemon=True)
        process.start()
        self.pids.append(process.pid or 0)
        questions.put(args)

        def watch():
            process.join()
            if process.exitcode:
                answers.put(("error", "GPU task aborted"))

        threading.Thread(target=watch, daemon=True).start()
        return process, answers, stop


def _child(task, questions, answers, stop, begin):
    faulthandler.dump_traceback_later(90, exit=True, file=sys.__stderr__)  # a fork that hangs says where
    args = questions.get()
    begin()
    worker = threading.Thread(target=_run, args=(task, args, answers, stop))
    worker.start()
    worker.join()


def _run(task, args, answers, stop):
    try:
        found = task(*args)
        if inspect.isgenerator(found):
            for item in found:
                if stop.is_set():
                    break
                answers.put(("item", item))
            found = found.close()
        answers.put(("end", found))
    except Exception as error:
        answers.put(("error", type(error).__name__))
