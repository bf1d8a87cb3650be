"""The messages of KEDA's externalscaler.proto, made at run time from a table: no generated code to keep.

Names, numbers and types: kedacore/keda, pkg/scalers/externalscaler/externalscaler.proto (package externalscaler, proto3).
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "externalscaler.ExternalScaler"
_PACKAGE = "externalscaler"
_TYPES = descriptor_pb2.FieldDescriptorProto

_MESSAGES: dict[str, tuple[tuple[str, int, str], ...]] = {
    "ScaledObjectRef": (("name", 1, "string"), ("namespace", 2, "string"), ("scalerMetadata", 3, "map")),
    "IsActiveResponse": (("result", 1, "bool"),),
    "MetricSpec": (("metricName", 1, "string"), ("targetSize", 2, "int64"), ("targetSizeFloat", 3, "double")),
    "GetMetricSpecResponse": (("metricSpecs", 1, "*MetricSpec"),),
    "GetMetricsRequest": (("scaledObjectRef", 1, "ScaledObjectRef"), ("metricName", 2, "string")),
    "MetricValue": (("metricName", 1, "string"), ("metricValue", 2, "int64"), ("metricValueFloat", 3, "double")),
    "GetMetricsResponse": (("metricValues", 1, "*MetricValue"),),
}
"""(field, number, type) by message; `*` repeats, `map` is of strings to strings."""


def _made() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="headrace/externalscaler.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            _add(message, field, number, kind)
    pool = descriptor_pool.DescriptorPool()  # its own: user code may bring KEDA's file under the same package
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _MESSAGES}


def _add(message: Any, field: str, number: int, kind: str) -> None:
    label = _TYPES.LABEL_REPEATED if kind.startswith("*") or kind == "map" else _TYPES.LABEL_OPTIONAL
    made = message.field.add(name=field, number=number, label=label)
    if kind == "map":
        entry = message.nested_type.add(name=f"{field[0].upper()}{field[1:]}Entry")
        entry.options.map_entry = True
        _add(entry, "key", 1, "string")
        _add(entry, "value", 2, "string")
        made.type, made.type_name = _TYPES.TYPE_MESSAGE, f".{_PACKAGE}.{message.name}.{entry.name}"
    elif kind.lstrip("*") in _MESSAGES:
        made.type, made.type_name = _TYPES.TYPE_MESSAGE, f".{_PACKAGE}.{kind.lstrip('*')}"
    else:
        made.type = getattr(_TYPES, f"TYPE_{kind.upper()}")


_CLASSES = _made()
ScaledObjectRef: Any = _CLASSES["ScaledObjectRef"]
IsActiveResponse: Any = _CLASSES["IsActiveResponse"]
MetricSpec: Any = _CLASSES["MetricSpec"]
GetMetricSpecResponse: Any = _CLASSES["GetMetricSpecResponse"]
GetMetricsRequest: Any = _CLASSES["GetMetricsRequest"]
MetricValue: Any = _CLASSES["MetricValue"]
GetMetricsResponse: Any = _CLASSES["GetMetricsResponse"]
