"""The loop inside a Python guest: it reads requests, executes code, and tells what came of it.

The host gives this file to the guest as `-c`. It runs there, in the CPython of the guest, and never
in the host's process. A request is a line of JSON on standard input. An answer is `MARK`, JSON and
a line feed on standard output; all other bytes of standard output are the code's own.
"""

from __future__ import annotations

import _thread
import ast
import base64
import builtins
import codeop
import contextlib
import importlib
import io
import json
import linecache
import os
import signal
import sys
import traceback
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MARK = "\x1ewasmsr:"
OWN = "<wasmsr>"
FORKED = (int(signal.SIGUSR1),)
"""The argument of a pushed `interrupt_main` in a fork that stands in the middle of a call."""
RICH = (
    ("text/html", "_repr_html_"),
    ("image/png", "_repr_png_"),
    ("image/svg+xml", "_repr_svg_"),
    ("text/markdown", "_repr_markdown_"),
    ("text/latex", "_repr_latex_"),
)


def encode(value: Any, depth: int = 100) -> Any:
    """Return a value as JSON can hold it; bytes are `{"$bytes": base64}`. Raises TypeError."""
    if depth < 0:
        raise TypeError("the value is nested too deeply")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"$bytes": base64.b64encode(bytes(value)).decode()}
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value) or "$bytes" in value:
            raise TypeError("the keys of a dictionary that is passed on must be strings")
        return {key: encode(one, depth - 1) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(one, depth - 1) for one in value]
    if hasattr(value, "tolist"):
        return encode(value.tolist(), depth - 1)
    raise TypeError(f"a {type(value).__name__} cannot be passed on")


def decode(value: Any) -> Any:
    """Return the value that `encode` made of it."""
    if isinstance(value, dict):
        if set(value) == {"$bytes"}:
            return base64.b64decode(value["$bytes"])
        return {key: decode(one) for key, one in value.items()}
    return [decode(one) for one in value] if isinstance(value, list) else value


class ToolError(RuntimeError):
    """A function of the host has failed."""


class Driver:
    """The loop, and the namespace in which code is executed."""

    def __init__(self) -> None:
        self.rest = b""
        self.busy = self.stopped = False
        self.main = types.ModuleType("__main__")
        self.space = self.main.__dict__
        self.tools = types.ModuleType("tools", "Functions of the host.")

    # ---- the wire ----

    def send(self, **answer: Any) -> None:
        """Send an answer, after all output of the code."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # the code may have put anything there
                stream.flush()
        data = (MARK + json.dumps(answer) + "\n").encode("utf-8", "surrogatepass")
        while data:
            data = data[os.write(1, data) :]

    def receive(self) -> dict[str, Any]:
        """Return the next request; what concerns all of the guest is done here."""
        while True:
            while b"\n" not in self.rest:
                self.rest += os.read(0, 1 << 16)
            line, _, self.rest = self.rest.partition(b"\n")
            request: dict[str, Any] = json.loads(line)
            if request["op"] == "forked":
                reseed()
            else:
                return request

    def ask(self, **question: Any) -> Any:
        """Ask the host, and return its answer. Raises ToolError, EOFError, KeyboardInterrupt."""
        mark = os.urandom(8).hex()
        self.send(id=mark, **question)
        while True:
            answer = self.receive()
            if answer["op"] == "answer" and answer["id"] == mark:
                break
        failure = answer.get("failure")
        if failure == "cancelled":
            raise KeyboardInterrupt
        if failure is not None:
            raise (EOFError if question["k"] == "input" else ToolError)(failure)
        return decode(answer.get("value"))

    # ---- what code finds ----

    def prepare(self) -> None:
        """Put the guest's own things where code looks for them."""
        sys.modules["__main__"] = self.main
        sys.modules["tools"] = self.tools
        self.space.update(__builtins__=builtins, tools=self.tools)
        vars(builtins).update(display=self.display, input=self.input)
        signal.signal(signal.SIGINT, self.stop)
        signal.signal(signal.SIGUSR1, lambda *_: reseed())
        sys.argv[:] = [""]
        sys.meta_path.insert(0, FigureFinder(self))
        os.environ.setdefault("MPLBACKEND", "module://wasmsr_figures")
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
        self.run({"code": "1/0"})  # so that the first failure of a sandbox need not import

    def stop(self, *_: Any) -> None:
        """End the code that runs, as Ctrl-C does."""
        self.stopped = True
        if self.busy:
            raise KeyboardInterrupt

    def input(self, prompt: object = "", /) -> str:
        """Read a line from whoever runs the sandbox."""
        return str(self.ask(k="input", prompt=str(prompt), password=False))

    def display(self, *objects: object) -> None:
        """Show objects in their richest form."""
        for one in objects:
            self.send(k="show", data=rich(one))

    def setup(self, request: dict[str, Any]) -> None:
        """Take over the tools and the environment of this sandbox."""
        os.environ.update(request.get("env") or {})
        for one in request.get("tools") or ():
            setattr(self.tools, one["name"], self.tool(one))

    def tool(self, about: dict[str, Any]) -> Any:
        """Return the function by which code calls a tool."""
        name, names = about["name"], about["parameters"]

        def call(*given: Any, **named: Any) -> Any:
            if len(given) > len(names):
                raise TypeError(f"{name}() takes {len(names)} arguments, not {len(given)}")
            arguments = dict(zip(names, given, strict=False))
            if arguments.keys() & named.keys() or named.keys() - set(names):
                raise TypeError(f"{name}() takes the arguments {', '.join(names)}")
            return self.ask(k="tool", name=name, arguments=encode({**arguments, **named}))

        call.__name__ = call.__qualname__ = name
        call.__doc__ = about["doc"]
        return call

    # ---- what is asked of the guest ----

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Execute code; the value of a last expression is an answer."""
        code, name = request["code"], request.get("filename") or "<input>"
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        value: dict[str, Any] | None = None
        try:
            tree = ast.parse(code, name)
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            self.busy = True
            if self.stopped:  # before it began
                raise KeyboardInterrupt
            exec(compile(tree, name, "exec"), self.space)
            if last is not None:
                found = eval(compile(ast.Expression(last.value), name, "eval"), self.space)
                if found is not None and not request.get("silent"):
                    self.space["_"] = found
                    value = rich(found)
            figures(self)
            self.busy = False
        except BaseException as error:  # noqa: BLE001 (SystemExit ends the code, not the guest)
            self.busy = False
            return {"error": failure(error)}
        return {"value": value}

    def complete(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return what a name can go on with."""
        import rlcompleter

        code, cursor = request["code"], request["cursor"]
        start = cursor
        while start and (code[start - 1].isalnum() or code[start - 1] in "_."):
            start -= 1
        word = code[start:cursor]
        found: list[str] = []
        if word:
            helper = rlcompleter.Completer(self.space)
            while len(found) < 500:
                one = helper.complete(word, len(found))
                if one is None:
                    break
                found.append(one)
        unique = sorted({one.rstrip("( ") for one in found})
        return {"matches": unique, "start": start, "end": cursor}

    def inspect(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return what is known of the name at the cursor."""
        import inspect

        code, start = request["code"], request["cursor"]
        end = start
        while start and (code[start - 1].isalnum() or code[start - 1] in "_."):
            start -= 1
        while end < len(code) and (code[end].isalnum() or code[end] == "_"):
            end += 1
        try:
            found: Any = None
            for place, part in enumerate(code[start:end].split(".")):
                if place:
                    found = getattr(found, part)
                else:
                    found = self.space[part] if part in self.space else getattr(builtins, part)
        except (AttributeError, KeyError):
            return {"found": None}
        lines = [f"Type: {type(found).__name__}"]
        try:
            lines.append(f"Signature: {code[start:end]}{inspect.signature(found)}")
        except (TypeError, ValueError):
            lines.append(f"Value: {rich(found)['text/plain'][:1000]}")
        lines.append(inspect.getdoc(found) or "")
        return {"found": {"text/plain": "\n".join(lines).rstrip()}}

    def is_complete(self, request: dict[str, Any]) -> dict[str, Any]:
        """Say whether code can be executed as it is."""
        code = request["code"]
        try:
            whole = codeop.compile_command(code, symbol="exec")
        except (SyntaxError, OverflowError, ValueError):
            return {"answer": "invalid", "indent": ""}
        last = code.rpartition("\n")[2]
        if whole is not None and not (last.startswith((" ", "\t")) and "\n" in code):
            return {"answer": "complete", "indent": ""}
        indent = last[: len(last) - len(last.lstrip())]
        return {"answer": "incomplete", "indent": indent + " " * 4 * last.rstrip().endswith(":")}

    def put(self, request: dict[str, Any]) -> dict[str, Any]:
        """Write a file."""
        folder = os.path.dirname(request["path"]) or "."
        if not os.path.isdir(folder):  # makedirs asks for "/", which WASI does not have
            os.makedirs(folder, exist_ok=True)
        with open(request["path"], "wb") as file:
            file.write(decode(request["data"]))
        return {}

    def get(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the bytes of a file."""
        with open(request["path"], "rb") as file:
            return {"data": encode(file.read())}

    def list(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the files below a folder."""
        found = [
            os.path.join(folder, name)
            for folder, _, names in os.walk(request["path"])
            for name in names
        ]
        return {"names": sorted(found)}

    def loop(self) -> None:
        """Answer requests, for ever."""
        self.prepare()
        about = {"interrupt": id(_thread.interrupt_main), "none": id(()), "forked": id(FORKED)}
        self.send(k="ready", about=about)
        while True:
            request = self.receive()
            if request["op"] == "answer":  # of a question that was cancelled
                continue
            if request["op"] == "setup":
                self.setup(request)
                continue
            try:
                answer = getattr(self, request["op"])(request)
            except BaseException as error:  # noqa: BLE001 (what is asked may go wrong in any way)
                answer = {"error": failure(error)}
            self.send(k="done", **answer)
            self.stopped = False


class FigureFinder:
    """Finds the backend by which matplotlib shows figures as answers."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return how to make the backend."""
        if name != "wasmsr_figures":
            return None
        from importlib.machinery import ModuleSpec

        return ModuleSpec(name, self)  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> None:
        """Leave it to the machinery."""

    def exec_module(self, module: Any) -> None:
        """Make the backend."""
        agg = importlib.import_module("matplotlib.backends.backend_agg")
        module.FigureCanvas = agg.FigureCanvasAgg
        module.show = lambda *_, **__: figures(self.driver)


def figures(driver: Driver) -> None:
    """Show and close the figures that are open."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return
    for number in pyplot.get_fignums():
        figure = pyplot.figure(number)
        driver.send(k="show", data=rich(figure))
        pyplot.close(figure)


def rich(found: Any) -> dict[str, Any]:
    """Return an object by MIME type; bytes are encoded."""
    data: dict[str, Any] = {"text/plain": repr(found)}
    kind = type(found)
    if kind.__name__ == "Figure" and kind.__module__ == "matplotlib.figure":
        file = io.BytesIO()
        found.savefig(file, format="png", bbox_inches="tight", metadata={"Software": None})
        data["image/png"] = encode(file.getvalue())
    if isinstance(found, type):  # its methods are those of its objects
        return data
    try:
        bundle = found._repr_mimebundle_(include=None, exclude=None)
        for mime, made in (bundle[0] if isinstance(bundle, tuple) else bundle).items():
            if isinstance(made, (str, bytes)):
                data.setdefault(mime, encode(made))
    except Exception:  # noqa: BLE001 (then the object has no such form, as in the loop)
        pass
    for mime, method in RICH:
        if mime in data:
            continue
        try:
            made = getattr(found, method)()
        except Exception:  # noqa: BLE001
            continue
        if isinstance(made, (str, bytes)):
            data[mime] = encode(made)
    return data


def failure(error: BaseException) -> dict[str, Any]:
    """Return an exception as text, without the frames of this file."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in (OWN, "<string>"):
        trace = trace.tb_next
    try:
        shown = traceback.TracebackException(type(error), error, trace)
        for frame in [one for one in shown.stack if one.filename == "<string>"]:
            shown.stack.remove(frame)
        if isinstance(error, SyntaxError) and len(shown.stack) == 1:
            shown.stack.clear()  # the parser's own frame
        text = "".join(shown.format())
        message = str(error)
    except BaseException:  # noqa: BLE001 (the exception's own `__str__` may fail)
        text = message = type(error).__name__
    number = error.errno if isinstance(error, OSError) else None
    number = number if type(number) is int else None
    return {
        "type": type(error).__name__,
        "message": message,
        "traceback": text,
        "errno": number,
    }


def reseed() -> None:
    """Make what is random in this process its own, after a fork."""
    import random
    import tempfile
    import uuid

    random.seed()
    tempfile._name_sequence = None  # type: ignore[attr-defined]
    for name in ("_node", "_last_timestamp", "_last_timestamp_v7"):
        if hasattr(uuid, name):
            setattr(uuid, name, None)
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        numpy.seed()


if __name__ == "__main__":
    Driver().loop()
