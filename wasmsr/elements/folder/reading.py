"""From a folder to a graph, and from one file to an element.

`NAME.o.py` has YAML in lines that begin with `#@ `; `NAME.o.yaml` is YAML; `NAME.o.wasm` has its
YAML in `NAME.o.yaml` beside it, or in a custom section `wasmsr.element`.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from wasmsr import small_files
from wasmsr.elements.failures import ElementError
from wasmsr.elements.folder.element import CPUS, Element, ElementGraph, ElementLimits
from wasmsr.errors import MissingPackageError, printable, reason

LARGEST = 1 << 28
"""Bytes of a file of an element."""
LARGEST_YAML = 1 << 20
"""Bytes of its YAML."""
LONGEST_NAME = 200
"""Bytes of a name: a file's name has at most 255, and an index is added to it."""
MOST_FILES = 100_000
"""Elements of a folder."""
KEYS = ("type", "corunning", "parents", "dependents", "parallelism", "limits", "import",
        "withMerged", "retries")  # fmt: skip
"""What the YAML of an element may have."""
LIMITS = ("cpu", "mem", "storage")
MARK = "#@ "
SECTION = b"wasmsr.element"
"""Name of the custom section."""


def read_folder(folder: Path) -> tuple[ElementGraph, list[str]]:
    """Return the graph of a folder, and a sentence for each file that is no element.

    Raises:
        ElementError: The folder is not there, or has no elements.
    """
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise ElementError(f"{printable(folder)}: {error.strerror or error}") from error
    files = [name for name in names if is_element(name)]
    if not files:
        raise ElementError(
            f"{printable(folder)} has no elements",
            hint="an element is a file NAME.o.py, NAME.o.yaml or NAME.o.wasm",
        )
    if len(files) > MOST_FILES:
        raise ElementError(f"{printable(folder)} has more than {MOST_FILES} elements")
    wasm = {name.partition(".")[0] for name in files if name.endswith(".o.wasm")}
    elements: list[Element] = []
    faults: list[str] = []
    seen: dict[str, str] = {}
    for name in files:
        bare = name.partition(".")[0]
        if name.endswith(".yaml") and bare in wasm:
            continue  # it belongs to the module
        if bare in seen:
            faults.append(f"{printable(name)}: {printable(seen[bare])} has that name too")
            continue
        seen[bare] = name
        try:
            elements.append(read_element(folder / name))
        except ElementError as error:
            faults.append(error.message)
    return ElementGraph(folder.resolve().name, elements), faults


def is_element(name: str) -> bool:
    """Return whether a file name is that of an element."""
    first, *rest = name.split(".")
    return bool(first) and len(rest) >= 2 and rest[-2] == "o" and rest[-1] in ("py", "yaml", "wasm")


def read_element(path: Path) -> Element:
    """Return the element of a file.

    Raises:
        ElementError: The file cannot be read, or its YAML is wrong.
    """
    name = path.name.partition(".")[0]
    code: str | bytes
    if path.suffix == ".wasm":
        code = _bytes(path)
        beside = path.with_suffix(".yaml")
        if beside.exists():
            said = _yaml(beside.name, _text(beside))
        else:
            said = _yaml(path.name, _section(path.name, code))
    else:
        text = _text(path)
        lines = text.splitlines(keepends=True)
        if path.suffix == ".py":
            # Lines of code become empty lines, so that YAML counts lines as the file does.
            yaml_text = "".join(
                line[len(MARK) :] if line.startswith(MARK) else "\n" for line in lines
            )
            code = "".join(line for line in lines if not line.startswith(MARK))
        else:
            yaml_text, code = text, ""
        said = _yaml(path.name, yaml_text)
    kind = "wasm" if path.suffix == ".wasm" else "python"
    element = element_of(name, said, path.name, kind, code)
    if path.suffix == ".yaml" and not element.is_memory:
        raise ElementError(f"{printable(path.name)}: an element that computes needs a program",
                           hint=f"add {name}.o.py or {name}.o.wasm")  # fmt: skip
    return _with_imports(element, said, path)


def _with_imports(element: Element, said: dict[str, Any], path: Path) -> Element:
    """Put the files of `import` before the code of a Python element."""
    names = _names(said.get("import"), "import", path.name)
    if not names:
        return element
    if element.kind != "python" or not isinstance(element.code, str):
        raise ElementError(f"{printable(path.name)}: import is for elements in Python")
    before = ""
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ElementError(f"{printable(path.name)}: import: {printable(name)} is not below it")
        before += _text(path.parent / name) + "\n"
    from dataclasses import replace

    return replace(element, code=before + element.code)


# ---- from YAML to an element ---------------------------------------------------------------------


def element_of(name: str, said: dict[str, Any], where: str, kind: str,
               code: str | bytes) -> Element:  # fmt: skip
    """Return the element that a map describes.

    Args:
        name: Its name.
        said: The map.
        where: The file, for messages.
        kind: "python" or "wasm".
        code: Its code.

    Raises:
        ElementError: A key is unknown or missing, or a value is of another type.
    """
    shown = printable(where)
    _check_name(name, "the name", shown)
    for key in said:
        if key not in KEYS:
            near = get_close_matches(str(key), KEYS, 1)
            raise ElementError(f"{shown}: unknown key {printable(key)}",
                               hint=f"did you mean {near[0]}?" if near else
                               f"known are {', '.join(KEYS)}")  # fmt: skip
    if "type" not in said:
        raise ElementError(f"{shown}: type is missing", hint="type: compute, or type: memory")
    if said["type"] not in ("compute", "memory"):
        raise ElementError(f"{shown}: type is compute or memory, not {printable(said['type'])}")
    return Element(
        name=name,
        is_memory=said["type"] == "memory",
        corunning=_corunning(said.get("corunning"), shown),
        parents=tuple(_names(said.get("parents"), "parents", shown)),
        dependents=tuple(_names(said.get("dependents"), "dependents", shown)),
        parallelism=_whole(said.get("parallelism"), "parallelism", shown),
        limits=_limits(said.get("limits"), shown),
        merged=tuple(_names(said.get("withMerged"), "withMerged", shown)),
        retries=_whole(said.get("retries"), "retries", shown) or 0,
        kind=kind,
        code=code,
    )


def _check_name(name: str, what: str, where: str) -> None:
    """Check a name that files and the texts of transports will have in them.

    Raises:
        ElementError: It would be another file, or no text of a transport.
    """
    try:
        long = len(name.encode()) > LONGEST_NAME
    except UnicodeEncodeError:
        long = True
    if not name or long or name.startswith(".") or any(char in name for char in "/;,=\0\n"):
        raise ElementError(
            f"{where}: {what} {printable(name, 60)} cannot be used",
            hint=f"a name has 1 to {LONGEST_NAME} bytes, no / ; , = and no . at its beginning",
        )


def _names(found: Any, key: str, where: str) -> list[str]:
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ElementError(f"{where}: {key} is a list of names",
                           hint="a name that is a number needs quotes")  # fmt: skip
    return found


def _corunning(found: Any, where: str) -> dict[str, dict[str, Any]]:
    if isinstance(found, dict):
        for name, how in found.items():
            if not isinstance(name, str) or not isinstance(how, (dict, type(None))):
                raise ElementError(f"{where}: corunning: {printable(name)} has no trans and type")
            trans = (how or {}).get("trans", name)
            if not isinstance(trans, str):
                raise ElementError(f"{where}: corunning: {printable(name)}: trans is a name")
            _check_name(trans, "trans", where)
            kind = (how or {}).get("type", "rdma")
            if kind != "rdma":
                raise ElementError(f"{where}: corunning: {printable(name)}: type is rdma, not "
                                   f"{printable(kind)}")  # fmt: skip
        return {name: how or {} for name, how in found.items()}
    return {name: {} for name in _names(found, "corunning", where)}


def _whole(found: Any, key: str, where: str) -> int | None:
    if found is not None and (not isinstance(found, int) or isinstance(found, bool)):
        raise ElementError(f"{where}: {key} is a whole number, not {printable(found)}")
    return found


def _limits(found: Any, where: str) -> ElementLimits:
    if found is None:
        return ElementLimits()
    if not isinstance(found, dict):
        raise ElementError(f"{where}: limits has cpu, mem and storage")
    for key in found:
        if key not in LIMITS:
            raise ElementError(f"{where}: limits: unknown key {printable(key)}",
                               hint=f"known are {', '.join(LIMITS)}")  # fmt: skip
    cpu = found.get("cpu", CPUS)
    if isinstance(cpu, bool) or not isinstance(cpu, (int, float)):
        raise ElementError(f"{where}: limits: cpu is a number, not {printable(cpu)}")
    texts = {key: str(found[key]) for key in ("mem", "storage") if key in found}
    return ElementLimits(cpu, **texts)


# ---- files ---------------------------------------------------------------------------------------


def _bytes(path: Path) -> bytes:
    try:
        return small_files.read(path, LARGEST)[0]
    except (OSError, ValueError) as error:
        raise ElementError(f"{printable(path.name)}: {reason(error)}") from error


def _text(path: Path) -> str:
    try:
        return _bytes(path).decode()
    except UnicodeDecodeError:
        raise ElementError(f"{printable(path.name)} is no text") from None


def _section(name: str, module: bytes) -> str:
    """Return the text of the custom section of a module."""
    for found, data in _custom_sections(name, module):
        if found == SECTION:
            try:
                return data.decode()
            except UnicodeDecodeError:
                raise ElementError(f"{printable(name)}: its section is no text") from None
    raise ElementError(
        f"{printable(name)}: nothing says what it is",
        hint=f"add {name.removesuffix('.wasm')}.yaml, or a custom section wasmsr.element",
    )


def _custom_sections(name: str, module: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (name, data) of each custom section (WebAssembly specification, section 5.5.3)."""
    at = 8
    if module[:8] != b"\0asm\1\0\0\0":
        raise ElementError(f"{printable(name)} is no WebAssembly module")
    while at < len(module):
        number = module[at]
        size, at = _leb(name, module, at + 1)
        if at + size > len(module):
            raise ElementError(f"{printable(name)} ends in the middle of a section")
        if number == 0:
            length, start = _leb(name, module, at)
            yield module[start : start + length], module[start + length : at + size]
        at += size


def _leb(name: str, module: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(5):
        if at + place >= len(module):
            break
        byte = module[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise ElementError(f"{printable(name)} has a section without a length")


def _yaml(name: str, text: str) -> dict[str, Any]:
    """Return the map that YAML describes; no aliases, no objects.

    Raises:
        ElementError: It is wrong; the message has the line.
    """
    try:
        import yaml
    except ImportError:
        raise MissingPackageError("yaml", "elements", extra="elements") from None

    class Loader(yaml.SafeLoader):
        """Reads plain values only: aliases can stand for more than fits in memory."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                event: Any = self.peek_event()  # type: ignore[no-untyped-call]
                raise yaml.MarkedYAMLError(
                    problem="aliases are not read", problem_mark=event.start_mark
                )
            return super().compose_node(parent, index)

    if len(text) > LARGEST_YAML and text.strip():
        text = "\n".join(line for line in text.split("\n"))
        if len(text.strip()) > LARGEST_YAML:
            raise ElementError(f"{printable(name)}: its YAML has more than {LARGEST_YAML} bytes")
    try:
        said = yaml.load(text, Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise ElementError(f"{printable(name)}{line}: {printable(error.problem)}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ElementError(f"{printable(name)}: {printable(reason(error))}") from None
    if said is None:
        said = {}
    if not isinstance(said, dict):
        raise ElementError(f"{printable(name)}: its YAML is no map of keys and values")
    return said
