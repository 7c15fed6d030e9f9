"""Runs a workflow as ComfyUI does with V1 nodes: from the page's form to the API's, checks, then node after node."""

import inspect
from typing import Any

import torch

Prompt = dict[str, dict[str, Any]]
Nodes = dict[str, type]

_CONVERTED = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}


class InvalidWorkflowError(Exception):
    """What ComfyUI answers instead of running a workflow."""


def inputs_of(node: type) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Return a node's inputs in their order, each with its type and its options."""
    types = node.INPUT_TYPES()
    return {name: (entry[0], entry[1] if len(entry) > 1 else {})
            for part in ("required", "optional") for name, entry in types.get(part, {}).items()}


def is_widget(kind: Any, options: dict[str, Any]) -> bool:
    """Tell whether the page gives an input a field of its own, instead of a socket alone."""
    return (isinstance(kind, list) or kind in _CONVERTED) and not options.get("forceInput")


def api_form(workflow: dict[str, Any], nodes: Nodes) -> Prompt:
    """Return a workflow of the page as the page sends it: widgets' values by name, links as [node, output]."""
    links = {link[0]: link for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        inputs, values = {}, list(node.get("widgets_values", []))
        for name, (kind, options) in inputs_of(nodes[node["type"]]).items():
            if is_widget(kind, options):
                if values:  # workflows of older versions have fewer: the page fills in the defaults
                    inputs[name] = values.pop(0)
                elif "default" in options:
                    inputs[name] = options["default"]
                if options.get("control_after_generate") or options.get("image_upload"):
                    values and values.pop(0)
        for entry in node.get("inputs", []):
            if entry.get("link") is not None:
                _, source, output, target, slot, kind = links[entry["link"]]
                assert (target, node["inputs"][slot]) == (node["id"], entry)
                assert kind == entry["type"]
                inputs[entry["name"]] = [str(source), output]
        assert values == [], f"{node['type']} has {len(values)} values that no widget takes"
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def check(prompt: Prompt, nodes: Nodes) -> None:
    """Raise InvalidWorkflowError with all that ComfyUI would find before it runs anything."""
    faults = []
    for key, entry in prompt.items():
        node, given = nodes[entry["class_type"]], entry["inputs"]
        validate = getattr(node, "VALIDATE_INPUTS", None)
        checks_itself = set(inspect.signature(validate).parameters) if validate else set()
        required = node.INPUT_TYPES()["required"]
        for name, (kind, options) in inputs_of(node).items():
            if name not in given:
                faults += [f"{key}: Required input is missing: {name}"] if name in required else []
                continue
            value = given[name]
            if isinstance(value, list):
                source = nodes[prompt[value[0]]["class_type"]]
                if source.RETURN_TYPES[value[1]] != kind:
                    faults.append(f"{key}: Return type mismatch: {name}, {source.RETURN_TYPES[value[1]]} != {kind}")
                continue
            given[name] = value = _CONVERTED[kind](value) if isinstance(kind, str) and kind in _CONVERTED else value
            if name in checks_itself:
                continue
            if not options.get("min", value) <= value <= options.get("max", value):
                faults.append(f"{key}: Value {value} of {name} is out of its bounds")
            if isinstance(kind, list) and value not in kind:
                faults.append(f"{key}: Value not in list: {name}: '{value}' not in {kind}")
        if validate:
            constants = {name: value for name, value in given.items()
                         if name in checks_itself and not isinstance(value, list)}
            answer = validate(**constants)
            if answer is not True:
                faults.append(f"{key}: Custom validation failed: {answer}")
    if faults:
        raise InvalidWorkflowError("\n".join(faults))


def run(prompt: Prompt, nodes: Nodes, cache: dict[str, tuple[Any, Any]] | None = None) -> dict[str, Any]:
    """Check a workflow, then run its output nodes and all that they need; return each node's outputs.

    cache: of an earlier run, what each node was given and what came of it; it is kept where nothing changed.
    """
    check(prompt, nodes)
    cache = {} if cache is None else cache
    results: dict[str, Any] = {}

    def result_of(key: str) -> tuple[Any, Any]:
        """Return what tells a node's inputs from others, and its outputs."""
        if key in results:
            return results[key]
        node = nodes[prompt[key]["class_type"]]
        values, signs = {}, []
        for name, value in prompt[key]["inputs"].items():
            if isinstance(value, list):
                sign, outputs = result_of(value[0])
                values[name] = outputs[value[1]]
                signs.append((name, sign, value[1]))
            else:
                values[name] = value
                signs.append((name, value))
        constants = {name: value for name, value in prompt[key]["inputs"].items() if not isinstance(value, list)}
        changed = node.IS_CHANGED(**constants) if hasattr(node, "IS_CHANGED") else None
        sign = (key, prompt[key]["class_type"], tuple(signs), changed)
        if key not in cache or cache[key][0] != sign:
            hidden = node.INPUT_TYPES().get("hidden", {})
            values |= {name: key for name, what in hidden.items() if what == "UNIQUE_ID"}
            outputs = getattr(node(), node.FUNCTION)(**values)
            assert isinstance(outputs, dict) or len(outputs) == len(node.RETURN_TYPES)
            cache[key] = (sign, outputs)
        results[key] = cache[key]
        return results[key]

    with torch.inference_mode():  # as ComfyUI's executor
        for key in prompt:
            if getattr(nodes[prompt[key]["class_type"]], "OUTPUT_NODE", False):
                result_of(key)
    return {key: outputs for key, (_, outputs) in results.items()}
