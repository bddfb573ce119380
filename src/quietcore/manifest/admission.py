"""The answer of a validating admission webhook, as KubeVirt's own webhooks give it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from quietcore.errors import Problem
from quietcore.manifest.documents import SourceText, problems_and_warnings
from quietcore.model.cluster import KUBEVIRT_DEFAULTS, ClusterConfig

_INVALID: Final = 422
_BAD_REQUEST: Final = 400
_IN_MESSAGE: Final = 10
"""KubeVirt's message names that many causes and counts the rest."""
_CAUSES: Final = {
    "required": "FieldValueRequired",
    "unsupported": "FieldValueNotSupported",
    "duplicate": "FieldValueDuplicate",
    "not-found": "FieldValueNotFound",
}


def admission_review(
    body: bytes | str | Mapping[str, object],
    cluster: ClusterConfig = KUBEVIRT_DEFAULTS,
    others: Sequence[SourceText] = (),
) -> dict[str, object]:
    """Answer an AdmissionReview (admission.k8s.io) about a VirtualMachine or VirtualMachineInstance: the body of the HTTP response.

    `others` are manifests that the VM may refer to (instancetypes, preferences, the KubeVirt resource). The causes carry KubeVirt's
    fields and messages; the response's warnings are ours. A body that is no AdmissionReview is answered with code 400.
    """
    try:
        review = body if isinstance(body, Mapping) else json.loads(body)
    except (ValueError, RecursionError) as error:
        return _answer({}, _refusal(f"the body is not JSON: {error}", _BAD_REQUEST))
    request = review.get("request") if isinstance(review, Mapping) else None
    if not isinstance(request, Mapping):
        return _answer({}, _refusal("the body is no AdmissionReview: request is missing", _BAD_REQUEST))
    if request.get("operation") == "DELETE":
        return _answer(review, {"allowed": True})
    subject = request.get("object")
    try:
        text = json.dumps(subject, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        return _answer(review, _refusal(f"the object is not JSON: {error}", _BAD_REQUEST))
    problems, warnings = problems_and_warnings([*others, SourceText(file="object", text=text)], cluster)
    faults = [problem for problem in problems if problem.file == "object"]
    response: dict[str, object] = _invalid(faults) if faults else {"allowed": True}
    spoken = [f"{one.field}: {one.message}" for one in warnings if one.file == "object"]
    return _answer(review, response | ({"warnings": spoken} if spoken else {}))


def _answer(review: Mapping[str, Any], response: dict[str, object]) -> dict[str, object]:  # Any: JSON that the API server sent
    request = review.get("request")
    uid = request.get("uid", "") if isinstance(request, Mapping) else ""
    return {
        "apiVersion": review.get("apiVersion", "admission.k8s.io/v1"),
        "kind": "AdmissionReview",
        "response": {"uid": uid, **response},
    }


def _refusal(message: str, code: int) -> dict[str, object]:
    return {"allowed": False, "status": {"metadata": {}, "message": message, "code": code}}


def _invalid(faults: Sequence[Problem]) -> dict[str, object]:
    messages = ", ".join(fault.message for fault in faults[:_IN_MESSAGE])
    if len(faults) > _IN_MESSAGE:
        messages += f", and {len(faults) - _IN_MESSAGE} more validation errors"
    causes = [{"reason": _CAUSES.get(fault.code, "FieldValueInvalid"), "message": fault.message, "field": fault.field} for fault in faults]
    status = {"metadata": {}, "message": messages, "reason": "Invalid", "details": {"causes": causes}, "code": _INVALID}
    return {"allowed": False, "status": status}
