"""A job sends a model's worker one command and follows it to its end.

The command has the job's id, so a second attempt finds the first one's command.
"""

from __future__ import annotations

import asyncio

from services.jobs.attempt import Context, JobFailed
from services.store.commands import Command, CommandArgs, Commands, CommandState
from services.store.jobs import Cancelled

POLL_S = 0.1
ANSWER_S_MAX = 180.0  # for a worker to take the command: it may be restarting
BUSY_S_MAX = 600.0  # for the worker's last command to end


async def follow(context: Context, model: str, kind: str, args: CommandArgs) -> Command:
    """The ended command. Raises Cancelled, JobFailed where no worker takes it."""
    commands, job = Commands(context.connection), context.job
    await _send(context, commands, model, Command(job.id, kind, args, at_s=context.clock()))
    asked_s, cancelling = context.clock(), False
    while True:
        command = await commands.read(model)
        if command is None or command.id != job.id:
            raise JobFailed(f"The command to {model} was replaced by another one.")
        if command.ended:
            return command
        if await context.attempt.report_to_end(command.progress, command.words) and not cancelling:
            cancelling = True
            if await commands.withdraw(model, job.id, "cancelled"):
                raise Cancelled
            await commands.cancel(model, job.id)
        late = command.state is CommandState.SENT and context.clock() - asked_s > ANSWER_S_MAX
        if late and await commands.withdraw(model, job.id, "not taken in time"):
            raise JobFailed(f"No worker of {model} took the command within {ANSWER_S_MAX:.0f} s.")
        await asyncio.sleep(POLL_S)


async def _send(context: Context, commands: Commands, model: str, command: Command) -> None:
    asked_s = context.clock()
    while not await commands.send(model, command):
        if context.clock() - asked_s > BUSY_S_MAX:
            raise JobFailed(f"The worker of {model} is busy with another command.")
        await context.report(0.0, "waiting for the worker's last command")
        await asyncio.sleep(POLL_S * 5)
