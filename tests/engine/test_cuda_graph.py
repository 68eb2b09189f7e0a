"""The captured step: on a CPU its shapes and buffers with a stand-in for the graph, on a GPU the real one."""

from dataclasses import replace
from unittest.mock import MagicMock

import pytest
import torch
from torch.nn.attention.bias import CausalBias, causal_lower_right
from torch.utils._python_dispatch import TorchDispatchMode

from playground.engine.llama_model import Segment, attend, mask_of
from playground.engine.scheduler import CapturedDecode, cuda_capture
from tests.engine.models import Again, engine_with, llama, save_adapters


def same_as_plain(engine, names, capture):
    """Steps of ever fewer rows, captured and plain, must agree. Returns how many shapes were captured after each."""
    captured, found = 0, []

    def counted(work, beside):
        nonlocal captured
        captured += 1
        return capture(work, beside)

    path = llama(engine)
    model, steps = path.model, CapturedDecode(path.model, counted)
    packed = [path.scheduler.find(name) for name in names]
    lengths = [one.virtual_tokens for one in packed]
    worlds = [(model.new_cache(), model.new_adapter_slots()) for _ in range(2)]
    for cache, adapters in worlds:
        slots = [adapters.acquire(one) for one in packed]
        cache.ensure(len(names), 30)
        for row, one in enumerate(packed):
            cache.restore(row, one.prefix)
        segments = [Segment(row, [5, 6, 7][: row + 1], lengths[row], slot) for row, slot in enumerate(slots)]
        model.prefill(segments, cache, adapters)
    lengths = [length + min(3, row + 1) for row, length in enumerate(lengths)]
    for turn in range(12):
        rows = len(names) if turn < 8 else len(names) - 1
        chosen = slots[:rows] if turn % 5 else [None] * rows
        for _, adapters in worlds:
            adapters.select(chosen)
        plain, fast = (
            way.decode([turn + 1] * rows, lengths[:rows], *world)
            for way, world in zip((model, steps), worlds, strict=True)
        )
        assert (plain - fast).abs().max() < (1e-4 if model.dtype == torch.float32 else 0.25)
        lengths = [length + 1 for length in lengths]
        found.append(captured)
    return found


SOFT = ["prefix", "deep", "prompt", "ptuning"]


@pytest.fixture(scope="module")
def engine(base, tmp_path_factory):
    kinds = {name: {} for name in ("lora-1", "lora-2", *SOFT, "bottleneck", "dora", "ia3")}
    return engine_with(base, save_adapters(base, tmp_path_factory.mktemp("made"), kinds), "llama")


@pytest.mark.parametrize("kind", ["bottleneck", "dora", "ia3"])
def test_captured_steps_stand_after_virtual_tokens_and_other_kinds_take_the_plain_step(engine, kind):
    found = same_as_plain(engine, [None, *SOFT, kind, kind], Again)
    assert found[0] == found[-1] == 1, "one shape for the base's rows, and for those with virtual tokens"


@pytest.mark.parametrize("writing", [3, 5, 6, 7])
def test_padding_rows_leave_a_row_that_reads_its_prompt_alone(engine, writing):
    path = llama(engine)
    cache, adapters = path.model.new_cache(), path.model.new_adapter_slots()
    path.model.prefill([Segment(row, [5, 6, 7 + row], 0) for row in range(writing + 1)], cache, adapters)
    reader = cache.save(writing, 3)
    adapters.select([None] * writing)
    CapturedDecode(path.model, Again).decode([9] * writing, [3] * writing, cache, adapters)
    assert torch.equal(cache.save(writing, 3), reader)


def test_fixed_shapes_give_the_same_logits_and_a_longer_rotary_table_captures_again(engine):
    assert same_as_plain(engine, [None, "lora-1", "lora-2"], Again)[-1] == 4, "3 and 2 rows, with adapters and without"
    path = llama(engine)
    model, captured = path.model, []
    cache, adapters = model.new_cache(), model.new_adapter_slots()
    model.prefill([Segment(0, [1, 2, 3], 0)], cache, adapters)
    steps = CapturedDecode(model, lambda work, beside: captured.append(work) or Again(work))
    adapters.select([None])
    steps.decode([4], [3], cache, adapters)
    steps.decode([5], [4], cache, adapters)
    assert len(captured) == 1
    model.extend_rotary(2000)  # as scoring a long text does; a graph would go on reading the old table's memory
    assert model.cos.shape == (2048, model.head_dim), "no copy a head: for 32,000 tokens of a 7B they had 1.3 GB"
    steps.decode([6], [5], cache, adapters)
    assert len(captured) == 2


@pytest.mark.parametrize(("reserve", "most"), [(1 << 22, 3), (1, 6)])
def test_replies_that_grow_are_captured_again_for_each_doubling_and_not_for_each_part_of_room(engine, reserve, most):
    """Four rows up to 1000 tokens: attention over 256, 512 and 1024, and the memory that is reserved does not move."""
    path, captured = llama(engine), []
    model = path.model
    (cache, adapters), (plain, beside) = ((model.new_cache(room), model.new_adapter_slots()) for room in (reserve, 0))
    slots = [one.acquire(path.scheduler.find("lora-1")) for one in (adapters, beside)]
    steps = CapturedDecode(model, lambda work, beside: captured.append(work) or Again(work))
    for length in (9, 200, 300, 500, 600, 700, 800, 900, 1000):
        for rows in (3, 4):
            for one, slot in zip((adapters, beside), slots, strict=True):
                one.select([slot, *[None] * (rows - 1)])
            lengths = [length, *[5] * (rows - 1)]
            found = steps.decode([3] * rows, lengths, cache, adapters)
            expected = model.decode([3] * rows, lengths, plain, beside)
            assert (found - expected).abs().max() < 1e-4
    assert len(captured) <= most
    before = len(captured)
    adapters.acquire(replace(path.scheduler.find("lora-2"), rank=16))  # wider slots: those shapes only that use them
    for chosen in ([None], [slots[0]], [None]):
        adapters.select(chosen)
        steps.decode([3], [1000], cache, adapters)
    assert len(captured) == before + 2, "one row with an adapter, and one without"


def test_masks_of_a_batch_that_stays_are_not_sent_again(engine):
    path = llama(engine)
    adapters = path.model.new_adapter_slots()
    slots = [adapters.acquire(path.scheduler.find(name)) for name in ("lora-1", "lora-2")]
    adapters.select([slots[0], None])
    products = adapters.fixed(4)
    masks = {parts: (mask, mask._version) for parts, mask in products.masks.items()}
    adapters.select([slots[0], None])
    assert adapters.fixed(4) is products
    assert all(mask._version == version for mask, version in masks.values())
    adapters.select([None, slots[1]])
    assert adapters.fixed(4).masks.keys() == masks.keys()
    assert all(
        adapters.fixed(4).masks[parts] is mask and mask._version > version for parts, (mask, version) in masks.items()
    )


class Masks(TorchDispatchMode):
    """Bytes of masks [tokens, total] that are made."""

    made = 0

    def __torch_dispatch__(self, called, types, args=(), kwargs=None):
        found = called(*args, **(kwargs or {}))
        if called is torch.ops.aten.masked_fill_.Scalar and found.shape[-1] > 64:
            self.made += found.nbytes
        return found


def test_a_prompts_mask_is_made_once_for_all_layers_and_not_at_all_on_cuda_or_for_one_token(engine):
    model, counted = llama(engine).model, Masks()
    assert len(model.layers) > 1
    cache, adapters = model.new_cache(), model.new_adapter_slots()
    with counted:
        model.prefill([Segment(0, [5] * 100, 0), Segment(1, [5] * 60, 0)], cache, adapters)
        assert counted.made == 0
        model.prefill([Segment(0, [6] * 40, 100), Segment(1, [6], 60)], cache, adapters)
    assert isinstance(mask_of(256, 32_768, torch.float16, torch.device("cuda")), CausalBias)
    assert counted.made == 40 * 140 * model.dtype.itemsize


@pytest.mark.parametrize(("tokens", "total"), [(7, 30), (1, 30), (30, 30)])
@torch.inference_mode()
def test_attention_with_cudas_masks_is_the_same(tokens, total):
    torch.manual_seed(0)
    q, keys, values = (torch.randn(n, heads, 8) for n, heads in ((tokens, 6), (total, 2), (total, 2)))
    plain = attend(q, keys, values, mask_of(tokens, total, torch.float32, torch.device("cpu")))
    assert (attend(q, keys, values, causal_lower_right(tokens, total)) - plain).abs().max() < 1e-5


def test_a_capture_is_ended_by_its_own_thread_only(monkeypatch):
    cuda = MagicMock()
    for name in ("Stream", "current_stream", "stream", "CUDAGraph", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(cuda, name))
    first = cuda_capture(lambda: None)
    cuda_capture(lambda: None, first)
    modes = [call.kwargs for call in cuda.graph.call_args_list]
    shared = {"capture_error_mode": "thread_local", "pool": first.pool()}
    assert modes == [{"capture_error_mode": "thread_local", "pool": None}, shared], "their memory is shared"


@pytest.mark.gpu
def test_a_real_graph_gives_the_same_logits(engine):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    assert same_as_plain(engine, [None, "lora-1", "lora-2"], cuda_capture)[-1] == 4
