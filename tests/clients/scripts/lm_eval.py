"""lm-evaluation-harness: local-chat-completions and local-completions on tasks made here."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from tests.clients.checks import BOT, ENGINE, RAW, V1, check, run

FOLDER = Path(os.environ["BUNKHOUSE_SCRATCH"]) / "lm_eval"
QUESTIONS = [
    {"begin": "The capital of France is", "choices": ["Paris", "carrot"], "answer": 0},
    {"begin": "The grass is", "choices": ["Wednesday", "green"], "answer": 1},
]
TASKS = {
    "generate": """\
output_type: generate_until
doc_to_text: "{{begin}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["###"], max_gen_toks: 24}
metric_list: [{metric: exact_match}]
""",
    "choose": """\
output_type: multiple_choice
doc_to_text: "{{begin}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list: [{metric: acc}]
""",
}


def evaluate(kind: str, task: str, **options: Any) -> Any:
    """The samples of one task."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "data.jsonl").write_text("".join(json.dumps(each) + "\n" for each in QUESTIONS))
    data = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {FOLDER}/data.jsonl}}}}\ntest_split: test\n"
    (FOLDER / f"{task}.yaml").write_text(f"task: {task}\n{data}{TASKS[task]}")
    return simple_evaluate(
        model=kind,
        model_args=options | {"num_concurrent": 1, "max_retries": 1},
        tasks=[task],
        task_manager=TaskManager(include_path=str(FOLDER), include_defaults=False),
        apply_chat_template="chat" in kind,
        bootstrap_iters=0,
    )


@check("chat", "local-chat-completions answers a generation task")
def _() -> None:
    done = evaluate("local-chat-completions", "generate", model=BOT, base_url=f"{V1}/chat/completions")
    answers = [sample["filtered_resps"][0] for sample in done["samples"]["generate"]]
    assert len(answers) == len(QUESTIONS)
    assert all(answers)


def completions(task: str, **options: Any) -> Any:
    tokenizer = os.environ["BUNKHOUSE_TOKENIZER"]
    settings = {"model": RAW, "base_url": f"{V1}/completions", "tokenizer": tokenizer}
    return evaluate("local-completions", task, **settings, tokenizer_backend="huggingface", max_length=2048, **options)


@check("completions", "local-completions answers a generation task")
def _() -> None:
    done = completions("generate", tokenized_requests=False)
    assert all(sample["filtered_resps"][0] for sample in done["samples"]["generate"])


if ENGINE == "sglang":

    @check("scoring", "local-completions scores the choices of a multiple-choice task, with token ids as prompts")
    def _() -> None:
        done = completions("choose")
        assert done["results"]["choose"]["acc,none"] >= 0.5
        for sample in done["samples"]["choose"]:
            assert all(score < 0 for score, _ in (response[0] for response in sample["resps"]))


run()
