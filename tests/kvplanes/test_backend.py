"""Which buffers a decode pass works in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="kvplanes' backends run in SGLang's environment")
pytest.importorskip("sglang", reason="kvplanes' backends run in SGLang's environment")

# What SGLang imports warns of much.
pytestmark = pytest.mark.filterwarnings("ignore")


class Plan:
    """Buffers for so many requests."""

    def __init__(self, batch_max: int, *_shape: object) -> None:
        self.batch_max, self.filled = batch_max, 0

    allocate = classmethod(lambda cls, *shape: cls(*shape))

    def fill(self, seq_lens: Any, req_rows: Any, _bits: object, _tuning: object) -> None:
        assert len(seq_lens) == len(req_rows) <= self.batch_max
        self.filled += 1


def decode(count: int) -> Any:
    """A batch that decodes `count` requests."""
    mode = SimpleNamespace(is_decode_or_idle=lambda: True, is_extend=lambda: False)
    return SimpleNamespace(
        forward_mode=mode,
        batch_size=count,
        seq_lens=torch.ones(count, dtype=torch.int64),
        req_pool_indices=torch.arange(count),
    )


def backend() -> Any:
    """A backend that was not given a model runner."""
    from services.kvplanes.backend import TritonPlanesBackend

    found: Any = object.__new__(TritonPlanesBackend)
    shape = SimpleNamespace(kv_heads=2, head_dim=64)
    found.token_to_kv_pool = SimpleNamespace(planes=SimpleNamespace(shape=shape), req_bits=None)
    found.launch, found.query_heads, found.device = SimpleNamespace(DecodePlan=Plan), 4, "cpu"
    found.way = SimpleNamespace(tuning=None)
    found.plan = found.graph_plan = found.eager_plan = None
    found.eager_max = 0
    return found


def test_an_eager_pass_leaves_the_captured_graphs_their_buffers() -> None:
    planes = backend()
    planes.init_cuda_graph_state(8, 8)
    planes.init_forward_metadata_in_graph(decode(8))
    captured = planes.plan
    planes.init_forward_metadata(decode(9))
    larger = planes.plan
    assert larger is not captured
    planes.init_forward_metadata(decode(3))
    assert planes.plan is larger, "made once"
    planes.init_forward_metadata_in_graph(decode(4))
    assert planes.plan is captured
    assert (captured.filled, larger.filled) == (2, 2)
