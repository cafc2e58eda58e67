"""Folders of elements for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FIRST = """\
#@ type: compute
#@ dependents: [second]
#@ corunning:
#@   numbers: {trans: numbers, type: rdma}

def main(params, action):
    numbers = action.get_transport("numbers", "rdma")
    numbers.reg(1000)
    for at in range(1000):
        numbers.buf[at] = at % 7
    numbers.write(1000, addr=0)
    return {"count": 1000}
"""

SECOND = """\
#@ type: compute
#@ parents: [first]
#@ corunning:
#@   numbers: {trans: numbers, type: rdma}

def main(params, action):
    count = params["first"][0]["count"]
    numbers = action.get_transport("numbers", "rdma")
    numbers.reg(count)
    numbers.read(count, addr=0)
    return {"sum": sum(numbers.buf)}
"""

NUMBERS = """\
type: memory
corunning: [first, second]
limits: {mem: 1 MB}
"""


def steps(folder: Path) -> Path:
    """Two steps and a memory between them; the sum is 2997."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "first.o.py").write_text(FIRST)
    (folder / "second.o.py").write_text(SECOND)
    (folder / "numbers.o.yaml").write_text(NUMBERS)
    return folder


def written(folder: Path, **files: str) -> Path:
    """Write elements: YAML alone is memory; for Python `---` and its source follow."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        said, divided, source = text.partition("\n---\n")
        if divided:
            lines = "".join(f"#@ {line}\n" for line in said.splitlines())
            (folder / f"{name}.o.py").write_text(lines + source)
        else:
            (folder / f"{name}.o.yaml").write_text(text)
    return folder


def as_recorded(folder: Path, dag: dict[str, Any]) -> Path:
    """Write a folder with the relations of a recorded graph and code of our own."""
    import yaml

    function = dag["functions"][0]
    folder = folder / function["name"]
    folder.mkdir(parents=True)
    for one in function["objects"]:
        params = one["porusParams"]
        said: dict[str, Any] = {"type": params["runtimeType"]}
        said |= {key: value for key, value in params["relationships"].items() if value}
        if params["runtimeType"] == "compute" and "corunning" in said:
            said["corunning"] = {
                name: {"trans": name, "type": "rdma"} for name in said["corunning"]
            }
        if "parallelism" in params:
            said["parallelism"] = params["parallelism"]
        if one["limits"]["resources"]["mem"] != "128 MB":
            said["limits"] = {"mem": one["limits"]["resources"]["mem"]}
        text = yaml.safe_dump(said)
        if params["runtimeType"] == "memory":
            (folder / f"{one['name']}.o.yaml").write_text(text)
        else:
            lines = "".join(f"#@ {line}\n" for line in text.splitlines())
            source = "\ndef main(params, action):\n    return {}\n"
            (folder / f"{one['name']}.o.py").write_text(lines + source)
    return folder
