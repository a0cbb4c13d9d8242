"""Job: run a bot's test set at several KV bits, and say what was right at each.

Every question goes to this host's own gateway (`POST /admin/v1/bots/T/B/try`), one at a time. A model whose chats may
differ in bits gets them chat by chat. Another one is changed from one precision to the next by jobs of the kind
`kv_bits`, where the run was allowed to, and changed back in the end, also by the
attempt that takes over from a killed one.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import orjson

from services.contracts.bot_tests import BotQuestion, BotTestReport, JudgedQuestion, TrialAnswer, Verdict, patterns_of
from services.contracts.bot_tests import judged as wrong_of
from services.jobs import pattern_search
from services.jobs.attempt import Context, JobFailed, JobResult
from services.jobs.loadtest import gateway_url
from services.store.bot_tests import BotTestStore
from services.store.connection import QueueUnavailable
from services.store.job_args import BotTestArgs
from services.store.jobs import Fenced, Jobs, JobState, Locked, lock_of_model
from services.store.registry_edit import read_registry
from services.store.submission import SubmissionClient

PATTERNS_S_MAX = 2.0  # of one answer
ANSWER_S_MAX = 120.0
AGAIN_S_MAX = 60.0  # a question that is refused for now is asked again for that long
AGAIN_AFTER_S = 1.0
AGAIN = (429, 502, 503, 504)
SWITCH_S_MAX = 900.0
LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class _Precisions:
    """What a model's chats can have: `now` without a change."""

    model: str
    live: bool
    now: tuple[int, ...]


async def run(context: Context) -> JobResult:
    """Args: BotTestArgs. Result: how many questions were right at each KV bits; the report is kept apart.

    Raises JobFailed, Cancelled.
    """
    args = BotTestArgs.model_validate(context.job.args)
    questions = (await BotTestStore(context.connection).questions(args.bot)).questions
    if not questions:
        raise JobFailed(f"{args.bot} has no test set.")
    precisions = await _precisions(context, args.bot)
    async with _asker(context, args.bot) as asker, _home(context, precisions, args.switch) as home:
        wanted = sorted(set(args.bits), key=lambda bits: (bits != home, -bits))  # the present ones save a restart
        left_out: dict[int, str] = {}
        verdicts: dict[str, list[Verdict]] = {question.id: [] for question in questions}
        for number, bits in enumerate(wanted):
            if (why := await _ready_at(context, precisions, bits, args.switch)) is not None:
                left_out[bits] = why
                continue
            for place, question in enumerate(questions):
                done = (number + place / len(questions)) / len(wanted)
                await context.report(done, f"asking at {bits} bits: {place + 1} of {len(questions)}")
                verdicts[question.id].append(await asker.verdict(question, bits))
    tried = tuple(sorted((bits for bits in wanted if bits not in left_out), reverse=True))
    if not tried:
        raise JobFailed(" ".join(left_out.values()))
    report = BotTestReport(
        job=context.job.id,
        bot=args.bot,
        at_s=context.clock(),
        bits=tried,
        left_out=left_out,
        questions=tuple(
            JudgedQuestion(
                question=question, verdicts=tuple(sorted(verdicts[question.id], key=lambda each: -each.bits))
            )
            for question in questions
        ),
    )
    await BotTestStore(context.connection).keep(report)
    return {
        "bot": args.bot,
        "questions": len(questions),
        "right": {str(bits): report.right(bits) for bits in tried},
        "differ": sum(judged.differs for judged in report.questions),
        "left_out": {str(bits): why for bits, why in left_out.items()},
    }


async def _precisions(context: Context, bot: str) -> _Precisions:
    tenant, _, name = bot.partition("/")
    config = (await read_registry(context.connection)).bot(tenant, name)
    if config is None:
        raise JobFailed(f"There is no bot {bot}.")
    seen = (await SubmissionClient(context.connection).engines()).get(config.model)
    if seen is None:
        raise JobFailed(f"The model {config.model} has not come up yet.")
    most = int(seen.facts.kv_bits)
    if not seen.facts.live_kv_bits:
        return _Precisions(config.model, False, (most,))
    return _Precisions(
        config.model, True, tuple(int(bits) for bits in seen.facts.kv_bytes_per_token if int(bits) <= most)
    )


@asynccontextmanager
async def _home(context: Context, precisions: _Precisions, switch: bool) -> AsyncIterator[int]:
    """The KV bits that the model has outside of the run, and again in the end, unless another attempt goes on."""
    home = max(precisions.now)
    if not switch or precisions.live:
        yield home
        return
    home, ours = await BotTestStore(context.connection).first_bits(context.job.id, home), True
    try:
        yield home
    except (asyncio.CancelledError, Fenced, QueueUnavailable):
        ours = False
        raise
    finally:
        if ours and await _bits_now(context, precisions.model) != home:
            await _switch(context, precisions.model, home)


async def _bits_now(context: Context, model: str) -> int:
    seen = (await SubmissionClient(context.connection).engines()).get(model)
    return int(seen.facts.kv_bits) if seen is not None else 0


async def _ready_at(context: Context, precisions: _Precisions, bits: int, switch: bool) -> str | None:
    """Have the model hold these KV bits. Returns why it does not."""
    model = precisions.model
    if precisions.live:
        held = ", ".join(map(str, sorted(precisions.now)))
        return None if bits in precisions.now else f"{model} holds KV at {held} bits now."
    if (now := await _bits_now(context, model)) == bits:
        return None
    if not switch:
        return f"{model} holds KV at {now} bits; a run that may switch the model tries others."
    await context.report(0.0, f"changing {model} to {bits} bits")
    return await _switch(context, model, bits)


async def _switch(context: Context, model: str, bits: int) -> str | None:
    """Change the model by a job, with no chat lost. Returns why it was not changed."""
    jobs, until_s = Jobs(context.connection), context.clock() + SWITCH_S_MAX
    job = None
    while context.clock() < until_s:
        if job is None:
            try:
                job = await jobs.create(
                    "kv_bits",
                    model,
                    {"bits": bits},
                    by=context.job.id,
                    now_s=context.clock(),
                    lock=lock_of_model(model),
                )
            except Locked:
                job = None
        elif (now := await jobs.get(job.id)) is None or not now.open:
            good = now is not None and now.state is JobState.SUCCEEDED
            return None if good else (now.error if now else None) or f"{model} was not changed to {bits} bits."
        await asyncio.sleep(LOOK_S)
    return f"{model} was not changed to {bits} bits within {SWITCH_S_MAX:.0f} s."


@dataclass(frozen=True, slots=True)
class _Asker:
    http: httpx.AsyncClient
    path: str

    async def verdict(self, question: BotQuestion, bits: int) -> Verdict:
        """Ask all turns of a question, and judge the last answer."""
        messages: list[dict[str, str]] = []
        answer: TrialAnswer | None = None
        for text in question.ask:
            messages.append({"role": "user", "content": text})
            found = await self._ask(messages, bits)
            if isinstance(found, str):
                return Verdict(bits=bits, wrong=(f"no answer: {found}",))
            answer = found
            messages.append({"role": "assistant", "content": answer.text})
        if answer is None:
            return Verdict(bits=bits, wrong=("no answer",))
        patterns = patterns_of(question)
        matches = dict(zip(patterns, await found_in(answer.text, patterns), strict=True))
        return Verdict(bits=bits, wrong=tuple(wrong_of(question, answer, matches)), answer=answer)

    async def _ask(self, messages: Sequence[dict[str, str]], bits: int) -> TrialAnswer | str:
        """The answer, or why there is none."""
        until_s = asyncio.get_running_loop().time() + AGAIN_S_MAX
        while True:
            try:
                answer = await self.http.post(self.path, json={"messages": messages, "kv_bits": bits})
                if answer.is_success:
                    return TrialAnswer.model_validate_json(answer.content)
                why, again = _words(answer), answer.status_code in AGAIN
            except httpx.HTTPError as error:
                why, again = f"the gateway does not answer ({type(error).__name__})", True
            if not again or asyncio.get_running_loop().time() > until_s:
                return why
            await asyncio.sleep(AGAIN_AFTER_S)


def _words(answer: httpx.Response) -> str:
    try:
        return str(orjson.loads(answer.content)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the gateway answered {answer.status_code}"


@asynccontextmanager
async def _asker(context: Context, bot: str) -> AsyncIterator[_Asker]:
    base = gateway_url(context.runtime.config.gateway).removesuffix("/v1")
    headers = {"authorization": f"Bearer {context.runtime.secrets.admin_key}"}
    async with httpx.AsyncClient(base_url=base, headers=headers, timeout=ANSWER_S_MAX, trust_env=False) as http:
        yield _Asker(http, f"/admin/v1/bots/{bot}/try")


async def found_in(text: str, patterns: Sequence[str]) -> list[bool | None]:
    """Whether each pattern matches; None for all where one takes longer than PATTERNS_S_MAX."""
    if not patterns:
        return []
    program = [sys.executable, "-I", str(Path(pattern_search.__file__))]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*program, stdin=pipe, stdout=pipe)
    try:
        async with asyncio.timeout(PATTERNS_S_MAX):
            said, _ = await process.communicate(orjson.dumps({"text": text, "patterns": list(patterns)}))
    except TimeoutError:
        return [None] * len(patterns)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    found: list[bool | None] = orjson.loads(said) if process.returncode == 0 else [None] * len(patterns)
    return found
