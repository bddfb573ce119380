"""Values as text, tables, pictures and JSON. Pure: nothing here knows a terminal; width and colour are handed in."""

from quietcore.render.json import cpu_set, dumps, dumps_yaml, to_json
from quietcore.render.plans import placement_map, plan_text, plans_text
from quietcore.render.tables import describe_text, findings_table, names, table, threads_table, vms_table
from quietcore.render.topology_svg import topology_svg
from quietcore.render.topology_text import topology_text
from quietcore.render.values import CpuUse, Description, DescriptionList, HostMap, PlanList, Printable, Verification

__all__ = [
    "CpuUse",
    "Description",
    "DescriptionList",
    "HostMap",
    "PlanList",
    "Printable",
    "Verification",
    "cpu_set",
    "describe_text",
    "dumps",
    "dumps_yaml",
    "findings_table",
    "names",
    "placement_map",
    "plan_text",
    "plans_text",
    "table",
    "threads_table",
    "to_json",
    "topology_svg",
    "topology_text",
    "vms_table",
]
