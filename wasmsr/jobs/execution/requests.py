"""What an executor is asked for, and what it answers, as plain records."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from wasmsr.errors import printable
from wasmsr.jobs.description.job import (
    Constraint,
    Network,
    OnLoss,
    OutputMode,
    Resources,
    WasmEngine,
)
from wasmsr.jobs.failures import JobError

RETURNED = 2048
"""Bytes of each stream that a result has by itself."""

KEPT = 1 << 30
"""Bytes of each stream that a file of results has at most, unless a request says otherwise."""

LARGEST_KEPT = 1 << 40
"""Bytes of output that a limit can be at most."""

LONGEST_SPAN = 366 * 86400
"""Seconds of a time-out at most."""

_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@+=,-]{0,199}")

ExecutionState = Literal["starting", "running", "paused", "ended", "failed", "cancelled", "left"]
"""What an execution does. The last four are final here: it came to its end, it could not, somebody
ended it, or its executor was ended (`leave`) and another one goes on with it."""


@dataclass(frozen=True)
class ExecutionInput:
    """A file or folder of the host that the program reads.

    Attributes:
        source: Where it is on the host.
        target: Where the program finds it, or the bare name of a module.
        read_only: Whether the program cannot change it; False is only for a folder.
    """

    source: str
    target: str
    read_only: bool = True


@dataclass(frozen=True)
class ExecutionOutput:
    """A folder that the program writes.

    Attributes:
        name: Its name in the results.
        path: Where the program finds it; it also finds it at `/name`.
    """

    name: str
    path: str


@dataclass(frozen=True)
class OutputLimits:
    """Bytes of output: of the files of results, and in the result itself."""

    stdout_file: int = KEPT
    stdout_returned: int = RETURNED
    stderr_file: int = KEPT
    stderr_returned: int = RETURNED


@dataclass(frozen=True)
class ExecutionRequest:
    """What to run, with what, and where its results go.

    Attributes:
        execution_id: Its id: letters, digits and `_.:@+=,-`, at most 200.
        engine: The program.
        job_id: The job that it belongs to, or "".
        resources: What it may use.
        network: What it may reach. A program has no calls for it.
        inputs: What it reads.
        outputs: What it writes.
        execution_dir: Its folder on the host; "" makes one. The results are in `results` there.
        env: Its variables, and no others.
        output_limits: How much of its output is kept.
        timeout: Seconds after which it is ended; None for no limit.
        snapshot_every: Seconds between two checkpoints; None writes none.
        on_loss: What becomes of it when its worker process is lost: "fail", "restart" from the
            beginning, or "restore" from the last checkpoint.
        output: "live", or "commit": the log shows output when a checkpoint has it, and the rest at
            the end. So no reader sees what is taken back. It needs "restore".
        constraints: Conditions that its server must meet. An executor of one machine has no choice.
        server: The address of the server that has to run it; "" for any.
    """

    execution_id: str
    engine: WasmEngine
    job_id: str = ""
    resources: Resources = field(default_factory=Resources)
    network: Network = field(default_factory=Network)
    inputs: tuple[ExecutionInput, ...] = ()
    outputs: tuple[ExecutionOutput, ...] = ()
    execution_dir: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    output_limits: OutputLimits = OutputLimits()
    timeout: float | None = None
    snapshot_every: float | None = None
    on_loss: OnLoss = "fail"
    output: OutputMode = "live"
    constraints: tuple[Constraint, ...] = ()
    server: str = ""

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> ExecutionRequest:
        """Return the request that plain data gives; `as_dict` is the way back.

        Names are those of the attributes. `engine` has the names of a job file (EntryModule,
        Entrypoint, Parameters, ImportModules), `network` is {"type", "domains"}.

        Raises:
            JobError: SpecError; something is missing, unknown or of the wrong type.
        """
        values = dict(given)
        try:
            values["engine"] = read_engine(values.get("engine", {}))
            values["inputs"] = _all(values.get("inputs"), ExecutionInput)
            values["outputs"] = _all(values.get("outputs"), ExecutionOutput)
            values["constraints"] = tuple(
                replace(one, values=tuple(one.values))
                for one in _all(values.get("constraints"), Constraint)
            )
            values["resources"] = _one(values.get("resources"), Resources)
            values["output_limits"] = _one(values.get("output_limits"), OutputLimits)
            network = values.get("network")
            if not isinstance(network, Network):
                network = dict(network or {})
                kind, domains = network.pop("type", "None"), network.pop("domains", ())
                values["network"] = Network(kind, tuple(domains), **network)
            values["env"] = dict(values.get("env") or {})
            return cls(**values)
        except (TypeError, ValueError, AttributeError) as error:
            raise JobError("SpecError", f"not a request of an execution: {error}") from None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data that `read` takes."""
        data = asdict(self)
        engine = self.engine
        data["engine"] = {
            "EntryModule": engine.module,
            "Entrypoint": engine.entrypoint,
            "Parameters": list(engine.parameters),
            "ImportModules": list(engine.imports),
        }
        data["network"] = {"type": self.network.kind, "domains": list(self.network.domains)}
        data["env"] = dict(self.env)
        return data


T = TypeVar("T")


def _one(given: Any, kind: type[T]) -> T:
    return given if isinstance(given, kind) else kind(**(given or {}))


def _all(given: Any, kind: type[T]) -> tuple[T, ...]:
    return tuple(_one(one, kind) for one in given or ())


def read_engine(given: Any) -> WasmEngine:
    """Return the program that plain data names, with the keys of a job file."""
    if isinstance(given, WasmEngine):
        return given
    params = dict(given)
    if "Params" in params:
        if params.get("Type", "wasm") != "wasm":
            raise ValueError(f"there is no engine {params['Type']!r}, only wasm")
        params = dict(params["Params"])
    known = ("EntryModule", "Entrypoint", "Parameters", "ImportModules")
    unknown = sorted(params.keys() - set(known))
    if unknown:
        raise ValueError(f"the engine has no {unknown[0]!r}, only {', '.join(known)}")
    entrypoint = params.get("Entrypoint")
    return WasmEngine(
        params.get("EntryModule") or "",
        "_start" if entrypoint is None else entrypoint,
        tuple(params.get("Parameters") or ()),
        tuple(params.get("ImportModules") or ()),
    )


WORDS = 8 << 20
"""Bytes of parameters and variables that a program gets at most, together."""


def check_request(request: ExecutionRequest) -> None:
    """Check that all values of a request are of their kind.

    Raises:
        JobError: SpecError.
    """
    texts = [request.job_id, request.execution_dir, *request.env, *request.env.values()]
    texts += [request.server]
    for condition in request.constraints:
        texts += [condition.key, condition.operator, *condition.values]
    texts += [request.engine.module, request.engine.entrypoint]
    texts += [*request.engine.parameters, *request.engine.imports]
    for one in request.inputs:
        texts += [one.source, one.target]
    for out in request.outputs:
        texts += [out.name, out.path]
    for text in texts:
        if not isinstance(text, str):
            raise _wrong(f"{text!r} is no text")
    limits = request.output_limits
    for name, value in (*vars(limits).items(), ("memory", request.resources.memory or 0)):
        if type(value) is not int:
            raise _wrong(f"{name}: {value!r} is no number of bytes")
    for value in vars(limits).values():
        if not 0 <= value <= LARGEST_KEPT:
            raise _wrong(f"{value} bytes of output cannot be kept: {LARGEST_KEPT} are the most")
    if type(request.resources.disk) is not int and request.resources.disk is not None:
        raise _wrong(f"disk: {request.resources.disk!r} is no number of bytes")
    for name, seconds in (("timeout", request.timeout), ("snapshot_every", request.snapshot_every)):
        if seconds is not None and not (
            isinstance(seconds, (int, float)) and 0 < seconds <= LONGEST_SPAN
        ):
            raise _wrong(
                f"{name}: {seconds!r} is no time of more than 0 and at most {LONGEST_SPAN} s"
            )
    if request.on_loss not in ("fail", "restart", "restore"):
        raise _wrong(f"on_loss: {request.on_loss!r} is none of fail, restart, restore")
    if request.output not in ("live", "commit"):
        raise _wrong(f"output: {request.output!r} is none of live, commit")
    if request.output == "commit" and request.on_loss != "restore":
        raise _wrong("output is held until a checkpoint only if on_loss is restore")
    for name in request.env:
        if not name or "=" in name:
            raise _wrong(f"{printable(name, 80)!r} is no name of a variable")
    words = [*request.engine.parameters, *request.env, *request.env.values()]
    if any("\0" in word for word in words):
        raise _wrong("a parameter or a variable has a zero byte")
    if sum(len(word) for word in words) > WORDS:
        raise _wrong(f"parameters and variables have more than {WORDS} characters")


def _wrong(sentence: str) -> JobError:
    return JobError("SpecError", sentence, hint="docs/jobs.md has the form of a request")


def check_id(execution_id: str) -> None:
    """Check an id, which is also the name of a folder.

    Raises:
        JobError: ExecutorSpecValidationErr; it is none.
    """
    if not isinstance(execution_id, str) or _ID.fullmatch(execution_id) is None:
        raise JobError(
            "ExecutorSpecValidationErr",
            f"{printable(execution_id, 80)!r} cannot be the id of an execution",
            hint="use 1 to 200 letters, digits and _.:@+=,- that begin with a letter or digit",
        )


@dataclass(frozen=True)
class ExecutionResult:
    """How an execution has ended.

    Attributes:
        stdout: The first bytes of what it wrote, as text; the file has all.
        stdout_truncated: Whether it wrote more.
        stderr: The same of its errors.
        stderr_truncated: The same.
        exit_code: 0 to 4294967295, or -1 where the peer says so.
        error: What went wrong, or "".
        timed_out: Whether it ran longer than it may.
    """

    stdout: str = ""
    stdout_truncated: bool = False
    stderr: str = ""
    stderr_truncated: bool = False
    exit_code: int = 0
    error: str = ""
    timed_out: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


@dataclass(frozen=True)
class ExecutionInfo:
    """One execution of a list.

    Attributes:
        execution_id: Its id.
        job_id: Its job.
        state: What it does.
        folder: Its folder on the host.
        worker: The process id of its worker, or None.
        began: When it was started, in seconds of the epoch.
        ended: When it ended, or None.
        saved: When it was last saved, or None.
        losses: How often its worker was lost.
        result: How it has ended, or None.
        server: The address of the node that has it; "" for this machine.
    """

    execution_id: str
    job_id: str
    state: ExecutionState
    folder: str
    worker: int | None = None
    began: float = 0.0
    ended: float | None = None
    saved: float | None = None
    losses: int = 0
    result: ExecutionResult | None = None
    server: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


@dataclass(frozen=True)
class BidResponse:
    """Whether an executor takes an execution, and why."""

    should_bid: bool
    reason: str = ""


@dataclass(frozen=True)
class ExecutionFolder:
    """Where an execution has its files: FOLDER is its `execution_dir`.

    FOLDER/results/            stdout, stderr, exitCode and a folder for each output
    FOLDER/log/                the log of frames and its streams (`executor/output/frames.py`)
    FOLDER/saved/              checkpoints
    FOLDER/work/               what is removed at the end
    """

    path: Path

    @property
    def results(self) -> Path:
        """The results."""
        return self.path / "results"

    @property
    def log(self) -> Path:
        """The log."""
        return self.path / "log"

    @property
    def saved(self) -> Path:
        """Checkpoints."""
        return self.path / "saved"

    @property
    def work(self) -> Path:
        """What is removed at the end."""
        return self.path / "work"

    @property
    def root(self) -> Path:
        """The root folder of the program: input files, and places for the rest."""
        return self.work / "root"


__all__ = [
    "KEPT",
    "RETURNED",
    "BidResponse",
    "ExecutionFolder",
    "ExecutionInfo",
    "ExecutionInput",
    "ExecutionOutput",
    "ExecutionRequest",
    "ExecutionResult",
    "ExecutionState",
    "OutputLimits",
    "check_id",
    "check_request",
    "read_engine",
]
