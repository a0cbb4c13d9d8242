"""Slots and sessions: who owns which plane, through prefill, decode, demotion, pressure and release."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

torch = pytest.importorskip("torch", reason="kvplanes' slots run in SGLang's environment")

from services.kvplanes.config import KVPlanesConfig  # noqa: E402
from services.kvplanes.keys import extra_key  # noqa: E402
from services.kvplanes.sessions import SessionPlanes  # noqa: E402
from services.kvplanes.slots import SlotPool  # noqa: E402

CONFIG = KVPlanesConfig(bits=8, sink_tokens=4, recent_tokens=8, calibration_tokens=0)


class Key(NamedTuple):
    """A node's key in the prefix cache: so many tokens of one ``extra_key``."""

    tokens: int
    extra_key: str

    def __len__(self) -> int:
        return self.tokens


class Engine:
    """The part of SGLang that sessions see: an allocator, a request table, running requests, a prefix cache."""

    def __init__(self, size: int) -> None:
        low_of = torch.full((size + 1,), -1, dtype=torch.int32)
        self.slots = SlotPool(size, low_of)
        rows = torch.full((16,), 8, dtype=torch.int32)
        pool = SimpleNamespace(
            req_bits=rows.clone(),
            req_policy=rows.clone(),
            calibrated=False,
            planes=SimpleNamespace(shape=SimpleNamespace(slot_bytes=100)),
        )
        allocator: Any = SimpleNamespace(slots=self.slots, get_kvcache=lambda: pool, relieve=None)
        self.table = torch.zeros(16, 400, dtype=torch.int32)
        self.root = SimpleNamespace(parent=None, children={})
        tree = SimpleNamespace(evict=lambda params: None, root_node=self.root)
        self.sessions = SessionPlanes(allocator, self.table, tree, CONFIG)
        self.sessions._evict = lambda tokens: None  # type: ignore[method-assign]
        self.running = SimpleNamespace(reqs=[], batch_is_full=False)
        self.sessions.scheduler = SimpleNamespace(running_batch=self.running, last_batch=None, waiting_queue=[])

    def alloc(self, count: int) -> Any:
        got = self.slots.alloc(count)
        if got is None:
            self.sessions.relieve(count)
            got = self.slots.alloc(count)
        assert got is not None
        return got

    def prefill(self, row: int, length: int, bits: int, salt: str = "t", *, node: Any = None, chunk: int = 0) -> Any:
        """A request of `length` tokens, the first of them `node`'s, prefilled in pieces of `chunk`, or at once."""
        prefix = self.below(node)
        req = SimpleNamespace(
            rid=f"r{row}", req_pool_idx=row, kvplanes_bits=bits, extra_key=extra_key(salt, bits), last_node=node,
            origin_input_ids=[0] * length, output_ids=[], kv=SimpleNamespace(kv_allocated_len=length),
            finished=lambda: False,
        )  # fmt: skip
        self.table[row, : len(prefix)] = prefix.int()
        while node is not None and node is not self.root:
            node.lock_ref += 1
            node = node.parent
        for start in range(len(prefix), length, chunk or length):
            count = min(chunk or length, length - start)
            loc = self.alloc(count)
            self.table[row, start : start + count] = loc.int()
            self.sessions.on_extend(SimpleNamespace(reqs=[req], prefix_lens=[start], extend_lens=[count]), loc)
        self.running.reqs.append(req)
        return req

    def cache(self, req: Any) -> Any:
        """Put the tokens of `req` into the prefix cache, as SGLang does after a prefill; returns their last node."""
        before = req.last_node or self.root
        new = self.of(req)[len(self.below(req.last_node)) :]
        node = SimpleNamespace(key=Key(len(new), req.extra_key), value=new, parent=before, children={}, lock_ref=1)
        before.children[req.rid] = req.last_node = node
        return node

    def below(self, node: Any) -> Any:
        """Slots of the cached prefix that ends with `node`."""
        parts = [torch.empty(0, dtype=torch.int64)]
        while node is not None and node is not self.root:
            parts.insert(0, node.value)
            node = node.parent
        return torch.cat(parts)

    def decode(self) -> None:
        reqs = self.running.reqs
        loc = self.alloc(len(reqs))
        lengths = torch.tensor([req.kv.kv_allocated_len for req in reqs])
        rows = torch.tensor([req.req_pool_idx for req in reqs])
        self.table[rows, lengths] = loc.int()
        batch = SimpleNamespace(reqs=reqs, seq_lens=lengths, seq_lens_cpu=lengths, req_pool_indices=rows)
        self.sessions.on_decode(batch, loc)
        for req in reqs:
            req.kv.kv_allocated_len += 1

    def finish(self, req: Any) -> None:
        self.running.reqs.remove(req)
        self.slots.release(self.of(req))

    def of(self, req: Any) -> Any:
        return self.table[req.req_pool_idx, : req.kv.kv_allocated_len].long()

    def fine(self, req: Any) -> list[int]:
        """Positions of `req` that own a low plane."""
        return torch.nonzero(self.slots.low_of[self.of(req)] >= 0).flatten().tolist()  # type: ignore[no-any-return]

    def check(self) -> None:
        owned = [self.of(req) for req in self.running.reqs]
        self.slots.check_integrity(torch.unique(torch.cat(owned)) if owned else torch.empty(0, dtype=torch.int64))


def test_precision_by_session() -> None:
    engine = Engine(400)
    fine, coarse = engine.prefill(1, 40, 8), engine.prefill(2, 50, 4)
    assert engine.fine(fine) == list(range(40))
    assert engine.fine(coarse) == [*range(4), *range(42, 50)]
    for _ in range(5):
        engine.decode()
    assert engine.fine(fine) == list(range(45))
    assert engine.fine(coarse) == [*range(4), *range(47, 55)]
    assert engine.sessions.report()["tokens"] == {"4": 55 - 12, "8": 45 + 12}
    engine.check()


def test_a_short_session_grows_into_its_window() -> None:
    engine = Engine(100)
    req = engine.prefill(3, 2, 4)
    for _ in range(30):
        engine.decode()
    assert engine.fine(req) == [*range(4), *range(24, 32)]
    engine.check()


def test_demotion_frees_slots_at_once_and_promotion_counts_from_then_on() -> None:
    engine = Engine(400)
    one, two = engine.prefill(1, 60, 8, "a"), engine.prefill(2, 60, 8, "b")
    free = len(engine.slots.free)
    answer = engine.sessions.handle({"op": "demote", "rid": "r1"})
    assert answer == {"freed_bytes": 100 * (60 - 4 - 8), "tokens": 48, "sessions": 1}
    assert len(engine.slots.free) == free + 48
    assert engine.fine(one) == [*range(4), *range(52, 60)]
    assert engine.fine(two) == list(range(60))
    assert engine.sessions.req_bits[1] == 4
    engine.decode()
    assert engine.fine(one) == [*range(4), *range(53, 61)]
    engine.sessions.handle({"op": "promote", "salt": "a"})
    engine.decode()
    assert engine.fine(one) == [*range(4), *range(53, 62)]
    assert engine.sessions.req_bits[1] == 8
    assert engine.sessions.handle({"op": "demote", "all": True})["sessions"] == 2
    engine.check()


def test_sglang_looks_at_its_queue_again_after_a_demotion() -> None:
    engine = Engine(400)
    engine.prefill(1, 60, 8)
    engine.running.batch_is_full = True
    engine.sessions.handle({"op": "promote", "all": True})
    assert engine.running.batch_is_full
    engine.sessions.handle({"op": "demote", "all": True})
    assert not engine.running.batch_is_full


def test_low_planes_give_way_to_new_tokens() -> None:
    engine = Engine(200)
    old, new = engine.prefill(1, 60, 8), engine.prefill(2, 40, 8)
    assert len(engine.slots.free) == 0
    engine.prefill(3, 20, 4)
    assert engine.fine(old) == list(range(60)), "the newest session gives way first"
    assert engine.fine(new) != list(range(40))
    assert new.kvplanes_bits == 4
    report = engine.sessions.report()
    assert report["yielded_tokens"] == 28
    assert report["short_tokens"] == 0
    engine.check()


def newest(req: Any) -> set[int]:
    """Positions that a 4-bit session keeps both planes of."""
    return set(range(req.kv.kv_allocated_len - CONFIG.recent_tokens, req.kv.kv_allocated_len))


@pytest.mark.parametrize("tail", [1, 3, 8, 20])
def test_the_window_becomes_whole_after_a_prefix_without_low_planes(tail: int) -> None:
    engine = Engine(400)
    one = engine.prefill(1, 40, 4)
    node = engine.cache(one)
    engine.slots.drop_low(engine.of(one))
    req = engine.prefill(2, 40 + tail, 4, node=node)
    for _ in range(CONFIG.recent_tokens):
        engine.decode()
    for _ in range(3 * CONFIG.recent_tokens):
        assert newest(req) <= set(engine.fine(req))
        engine.decode()
    assert engine.slots.low_used() == 2 * CONFIG.recent_tokens, "nor does any low plane stay behind"
    engine.check()


@pytest.mark.parametrize("length", [2, 21, 23, 27, 28, 40])
def test_the_window_of_a_prompt_may_come_in_two_chunks(length: int) -> None:
    engine = Engine(400)
    req = engine.prefill(1, length, 4, chunk=20)
    assert engine.fine(req) == sorted(place for place in {*range(4), *newest(req)} if 0 <= place < length)
    for _ in range(40):
        engine.decode()
        assert {place for place in newest(req) if place >= 0} <= set(engine.fine(req))
    engine.check()


@pytest.mark.parametrize("wanted", [{"all": True}, {"salt": "t"}])
@pytest.mark.parametrize("steps", [0, 3])
def test_demoting_a_tenant_spares_the_windows_in_its_cached_prompts(wanted: dict[str, Any], steps: int) -> None:
    engine = Engine(400)
    short = engine.prefill(1, 40, 8)
    long = engine.prefill(2, 70, 8, node=engine.cache(short))
    engine.cache(long)
    for _ in range(steps):
        engine.decode()
    answer = engine.sessions.handle({"op": "demote", **wanted})
    assert engine.fine(short) == sorted({*range(4), *newest(short)})
    for _ in range(3 * CONFIG.recent_tokens):
        assert newest(short) <= set(engine.fine(short))
        assert newest(long) <= set(engine.fine(long))
        engine.decode()
    assert answer["sessions"] == 2
    engine.check()


@pytest.mark.parametrize("demoted", [0, 1])
def test_a_demoted_session_takes_no_low_plane_that_another_reads(demoted: int) -> None:
    engine = Engine(400)
    first = engine.prefill(1, 40, 8)
    second = engine.prefill(2, 43, 8, node=engine.cache(first))
    reqs = (first, second)
    engine.sessions.handle({"op": "demote", "rid": reqs[demoted].rid})
    for _ in range(3 * CONFIG.recent_tokens):
        assert newest(reqs[demoted]) <= set(engine.fine(reqs[demoted]))
        assert engine.fine(reqs[1 - demoted]) == list(range(reqs[1 - demoted].kv.kv_allocated_len))
        engine.decode()
    engine.check()


def test_a_window_that_found_no_room_is_whole_again_later() -> None:
    engine = Engine(64)
    req = engine.prefill(1, 2, 4)
    taken = engine.alloc(58)
    for _ in range(2):
        engine.decode()
    assert engine.fine(req) != list(range(4))
    engine.slots.release(taken)
    for _ in range(4):
        engine.decode()
    full = engine.alloc(len(engine.slots.free))
    for _ in range(4):
        engine.decode()
    assert not newest(req) <= set(engine.fine(req)), "new tokens took the low planes"
    engine.slots.release(full)
    for _ in range(CONFIG.recent_tokens):
        engine.decode()
    for _ in range(2 * CONFIG.recent_tokens):
        assert newest(req) <= set(engine.fine(req))
        engine.decode()
    engine.check()


def test_requests_that_make_no_sense_are_refused() -> None:
    engine = Engine(50)
    for request in ({"op": "halve"}, {"op": "demote"}, {"op": "demote", "rid": 7}):
        with pytest.raises(ValueError, match=r"op must be|name the sessions"):
            engine.sessions.handle(request)


@pytest.mark.parametrize("seed", range(6))
def test_slots_add_up_through_random_traffic(seed: int) -> None:
    chance = random.Random(seed)
    engine = Engine(900)
    rows = list(range(1, 15))
    for _ in range(60):
        reqs = engine.running.reqs
        used = sum(req.kv.kv_allocated_len for req in reqs)
        action = chance.random()
        if action < 0.35 and rows and used < 700:
            engine.prefill(rows.pop(), chance.randint(1, 90), chance.choice((4, 8)), chance.choice("ab"))
        elif action < 0.5 and reqs:
            req = chance.choice(reqs)
            rows.append(req.req_pool_idx)
            engine.finish(req)
        elif action < 0.6 and reqs:
            op = chance.choice(("demote", "promote"))
            engine.sessions.handle({"op": op, **chance.choice(({"all": True}, {"salt": "a"}, {"rid": reqs[0].rid}))})
        elif reqs and used < 850:
            engine.decode()
        engine.check()
