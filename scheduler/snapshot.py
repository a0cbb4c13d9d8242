"""The scheduler's state in one value, for the dashboard and the metrics. Bytes, seconds, chats."""

from __future__ import annotations

from scheduler.accounting import Accounting
from scheduler.estimates import expected_wait_s
from scheduler.ledger import Account
from scheduler.step_time import StepTimeModel
from scheduler.wait_queue import FlowQueues
from services.contracts.snapshot import DeviceSnapshot, ModelSnapshot, Snapshot


def take(accounting: Accounting, queues: FlowQueues, wanted_models: list[str], now_s: float) -> Snapshot:
    """Read everything; changes nothing."""
    uses = accounting.limits.use.items()
    return Snapshot(
        at_s=now_s,
        models={m: _model(accounting, queues, account, now_s) for m, account in accounting.ledger.accounts.items()},
        waiting=len(queues),
        waiting_per_tenant=dict(queues.per_tenant),
        counters={tenant: key[0] for tenant, key in accounting.counters.keys.items()},
        chats_per_tenant={tenant: use.chats for tenant, use in uses if use.chats},
        kv_bytes_per_tenant={tenant: use.kv_bytes for tenant, use in uses if use.kv_bytes},
        sessions=len(accounting.sessions),
        wanted_models=wanted_models,
        devices={name: _device(accounting, device, now_s) for name, device in accounting.devices.items()},
    )


def _device(accounting: Accounting, device: StepTimeModel, now_s: float) -> DeviceSnapshot:
    report = accounting.ledger.device_reports.get(device.device)
    return DeviceSnapshot(
        device=device.device,
        total_bytes=report.total_bytes if report else None,
        used_bytes=report.used_bytes if report else None,
        drift_bytes=accounting.ledger.device_drift_bytes.get(device.device),
        stale=report is not None and now_s - report.at_s > accounting.settings.telemetry_age_s_max,
        bandwidth_bytes_per_s=accounting.settings.bandwidth_bytes_per_s.get(device.device),
        prefill_backlog_s=device.prefill_backlog_s(now_s),
        sharing=device.sharing.value,
    )


def _model(accounting: Accounting, queues: FlowQueues, account: Account, now_s: float) -> ModelSnapshot:
    model = account.facts.model
    device = accounting.devices[account.facts.device]
    load, flows = device.loads[model], queues.per_model.get(model, {})
    running = len(account.reservations)
    per_s = accounting.service_rate.per_s(model, running)
    wait_s = None if per_s is None else expected_wait_s(per_s, 0, 1.0 / (len(flows) + 1))
    return ModelSnapshot(
        model=model,
        device=account.facts.device,
        state=account.state.value,
        stale=now_s - account.reported_s > accounting.settings.telemetry_age_s_max,
        budget_bytes=account.total_bytes,
        reserved_bytes=account.reserved_bytes,
        reserved_by_bits={str(bits): size for bits, size in sorted(account.by_bits().items())},
        used_bytes=account.report.kv_used_bytes if account.report else 0,
        cached_bytes=account.cached_bytes,
        free_bytes=account.free_bytes,
        withheld_bytes=account.withheld_bytes,
        drift_bytes=account.drift_bytes,
        running=running,
        chats_max=account.facts.chats_max,
        predicted_inter_token_s=device.predicted_s(model, now_s),
        observed_inter_token_s=load.observed_s,
        correction=load.correction,
        prefill_tokens_per_s=load.prefill_tokens_per_s,
        target_unattainable=load.unattainable,
        waiting={tenant: len(flow.waiting) for tenant, flow in flows.items()},
        blocked={tenant: flow.blocked.reason.value for tenant, flow in flows.items() if flow.blocked},
        service_rate_per_s=per_s,
        expected_wait_s=wait_s if flows else 0.0,
        sharing=account.facts.sharing.value,
    )
