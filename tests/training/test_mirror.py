"""A run whose nodes do not see the app's home: its files through a storage, there and back."""

import json
from importlib.util import find_spec

import pytest

from playground.library.adapters import AdapterLibrary
from playground.library.files import sha256_of
from playground.runs.mirror import MADE, PLACE, Mirror
from playground.training import worker
from playground.training.run_files import EventReader, marked_step
from playground.training.spec import RunSpec
from tests.refused import refused


def dies_at(step, folder):
    """Ends a worker as a kill does: without a last event."""

    def asked():
        if EventReader(folder).read()[-1]["step"] == step:
            raise KeyboardInterrupt

    return asked


@pytest.mark.parametrize("address", ["{}/storage", "memory://bucket/{}"])
def test_a_run_goes_there_is_resumed_on_another_node_and_comes_back_with_its_adapter(spec, tmp_path, address):
    url, run_dir = address.format(tmp_path), tmp_path / "app" / "r1"
    run_dir.mkdir(parents=True)
    spec.write(run_dir)
    library = AdapterLibrary(tmp_path / "adapters", tmp_path / "shipped")
    library.reserve_id(spec.name)  # the app's name for it is another one than the node's
    app, first, second = Mirror(url), Mirror(url), Mirror(url)
    assert app.fault() == ""
    app.send(run_dir)
    one = first.take("r1", tmp_path / "one", "a")
    first.tell("r1", {"node": "a"})
    with pytest.raises(KeyboardInterrupt):
        worker.run(one, stop=dies_at(3, one))
    assert first.give(one, last=True)
    app.fetch(run_dir)
    assert (marked_step(run_dir), json.loads((run_dir / PLACE).read_text())) == (2, {"node": "a"})
    assert RunSpec.read(run_dir) == spec, "the run's own record stays as it is here"

    two = second.take("r1", tmp_path / "two", "b")
    second.tell("r1", {"node": "b"})
    assert not first.give(one, last=True), "a node that was given up changes nothing any more"
    worker.run(two, 1)
    assert second.give(two, last=True)
    for _ in range(2):  # a second look changes nothing
        app.fetch(run_dir)
    events = EventReader(run_dir).read()
    assert [event["step"] for event in events if event["event"] == "step"] == [1, 2, 3, 3, 4]
    (card,) = library.list()
    assert (events[-1]["event"], events[-1]["adapter"], card.id) == ("done", "tiny_run-2", "tiny_run-2")
    made = two / MADE / "tiny_run" / "adapter_model.safetensors"
    assert card.sha256 == sha256_of([made]) == sha256_of([card.path / made.name])

    app.clear("r1")
    app.fetch(run_dir)
    assert (EventReader(run_dir).read(), marked_step(run_dir)) == (events, 4), "what came back stays"
    assert not first.give(two, last=True)


def test_storage_that_cannot_be_read_is_told(tmp_path):
    if find_spec("gcsfs") is None:
        refused("pip install gcsfs", Mirror, "gs://bucket/runs")
    refused("PLAYGROUND_RAY_STORAGE is none://x", Mirror, "none://x")
    (tmp_path / "file").touch()
    assert "file" in Mirror(f"{tmp_path}/file").fault()
