"""What every kernel must compute, in plain PyTorch. It also serves where there is no GPU.

Shapes: T new tokens, B requests, Hq query heads, H KV heads, D channels, `slots` slots of the pool.
"""

# ruff: noqa: PLR0917 - a kernel's inputs, in one order everywhere

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .code import dequantize, quantize, rotate, split

if TYPE_CHECKING:
    from .planes import LayerPlanes


def store(
    layer: LayerPlanes,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    loc: torch.Tensor,
    *,
    save: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Quantize `key` and `value` (T, H, D) into the slots `loc` (T), low planes where ``low_of`` names one.

    Without `save` nothing is stored.

    Returns query (T, Hq, D), key and value (T, H, D), rotated and the latter two centred, float32.
    """
    low = layer.low_of[loc].long()
    has_low = low >= 0
    rotated = []
    for kind, x in enumerate((key, value)):
        turned = rotate(x.float() - layer.centres[kind])
        rotated.append(turned)
        if not save:
            continue
        codes, scales = quantize(turned)
        high_plane, low_plane = split(codes)
        layer.codes[:, loc, kind] = high_plane.transpose(0, 1)
        layer.codes[:, low[has_low], kind] = low_plane[has_low].transpose(0, 1)
        layer.scales[:, loc, kind] = scales.transpose(0, 1)
    return rotate(query), rotated[0], rotated[1]


def read(layer: LayerPlanes, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values (n, H, D) float32, rotated and centred, of the tokens in `slots` (n)."""
    low = layer.low_of[slots].long()
    has_low = (low >= 0).expand(layer.codes.shape[0], -1)
    pair = []
    for kind in (0, 1):
        high_plane, low_plane = layer.codes[:, slots, kind], layer.codes[:, low.clamp_min(0), kind]
        pair.append(dequantize(high_plane, low_plane, has_low, layer.scales[:, slots, kind]).transpose(0, 1))
    return pair[0], pair[1]


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, causal_from: int) -> torch.Tensor:
    """Softmax attention of `query` (n, Hq, D) over `key` and `value` (m, H, D), float32.

    Query i sees keys up to and with ``causal_from + i``.
    """
    heads, group = key.shape[1], query.shape[1] // key.shape[1]
    grouped = query.view(query.shape[0], heads, group, -1).permute(1, 2, 0, 3).flatten(1, 2)  # H, group * n, D
    score = grouped @ key.permute(1, 2, 0) * scale
    last = torch.arange(query.shape[0], device=query.device)[:, None] + causal_from
    hidden = torch.arange(key.shape[0], device=key.device)[None, :] > last
    score = score.unflatten(1, (group, -1)).masked_fill(hidden, float("-inf")).softmax(-1)
    out = score.flatten(1, 2) @ value.transpose(0, 1)
    return out.unflatten(1, (group, -1)).permute(2, 0, 1, 3).flatten(1, 2)


def finish(layer: LayerPlanes, rotated: torch.Tensor) -> torch.Tensor:
    """Undo the values' rotation and centre in `rotated` (n, Hq, D)."""
    group = rotated.shape[1] // layer.centres.shape[1]
    return rotate(rotated) + layer.centres[1].repeat_interleave(group, 0)


def decode(
    layer: LayerPlanes,
    query: torch.Tensor,
    req_to_token: torch.Tensor,
    req_rows: torch.Tensor,
    seq_lens: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """One new token a request: rotated `query` (B, Hq, D) over its tokens in the pool; returns (B, Hq, D) float32."""
    out = []
    for index, (row, length) in enumerate(zip(req_rows.tolist(), seq_lens.tolist(), strict=True)):
        key, value = read(layer, req_to_token[row, :length].long())
        out.append(attend(query[index : index + 1].float(), key, value, scale, length - 1))
    return finish(layer, torch.cat(out)) if out else torch.zeros_like(query, dtype=torch.float32)


def extend(
    layer: LayerPlanes,
    rotated: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    req_to_token: torch.Tensor,
    req_rows: torch.Tensor,
    prefix_lens: torch.Tensor,
    extend_lens: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """New tokens over a quantized prefix and their own unquantized keys and values; returns (T, Hq, D) float32.

    `rotated` is what ``store`` returned for the T new tokens of all requests, in order.
    """
    query, new_key, new_value = (part.float() for part in rotated)
    out, start = [], 0
    rows = zip(req_rows.tolist(), prefix_lens.tolist(), extend_lens.tolist(), strict=True)
    for row, prefix, count in rows:
        here = slice(start, start + count)
        start += count
        key, value = read(layer, req_to_token[row, :prefix].long())
        key, value = torch.cat((key, new_key[here])), torch.cat((value, new_value[here]))
        out.append(attend(query[here], key, value, scale, prefix))
    return finish(layer, torch.cat(out)) if out else torch.zeros_like(query)


def pass_low(
    low_of: torch.Tensor,
    table: torch.Tensor,
    req_rows: torch.Tensor,
    positions: torch.Tensor,
    loc: torch.Tensor,
    policy: torch.Tensor,
    sinks: int,
    recent: int,
) -> None:
    """Keep both planes for the newest `recent` tokens of 4-bit sessions (``policy[row]`` is 4).

    The new token of request b, at `positions` (B) and in slot `loc` (B), takes over the low plane of the token `recent`
    places before it, once the session is longer than its `sinks` and `recent` tokens. `low_of` is changed.
    """
    for row, position, slot in zip(req_rows.tolist(), positions.tolist(), loc.tolist(), strict=True):
        if int(policy[row]) == 4 and position >= sinks + recent:
            old = int(table[row, position - recent])
            low = int(low_of[old])
            low_of[old] = -1
            low_of[slot] = low
