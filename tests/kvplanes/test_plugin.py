"""What the plugin decides before SGLang runs: whom to refuse, whom to admit."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from services.kvplanes import plugin
from services.kvplanes.config import KVPlanesConfig
from services.kvplanes.plugin import Hooks, refuse, register


def pools(**changes: Any) -> Any:
    """SGLang's pool builder for a plain model on one GPU, with `changes` to its flags or itself."""
    args = {
        "prefill_attention_backend": None, "decode_attention_backend": None, "attention_backend": "triton",
        "cuda_graph_config": SimpleNamespace(prefill=SimpleNamespace(backend="disabled")),
        "tp_size": 1, "pp_size": 1, "dp_size": 1, "dcp_size": 1, "kv_cache_dtype": "auto",
        "disaggregation_mode": "null", "enable_hierarchical_cache": False, "enable_mixed_chunk": False,
        "enable_memory_saver": False,
    }  # fmt: skip
    own = {
        "device": "cuda", "use_mla_backend": False, "is_hybrid_swa": False, "sliding_window_size": None,
        "mambaish_config": None, "is_draft_worker": False, "page_size": 1,
        "spec_algorithm": SimpleNamespace(is_none=lambda: True),
        "model_config": SimpleNamespace(
            hf_text_config=SimpleNamespace(), is_encoder_decoder=False, head_dim=128, v_head_dim=128
        ),
    }  # fmt: skip
    for name, value in changes.items():
        (args if name in args else own)[name] = value
    return SimpleNamespace(server_args=SimpleNamespace(**args), **own)


def test_a_plain_model_passes() -> None:
    refuse(pools())
    refuse(pools(device="cpu", attention_backend="torch_native"))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"use_mla_backend": True}, "MLA"),
        ({"sliding_window_size": 4096}, "sliding windows"),
        ({"spec_algorithm": SimpleNamespace(is_none=lambda: False)}, "speculative decoding"),
        ({"tp_size": 2}, "several GPUs"),
        ({"kv_cache_dtype": "fp8_e5m2"}, "--kv-cache-dtype fp8_e5m2"),
        ({"attention_backend": "fa3"}, "--attention-backend fa3"),
        ({"page_size": 16}, "--page-size 16"),
        ({"device": "cpu"}, "give torch_native"),
        ({"cuda_graph_config": SimpleNamespace(prefill=SimpleNamespace(backend="full"))}, "CUDA graphs for prefill"),
    ],
)
def test_what_planes_lack_is_refused_by_name(changes: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        refuse(pools(**changes))


def test_bad_settings_end_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BUNKHOUSE_KVPLANES", raising=False)
    register()
    monkeypatch.setenv("BUNKHOUSE_KVPLANES", '{"bits": 5}')
    with pytest.raises(SystemExit, match="bits"):
        register()


Registered = Callable[..., Any]


@pytest.fixture
def hooked(monkeypatch: pytest.MonkeyPatch) -> Registered:
    """Wraps a function as the plugin has SGLang wrap its own function of a name."""
    registry = pytest.importorskip("sglang.srt.plugins.hook_registry", reason="this test runs in SGLang's environment")
    monkeypatch.setenv("BUNKHOUSE_KVPLANES", KVPlanesConfig().to_json())
    monkeypatch.setattr(plugin, "_replace_backends", lambda: None)
    hooks: dict[str, Any] = {}
    monkeypatch.setattr(registry.HookRegistry, "register", lambda target, *hook: hooks.update({target: hook}))
    register()
    return lambda name, original: registry._wrap_fn(original, *hooks[f"sglang.srt.managers.{name}"])


def test_a_control_request_finds_the_requests_that_came_just_before_it(
    hooked: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = SimpleNamespace(handle=None, scheduler=None)
    scheduler = SimpleNamespace(token_to_kv_pool_allocator=SimpleNamespace(sessions=sessions), waiting_queue=[])
    found: list[Any] = []

    def poll() -> None:
        found.extend(sessions.scheduler.waiting_queue)

    def queue(scheduler: Any, requests: list[str]) -> None:
        scheduler.waiting_queue.extend(requests)

    monkeypatch.setattr(plugin, "_listen", lambda _path, _handle: poll)
    hooked("scheduler.Scheduler.process_input_requests", queue)(scheduler, ["one"])
    assert found == ["one"]


class Adder:
    """SGLang's admission, as far as the hook sees it: so many tokens of room."""

    def __init__(self, room: int, running: bool) -> None:
        self.room, self.can_run_list = room, []  # type: int, list[Any]
        self.rem_total_token_offset = self.cur_rem_token_offset = 0
        self.running_batch = SimpleNamespace(is_empty=lambda: not running)

    def add(self, req: Any) -> str:
        if (
            len(req.full_untruncated_fill_ids) + req.sampling_params.max_new_tokens
            > self.room - self.rem_total_token_offset
        ):
            return "no"
        self.can_run_list.append(req)
        return "yes"


@pytest.mark.parametrize(
    ("bits", "room", "running", "expected"),
    [(4, 120, True, "yes"), (8, 120, True, "no"), (8, 220, True, "yes"), (8, 120, False, "yes"), (4, 90, True, "no")],
)
def test_eight_bits_are_admitted_where_both_planes_fit(bits: int, room: int, running: bool, expected: str) -> None:
    adder = Adder(room, running)
    params = SimpleNamespace(max_new_tokens=20)
    req = SimpleNamespace(kvplanes_bits=bits, full_untruncated_fill_ids=[0] * 80, sampling_params=params)
    assert Hooks(KVPlanesConfig()).around_add(Adder.add, adder, req) == expected
    charged = 100 if bits == 8 and running and expected == "yes" else 0
    assert adder.rem_total_token_offset == charged


@pytest.mark.parametrize(("bits", "expected"), [(8, "no"), (4, "yes")])
def test_a_prompt_in_chunks_counts_with_both_planes(hooked: Registered, bits: int, expected: str) -> None:
    adder = Adder(250, running=True)
    params = SimpleNamespace(max_new_tokens=20)
    chunked = SimpleNamespace(kvplanes_bits=bits, full_untruncated_fill_ids=[0] * 80, sampling_params=params)
    go_on = hooked("schedule_policy.PrefillAdder.add_chunked_req", lambda adder, req: adder.can_run_list.append(req))
    go_on(adder, chunked)
    assert adder.cur_rem_token_offset == (80 if bits == 8 else 0)
    req = SimpleNamespace(kvplanes_bits=8, full_untruncated_fill_ids=[0] * 80, sampling_params=params)
    assert hooked("schedule_policy.PrefillAdder.add_one_req", Adder.add)(adder, req) == expected
