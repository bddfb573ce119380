"""The webhook's answer, body to body."""

import json

from quietcore import manifest

VMI = {
    "apiVersion": "kubevirt.io/v1",
    "kind": "VirtualMachineInstance",
    "metadata": {"name": "vm1"},
    "spec": {"domain": {"devices": {}, "memory": {"guest": "64Mi"}, "cpu": {"isolateEmulatorThread": True}}},
}


def review(vmi, **request):
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {"uid": "u-1", "operation": "CREATE", "object": vmi} | request,
    }


def without_cpu():
    return VMI | {"spec": {"domain": {"devices": {}, "memory": {"guest": "64Mi"}}}}


def test_a_good_vmi_is_allowed():
    assert manifest.admission_review(json.dumps(review(without_cpu())).encode()) == {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": {"uid": "u-1", "allowed": True},
    }


def test_a_broken_rule_is_answered_as_kubevirt_answers_it():
    message = "IsolateEmulatorThread should be only set in combination with DedicatedCPUPlacement"
    assert manifest.admission_review(review(VMI))["response"] == {
        "uid": "u-1",
        "allowed": False,
        "status": {
            "metadata": {},
            "message": message,
            "reason": "Invalid",
            "details": {"causes": [{"reason": "FieldValueInvalid", "message": message, "field": "spec.domain.cpu.isolateEmulatorThread"}]},
            "code": 422,
        },
    }


def test_warnings_are_passed_on():
    vmi = without_cpu()
    vmi["spec"]["evictionStrategy"] = "LiveMigrate"
    answer = manifest.admission_review(review(vmi))["response"]
    assert answer == {
        "uid": "u-1",
        "allowed": True,
        "warnings": ["spec.evictionStrategy: ignored: a host is not drained; VMs with dedicated CPUs are never migrated"],
    }


def test_a_deletion_is_not_examined():
    assert manifest.admission_review(review(None, operation="DELETE"))["response"] == {"uid": "u-1", "allowed": True}


def test_bodies_that_are_no_review_are_answered_with_400():
    for body in (b"{", b"[]", b"{}", b"\xff", '{"request": 1}', "[" * 100_000):
        answer = manifest.admission_review(body)
        assert (answer["response"]["allowed"], answer["response"]["status"]["code"]) == (False, 400), body


def test_others_supply_what_the_vm_refers_to():
    vm = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": "vm1"},
        "spec": {"runStrategy": "Always", "instancetype": {"name": "one"}, "template": {"spec": {"domain": {"devices": {}}}}},
    }
    one = """{apiVersion: instancetype.kubevirt.io/v1beta1, kind: VirtualMachineClusterInstancetype, metadata: {name: one},
              spec: {cpu: {guest: 1}, memory: {guest: 1Gi}}}"""
    others = [manifest.SourceText(file="one.yaml", text=one)]
    assert manifest.admission_review(review(vm))["response"]["allowed"] is False
    assert manifest.admission_review(review(vm), others=others)["response"] == {"uid": "u-1", "allowed": True}
