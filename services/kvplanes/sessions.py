"""Which running request keeps which planes: decided when tokens get slots, changed while they run.

All of this runs in SGLang's scheduler thread, between its steps. A step that is already on the GPU may still read a low
plane freed here: its bytes stay until a later step writes them, and steps run in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .config import KVPlanesConfig
from .control import JsonObject
from .keys import parse_extra_key

if TYPE_CHECKING:
    from .pool import PlanesAllocator


class SessionPlanes:
    """Precision of the requests that share one allocator.

    `table` is SGLang's request table, `tree_cache` its prefix cache. `scheduler` is set once SGLang's scheduler runs;
    its benchmarks run batches without one.
    """

    def __init__(
        self, allocator: PlanesAllocator, table: torch.Tensor, tree_cache: Any, config: KVPlanesConfig
    ) -> None:
        self.allocator, self.table, self.tree_cache, self.config = allocator, table, tree_cache, config
        self.scheduler: Any = None
        self.slots = allocator.slots
        pool = allocator.get_kvcache()
        self.req_bits: torch.Tensor = pool.req_bits  # what attention reads: 4 skips low planes but the windows'
        self.req_policy: torch.Tensor = pool.req_policy  # what new tokens get
        self._pass_low = _handover(table.device.type)
        self.yielded_tokens = 0  # low planes that gave way to new tokens
        self.short_tokens = 0  # tokens of 8-bit sessions that found no room for a low plane
        self.allocator.relieve = self.relieve
        nobodys = torch.zeros(2, dtype=torch.int64, device=table.device)
        self.slots.drop_low(nobodys, nobodys)  # loads its kernels ahead of need

    # Tokens get slots.

    def on_extend(self, batch: Any, loc: torch.Tensor) -> None:
        """New prompt tokens of `batch` own the high slots `loc` (T): give low planes where policy says so."""
        self._plan_calibration(batch)
        wanted: list[torch.Tensor] = []
        start, coarse = 0, 0
        for req, prefix, count in zip(batch.reqs, batch.prefix_lens, batch.extend_lens, strict=True):
            end = prefix + count
            req.kvplanes_own_from, req.kvplanes_prompt = prefix, end
            if req.kvplanes_bits == 8:
                wanted.append(torch.arange(start, start + count))
            else:
                for window in self._prompt_windows(req, prefix, end):
                    wanted.append(torch.tensor(window, dtype=torch.int64) + (start - prefix))
                    coarse += len(window)
            start += count
        rows = torch.tensor([req.req_pool_idx for req in batch.reqs]).to(self.req_bits.device)
        bits = torch.tensor([req.kvplanes_bits for req in batch.reqs], dtype=torch.int32).to(self.req_bits.device)
        self.req_bits[rows] = bits
        self.req_policy[rows] = bits
        index = torch.cat(wanted)
        if self._grant(loc[index.to(loc.device)], coarse) < index.shape[0]:
            for req in batch.reqs:
                req.kvplanes_own_from = req.kvplanes_prompt

    def _prompt_windows(self, req: Any, prefix: int, end: int) -> tuple[range, range]:
        """Positions from `prefix` to `end` of a 4-bit `req` that get low planes: first tokens, and a prompt's newest.

        The newest may come in two chunks of the prompt.
        """
        sinks = self.config.sink_tokens
        newest = max(sinks, len(req.origin_input_ids) + len(req.output_ids) - self.config.recent_tokens)
        return range(prefix, min(sinks, end)), range(max(prefix, newest), end)

    def _plan_calibration(self, batch: Any) -> None:
        """Let this prefill fix the centres, if nothing stored depends on them."""
        pool = self.allocator.get_kvcache()
        total = sum(batch.extend_lens)
        if pool.calibrated or not 0 < self.config.calibration_tokens <= total or any(batch.prefix_lens):
            return
        if self.slots.high_used > total:
            self._evict(self.slots.high_used - total)
        if self.slots.high_used == total:
            pool.calibrate_next = pool.calibrated = True

    def on_decode(self, batch: Any, loc: torch.Tensor) -> None:
        """One new token a request of `batch` owns a high slot of `loc` (B): low planes by policy.

        A 4-bit session's newest token takes over the low plane of the token that leaves the window of newest ones,
        where that is the session's own; else it gets a new one, so that the window is whole after `recent_tokens`.
        """
        positions = batch.seq_lens_cpu.tolist()
        sinks, recent = self.config.sink_tokens, self.config.recent_tokens
        fresh: list[int] = []
        heirs: list[int] = []
        coarse = 0
        for index, (req, position) in enumerate(zip(batch.reqs, positions, strict=True)):
            if req.kvplanes_bits == 4 and self._owns(req, position - recent):
                heirs.append(index)
            else:
                fresh.append(index)
                coarse += req.kvplanes_bits == 4
        if heirs and recent:
            rows, places, slots = _at(heirs, batch.req_pool_indices, batch.seq_lens, loc)
            self._pass_low(self.slots.low_of, self.table, rows, places, slots, self.req_policy, sinks, recent)
        if fresh:
            (slots,) = _at(fresh, loc)
            for index in fresh[self._grant(slots, coarse) :]:
                batch.reqs[index].kvplanes_own_from = positions[index] + 1

    def _owns(self, req: Any, position: int) -> bool:
        """Whether `req` may hand on the low plane at `position`: it was given one there, and no other request reads it.

        Every token from ``kvplanes_own_from`` on was given one; what lies before came from the prefix cache or found no
        room. Tokens before ``kvplanes_prompt`` are in the prefix cache, where others find them.
        """
        if position < max(self.config.sink_tokens, req.kvplanes_own_from):
            return False
        return position >= req.kvplanes_prompt or position >= self.shared_length(req)

    def _grant(self, slots: torch.Tensor, coarse: int) -> int:
        """Give low planes to the first of `slots`, as far as there is room; returns how many got one.

        `coarse` of them are of 4-bit sessions, which are not counted as short.
        """
        short = slots.shape[0] - self.slots.free.shape[0]
        if short > 0:
            self.slots.collect()
            short = slots.shape[0] - self.slots.free.shape[0]
        if short > 0:
            self._evict(short)
        granted = self.slots.grant_low(slots)
        self.short_tokens += max(0, slots.shape[0] - granted - coarse)
        return granted

    # Room.

    def _evict(self, tokens: int) -> None:
        from sglang.srt.mem_cache.base_prefix_cache import EvictParams  # noqa: PLC0415 - SGLang loads late

        self.tree_cache.evict(EvictParams(num_tokens=tokens))

    def relieve(self, need: int) -> None:
        """Free slots until `need` are free: evict idle cached tokens, then demote the newest sessions first."""
        self.slots.collect()
        missing = need - self.slots.free.shape[0]
        if missing > 0:
            self._evict(missing)
            self.slots.collect()
        reqs = self.running()
        for req in reversed(reqs):
            if self.slots.free.shape[0] >= need:
                return
            self.yielded_tokens += self.demote_request(req, whole=True)
        if self.slots.free.shape[0] < need:
            self.yielded_tokens += self.slots.drop_low(torch.arange(1, self.slots.size + 1, device=self.table.device))
            for req in reqs:
                req.kvplanes_own_from = req.kv.kv_allocated_len

    # Live control.

    def running(self) -> list[Any]:
        """Requests that own slots, oldest first."""
        seen: dict[str, Any] = {}
        if self.scheduler is None:
            return []
        for batch in (self.scheduler.running_batch, self.scheduler.last_batch):
            for req in batch.reqs if batch is not None else ():
                if req.req_pool_idx is not None and req.kv is not None and not req.finished():
                    seen[req.rid] = req
        chunked = getattr(self.scheduler, "chunked_req", None)
        if chunked is not None and chunked.req_pool_idx is not None and chunked.kv is not None:
            seen[chunked.rid] = chunked
        return list(seen.values())

    def shared_length(self, req: Any) -> int:
        """Tokens at the front of `req` that another running request reads too, from the radix cache."""
        node = req.last_node
        while node is not None and node.parent is not None and node.lock_ref <= 1:
            node = node.parent
        length = 0
        while node is not None and node.parent is not None:
            length += len(node.key)
            node = node.parent
        return length

    def _droppable(self, req: Any, *, whole: bool) -> torch.Tensor:
        """Slots of `req` whose low planes a demotion frees: not the sinks, or others' prefix."""
        first = max(self.config.sink_tokens, 0 if whole else self.shared_length(req))
        return self.table[req.req_pool_idx, first : req.kv.kv_allocated_len].long()

    def _drop(self, slots: torch.Tensor) -> int:
        """Free the low planes of `slots`, but for the newest tokens of all that run; returns how many came free."""
        reqs = self.running()
        rows = torch.tensor([req.req_pool_idx for req in reqs], dtype=torch.int64)
        ends = torch.tensor([req.kv.kv_allocated_len for req in reqs], dtype=torch.int64)
        newest = (ends[:, None] - 1 - torch.arange(self.config.recent_tokens)).clamp_min(0)
        windows = self.table[rows[:, None].to(self.table.device), newest.to(self.table.device)]
        return self.slots.drop_low(slots, windows.flatten().long())

    def demote_request(self, req: Any, *, whole: bool) -> int:
        """Free `req`'s low planes, of a shared prefix too with `whole`; returns how many slots came free."""
        req.kvplanes_bits = 4
        freed = self._drop(self._droppable(req, whole=whole))
        self._mark_coarse([req], whole=whole)
        return freed

    def _mark_coarse(self, reqs: list[Any], *, whole: bool) -> None:
        """Let attention skip the low planes of `reqs`, except where a shared prefix kept its own."""
        if reqs:
            self.req_policy[torch.tensor([r.req_pool_idx for r in reqs]).to(self.req_policy.device)] = 4
        rows = [r.req_pool_idx for r in reqs if whole or self.shared_length(r) <= self.config.sink_tokens]
        if rows:
            self.req_bits[torch.tensor(rows).to(self.req_bits.device)] = 4

    def demote(self, reqs: list[Any], prefix: str | None) -> int:
        """Demote all of `reqs` at once; `prefix` names the cached tokens that go with them, None for none."""
        whole = prefix is not None
        parts = [self._droppable(req, whole=whole) for req in reqs]
        if prefix is not None:
            parts += self._cached(prefix)
        freed = self._drop(torch.cat(parts)) if parts else 0
        for req in reqs:
            req.kvplanes_bits = 4
        self._mark_coarse(reqs, whole=whole)
        return freed

    def promote(self, reqs: list[Any]) -> None:
        """Give `reqs` both planes for tokens from now on; what was dropped stays dropped."""
        for req in reqs:
            req.kvplanes_bits = 8
        owners = [req.req_pool_idx for req in reqs if req.req_pool_idx is not None]
        if owners:
            rows = torch.tensor(owners).to(self.req_bits.device)
            self.req_bits[rows] = 8
            self.req_policy[rows] = 8

    def _cached(self, prefix: str) -> list[torch.Tensor]:
        """Slots of cached tokens whose ``extra_key`` starts with `prefix`, first tokens of a prompt left out."""
        root = getattr(self.tree_cache, "root_node", None)
        found: list[torch.Tensor] = []
        stack = [(child, True) for child in root.children.values()] if root is not None else []
        while stack:
            node, first = stack.pop()
            if (node.key.extra_key or "").startswith(prefix):
                found.append(node.value[self.config.sink_tokens if first else 0 :].to(self.table.device).long())
                stack += [(child, False) for child in node.children.values()]
        return found

    def select(self, wanted: JsonObject) -> tuple[list[Any], list[Any]]:
        """Running and waiting requests named by ``rid``, ``salt`` or ``all``. Raises ValueError for neither."""
        rid, salt = wanted.get("rid"), wanted.get("salt")
        if wanted.get("all") is not True and not isinstance(rid, str) and not isinstance(salt, str):
            raise ValueError('name the sessions: "rid", "salt" or "all": true')

        def matches(req: Any) -> bool:
            if wanted.get("all") is True:
                return True
            if isinstance(rid, str):
                return bool(req.rid == rid)
            return parse_extra_key(req.extra_key, 8)[0] == salt

        waiting = [req for req in self.scheduler.waiting_queue if matches(req)]
        return [req for req in self.running() if matches(req)], waiting

    def report(self) -> JsonObject:
        """Tokens by precision, bytes and slots in use, and what had to give way."""
        low, high = self.slots.low_used(), self.slots.high_used
        slot_bytes = self.allocator.get_kvcache().planes.shape.slot_bytes
        return {
            "tokens": {"4": high - low, "8": low},
            "bytes": {"total": self.slots.size * slot_bytes, "used": (high + low) * slot_bytes},
            "slots": {"total": self.slots.size, "used": high + low, "free": self.slots.size - high - low},
            "sessions": {str(bits): sum(r.kvplanes_bits == bits for r in self.running()) for bits in (4, 8)},
            "calibrated": self.allocator.get_kvcache().calibrated,
            "yielded_tokens": self.yielded_tokens,
            "short_tokens": self.short_tokens,
        }

    def handle(self, request: JsonObject) -> JsonObject:
        """Answer one control request; raises ValueError where it makes no sense."""
        op = request.get("op")
        if op == "report":
            return self.report()
        if op not in ("demote", "promote"):
            raise ValueError(f'op must be "demote", "promote" or "report", not {op!r}')
        running, waiting = self.select(request)
        if op == "promote":
            self.promote(running + waiting)
            return {"freed_bytes": 0, "tokens": 0, "sessions": len(running) + len(waiting)}
        for req in waiting:
            req.kvplanes_bits = 4
        prefix = "" if request.get("all") else f"{request['salt']}|" if "salt" in request else None
        freed = self.demote(running, prefix)
        self.scheduler.running_batch.batch_is_full = False  # SGLang looks at its queue again only when a request ends
        slot_bytes = self.allocator.get_kvcache().planes.shape.slot_bytes
        return {"freed_bytes": freed * slot_bytes, "tokens": freed, "sessions": len(running) + len(waiting)}


def _at(chosen: list[int], *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The entries `chosen` of each of `tensors` (B); `chosen` is in order and names each once."""
    if len(chosen) == tensors[0].shape[0]:
        return tensors
    index = torch.tensor(chosen).to(tensors[0].device, non_blocking=True)
    return tuple(tensor[index] for tensor in tensors)


def _handover(device: str) -> Any:
    if device == "cuda":
        from .kernels.launch import pass_low  # noqa: PLC0415 - Triton, on a GPU only

        return pass_low
    from .reference import pass_low as on_cpu  # noqa: PLC0415

    return on_cpu
