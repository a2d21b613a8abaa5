"""Manifests against the schemas of the APIs that take them, as strictly as `--validate=strict` of a cluster."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


class Schemas:
    """The kinds that the files of a folder define: OpenAPI v3 of Kubernetes, and CustomResourceDefinitions.

    Rules in CEL are not looked at.
    """

    def __init__(self, folder: Path) -> None:
        self._named: dict[str, dict[str, Any]] = {}
        self._kinds: dict[tuple[str, str], dict[str, Any]] = {}
        for path in sorted(folder.glob("*.json")):
            for name, schema in json.loads(path.read_text())["components"]["schemas"].items():
                self._named[name] = schema
                for one in schema.get("x-kubernetes-group-version-kind", []):
                    self._kinds[f"{one['group']}/{one['version']}".lstrip("/"), one["kind"]] = schema
        for path in sorted(folder.glob("*.yaml")):
            definition = yaml.safe_load(path.read_text())["spec"]
            for version in definition["versions"]:
                key = f"{definition['group']}/{version['name']}", definition["names"]["kind"]
                self._kinds[key] = version["schema"]["openAPIV3Schema"]

    def faults(self, manifest: Mapping[str, Any]) -> list[str]:
        """Return what a cluster would refuse a manifest for, with the place of each."""
        schema = self._kinds.get((manifest["apiVersion"], manifest["kind"]))
        if schema is None:
            return [f"no schema has {manifest['apiVersion']} {manifest['kind']}"]
        faults = list(self._check(manifest, schema, ""))
        if schema["properties"]["metadata"] == {"type": "object"}:  # a CRD leaves it to the cluster
            meta = self._named["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"]
            faults += self._check(manifest["metadata"], meta, ".metadata")
        return faults

    def _check(self, value: Any, schema: Mapping[str, Any], where: str) -> Iterator[str]:
        if "$ref" in schema:
            schema = self._named[schema["$ref"].rpartition("/")[2]]
        if schema.get("x-kubernetes-int-or-string") or schema.get("format") == "int-or-string":
            if type(value) not in (int, str):
                yield f"{where}: {value!r} is neither a number nor text"
            return
        for one in schema.get("allOf") or []:
            yield from self._check(value, one, where)
        for choice in ("oneOf", "anyOf"):
            # In a CRD these say more of an object whose properties stand beside them, so not all that it may have.
            tried = [list(self._check(value, {**one, "x-part": True}, where)) for one in schema.get(choice) or []]
            if tried and all(tried):
                yield f"{where}: none of {len(tried)} alternatives fits: {tried[0][0]}"
        kind = schema.get("type")
        if kind and (not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")):
            yield f"{where}: {value!r} is no {kind}"
            return
        if "enum" in schema and value not in schema["enum"]:
            yield f"{where}: {value!r} is none of {schema['enum']}"
        if isinstance(value, str):
            yield from self._text(value, schema, where)
        if isinstance(value, list):
            if len(value) < schema.get("minItems", 0):
                yield f"{where}: too few"
            for number, item in enumerate(value):
                yield from self._check(item, schema.get("items", {}), f"{where}[{number}]")
        if isinstance(value, dict):
            yield from self._object(value, schema, where)
        if isinstance(value, int) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
            yield f"{where}: {value} is out of range"

    def _text(self, value: str, schema: Mapping[str, Any], where: str) -> Iterator[str]:
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield f"{where}: {value!r} does not match {schema['pattern']}"
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
            yield f"{where}: {value!r} is too short or too long"

    def _object(self, value: Mapping[str, Any], schema: Mapping[str, Any], where: str) -> Iterator[str]:
        for name in schema.get("required", []):
            if name not in value:
                yield f"{where}.{name}: missing"
        properties, others = schema.get("properties"), schema.get("additionalProperties")
        for name, item in value.items():
            if properties and name in properties:
                inner = {**properties[name], "x-part": True} if schema.get("x-part") else properties[name]
                yield from self._check(item, inner, f"{where}.{name}")
            elif isinstance(others, dict):
                yield from self._check(item, others, f"{where}.{name}")
            elif properties and not (schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("x-part")):
                yield f"{where}.{name}: no such field"
