"""What a run's folder holds: the event log, and checkpoints that are complete or ignored."""

from playground.training import run_files as kept
from playground.training.run_files import EVENTS, POINTS, EventReader, EventWriter, curve_of

WEIGHTS = "adapter_model.safetensors"


def saved(run, step, *, marked=True):
    folder = run / "checkpoints" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / WEIGHTS).write_text("weights")
    if marked:
        kept.mark_complete(folder)
    return folder


def test_a_changed_or_missing_file_or_a_torn_marker_makes_a_checkpoint_incomplete(tmp_path):
    folder = saved(tmp_path, 1)
    assert kept.is_complete(folder)
    (folder / WEIGHTS).write_text("weighty")
    assert not kept.is_complete(folder)
    (folder / WEIGHTS).unlink()
    assert not kept.is_complete(folder)
    assert kept.newest_complete(tmp_path) is None
    torn = saved(tmp_path, 2, marked=False)
    (torn / kept.MARKER).write_text('{"adapter_model')
    assert not kept.is_complete(torn)


def test_the_newest_and_the_best_stay_until_the_next_is_complete(tmp_path):
    for step, loss in ((10, 2.0), (20, 1.0), (30, 1.5), (40, 3.0)):
        folder = saved(tmp_path, step)
        kept.prune(tmp_path)
        kept.set_score(folder, loss)
        kept.prune(tmp_path)
    assert kept.best(tmp_path) == (20, 1.0)
    assert {folder.name for folder in (tmp_path / "checkpoints").iterdir()} == {"checkpoint-20", "checkpoint-40"}
    assert kept.is_complete(tmp_path / "checkpoints" / "checkpoint-40"), "a score does not count as a change"
    saved(tmp_path, 50, marked=False)  # being written
    kept.prune(tmp_path)
    assert kept.newest_complete(tmp_path) == tmp_path / "checkpoints" / "checkpoint-40"
    assert kept.marked_step(tmp_path) == 40


def test_what_a_kill_left_is_removed_before_going_on(tmp_path):
    saved(tmp_path, 30, marked=False)
    assert kept.marked_step(tmp_path) == 0
    assert kept.drop_torn(tmp_path) is None, "without any a run starts at its beginning"
    whole = saved(tmp_path, 10)
    (saved(tmp_path, 20) / WEIGHTS).write_text("torn")
    saved(tmp_path, 30, marked=False)
    assert (kept.drop_torn(tmp_path), list((tmp_path / "checkpoints").iterdir())) == (whole, [whole])


def test_a_line_is_read_once_and_whole_and_a_resumed_worker_closes_a_killed_one_s(tmp_path):
    reader, log = EventReader(tmp_path), tmp_path / EVENTS
    log.write_text('{"event": "step"')
    assert reader.read() == []
    with log.open("a") as handle:
        handle.write(', "step": 2}\n{"event": "step", "st')
    assert [event["step"] for event in reader.read()] == [2]
    writer = EventWriter(tmp_path)
    writer.write("started", pid=1)
    writer.write("step", step=1, loss=float("nan"))
    writer.close()
    started, step = reader.read()
    assert (started["event"], started["pid"]) == ("started", 1)
    assert (step["event"], step["step"], step["loss"]) == ("step", 1, None)
    assert reader.read() == [], "what is written is read once"


def test_losses_by_step_over_all_attempts_thinned_with_both_ends(tmp_path):
    assert curve_of(tmp_path) == {}
    events = EventWriter(tmp_path)
    events.write("eval", step=0, loss=3.0)
    for step in range(1, 101):
        events.write("step", step=step, loss=3.0 / step)
    events.write("step", step=100, loss=9.0)
    events.write("step", step=50, loss=float("nan"))
    events.close()
    curve = curve_of(tmp_path)
    assert (curve["held_out"], len(curve["training"]), curve["training"][0]) == ([[0, 3.0]], POINTS, [1, 3.0])
    assert curve["training"][-1] == [100, 9.0], "a resumed worker's word counts"
