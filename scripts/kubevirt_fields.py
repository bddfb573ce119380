"""Write src/quietcore/manifest/kubevirt.fields from KubeVirt's own description of its API.

Usage, with a clone of kubevirt/kubevirt: python scripts/kubevirt_fields.py CLONE/api/openapi-spec/swagger.json "kubevirt/kubevirt VERSION"
"""

import json
import sys
from pathlib import Path

ROOTS = (
    "v1.VirtualMachine",
    "v1.VirtualMachineInstance",
    "v1.KubeVirt",
    "v1beta1.VirtualMachineInstancetype",
    "v1beta1.VirtualMachineClusterInstancetype",
    "v1beta1.VirtualMachinePreference",
    "v1beta1.VirtualMachineClusterPreference",
)
UNSIGNED = {  # uint32 in the Go source, which the swagger file calls int64
    "CPU.cores", "CPU.sockets", "CPU.threads", "CPU.maxSockets", "DiskIOThreads.supplementalPoolThreadCount", "CPUInstancetype.guest",
    "CPUInstancetype.maxSockets", "SpreadOptions.ratio", "VirtualMachinePreferenceSpec.preferSpreadSocketToCoreRatio",
    "CPUPreferenceRequirement.guest", "LiveUpdateConfiguration.maxCpuSockets", "LiveUpdateConfiguration.maxHotplugRatio",
}  # fmt: skip
SPECIAL = {"Quantity": "quantity", "Time": "time", "MicroTime": "time", "Duration": "string", "FieldsV1": "any", "IntOrString": "intstr"}
OPAQUE = {"status", "managedFields"}
RENAMED = {  # two packages use one name
    "v1beta1.DataVolumeSource": "DataVolumeImport",
    "k8s.io.api.core.v1.PersistentVolumeClaimVolumeSource": "CoreVolumeClaim",
}


def short(reference: str) -> str:
    full = reference.rsplit("/", 1)[-1]
    return RENAMED.get(full, full.rsplit(".", 1)[-1])


def token(schema: dict[str, object], owner: str) -> str:
    if "$ref" in schema:
        name = short(str(schema["$ref"]))
        return SPECIAL.get(name, name)
    kind = schema.get("type")
    if kind == "array":
        return "[]" + token(schema["items"], owner)  # type: ignore[arg-type]  # swagger: always an object here
    if "additionalProperties" in schema:
        return "{}" + token(schema["additionalProperties"], owner)  # type: ignore[arg-type]  # likewise
    if isinstance(kind, list):
        return "intstr" if "number" in kind else "time"
    if kind == "integer":
        return "count" if owner in UNSIGNED else "integer"
    return str(kind) if kind in {"string", "boolean", "number"} else "any"


def main() -> None:
    definitions = json.loads(Path(sys.argv[1]).read_text())["definitions"]
    print(f"# Every field that KubeVirt knows below the kinds that are read here. Facts from {sys.argv[2]}, api/openapi-spec/swagger.json;")
    print("# written by scripts/kubevirt_fields.py. A type's name stands in the first column, its fields are indented: name, ! if it is")
    print("# required, its type. [] is a list, {} a map from text; count is an integer that is not negative.")
    todo, seen = list(ROOTS), {}
    while todo:
        full = todo.pop(0)
        name = short(full)
        if name in seen:
            if seen[name] != full:
                raise SystemExit(f"two types are called {name}: {full}, {seen[name]}")
            continue
        seen[name] = full
        required = set(definitions[full].get("required", ()))
        print(name)
        for field, schema in sorted(definitions[full].get("properties", {}).items()):
            kind = "any" if field in OPAQUE else token(schema, f"{name}.{field}")
            print(f" {field}{'!' if field in required else ''} {kind}")
            if field not in OPAQUE:
                inner = schema
                while "$ref" not in inner and ("items" in inner or "additionalProperties" in inner):
                    inner = inner.get("items") or inner["additionalProperties"]
                if "$ref" in inner and short(inner["$ref"]) not in SPECIAL:
                    todo.append(inner["$ref"].rsplit("/", 1)[-1])


if __name__ == "__main__":
    main()
