"""What a fault means: the row is asked again, the row fails, or the run stops. Decided by status and code."""

from distillgen.errors import (
    CredentialsRefused,
    DistillgenError,
    ModelMissing,
    QuotaSpent,
    RequestsRefused,
    RowFailed,
    TeacherUnavailable,
)
from distillgen.teacher.asking import Fault

TRANSIENT = {408, 409, 425, 429}  # and everything from 500 on
QUOTA_CODES = {"insufficient_quota", "insufficient_balance", "billing_hard_limit_reached", "insufficient_credits"}
MODERATION_CODES = {"content_policy_violation", "content_filter", "moderation", "moderation_blocked"}
MODERATION_WORDS = ("moderation", "content policy", "content_policy", "flagged")
KEPT_REPLY_BYTES = 2_000


def verdict(fault: Fault, teacher: str, model: str) -> DistillgenError | RowFailed | None:
    """Return the error that stops the run, the failed row, or None to ask again."""
    if fault.kind == "oversize":
        return row_failed("oversize", fault, lasting=True)
    if fault.kind != "status":
        return None
    if fault.status == 401:
        return CredentialsRefused(
            f"{teacher} refused the key: {fault.words}",
            fix="check the key; `distillgen doctor` shows where it is read from",
        )
    if fault.status == 402 or fault.code in QUOTA_CODES:
        return QuotaSpent(
            f"{teacher} says that credit or quota is used up: {fault.words}",
            fix="top up and run the same command again; every answer so far is kept",
        )
    if fault.status == 403:
        if _is_moderation(fault):
            return row_failed("moderation", fault, lasting=True)
        return CredentialsRefused(f"{teacher} forbids this: {fault.words}", fix="check what the key may do")
    if fault.status in (404, 405):
        return ModelMissing(
            f"{teacher} does not have {model!r} at this address: {fault.status} {fault.words}",
            fix="check `model` and `base_url` (up to and with /v1); `distillgen doctor` lists what the endpoint has",
        )
    if fault.status in TRANSIENT or fault.status >= 500:
        return None
    if 300 <= fault.status < 400:
        return TeacherUnavailable(f"{teacher}: {fault.words}", fix="put the final address into `base_url`")
    return row_failed(f"refused_{fault.status}", fault, lasting=True)


def web_page(fault: Fault, teacher: str) -> RequestsRefused | None:
    """Return what to say of a server that has pages for people at this address, None when it has not."""
    if fault.kind != "malformed" or fault.body.lstrip()[:1] != b"<":
        return None
    return RequestsRefused(
        f"{teacher} answers with a web page, not with completions: {fault.words}",
        fix="check `base_url`: it is the address of the API, up to and with /v1",
    )


def _is_moderation(fault: Fault) -> bool:
    body = fault.body[:5_000].decode("utf-8", "replace").lower()
    return fault.code in MODERATION_CODES or any(word in body for word in MODERATION_WORDS)


def row_failed(cause: str, fault: Fault, *, lasting: bool, attempts: int = 1, why: str = "") -> RowFailed:
    """Return the failure of a row, with what the server said last."""
    last = fault.body[:KEPT_REPLY_BYTES].decode("utf-8", "replace")
    detail = fault.words if lasting else f"{fault} (after {attempts} attempts{why})"
    return RowFailed(cause, detail, lasting=lasting, attempts=attempts, last_reply=last)
