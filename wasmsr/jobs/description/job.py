"""The job that a job file describes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from wasmsr.jobs.description.quantities import read_bytes, read_cpu

JobType = Literal["batch", "ops", "daemon", "service"]
OnLoss = Literal["fail", "restart", "restore"]
OutputMode = Literal["live", "commit"]

SNAPSHOT_EVERY: Final = "wasmsr/snapshotEvery"
ON_LOSS: Final = "wasmsr/onLoss"
OUTPUT: Final = "wasmsr/output"

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class InputSource:
    """What goes into a task.

    Attributes:
        kind: A key of `sources.staging.SOURCES`.
        params: What the kind needs, with the keys of the schema.
        target: Its path for the program, or the bare name of a module.
        alias: A name for people, or "".
    """

    kind: str
    params: Mapping[str, Any]
    target: str
    alias: str = ""


@dataclass(frozen=True)
class ResultPath:
    """A folder that comes out of a task.

    Attributes:
        name: Its name in the results.
        path: Its path for the program.
    """

    name: str
    path: str


@dataclass(frozen=True)
class Publisher:
    """Where results go.

    Attributes:
        kind: "local", "s3" or "noop".
        params: What the kind needs.
    """

    kind: str = "local"
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Resources:
    """What a task may use; None is the server's choice.

    Attributes:
        cpu: CPUs.
        memory: Bytes of memory.
        disk: Bytes of disk.
    """

    cpu: float | None = None
    memory: int | None = None
    disk: int | None = None


@dataclass(frozen=True)
class Network:
    """What a task may reach.

    Attributes:
        kind: "None", "Host" or "HTTP".
        domains: Hosts that it may reach by HTTP.
    """

    kind: str = "None"
    domains: tuple[str, ...] = ()


@dataclass(frozen=True)
class Timeouts:
    """How long a task may take, in seconds; 0 for no limit.

    Attributes:
        execution: One execution.
        queue: In the queue.
        total: In all.
    """

    execution: int = 0
    queue: int = 0
    total: int = 0


@dataclass(frozen=True)
class WasmEngine:
    """The program of a task.

    Attributes:
        module: The target of the input that is the module.
        entrypoint: The exported function that is called.
        parameters: Arguments after argument 0, which is empty.
        imports: Targets of inputs from which modules import.
    """

    module: str
    entrypoint: str = "_start"
    parameters: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """What is run; the attributes are the keys of the schema's `task`."""

    engine: WasmEngine
    name: str = "main"
    env: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[InputSource, ...] = ()
    results: tuple[ResultPath, ...] = ()
    publisher: Publisher = Publisher()
    resources: Resources = Resources()
    network: Network = Network()
    timeouts: Timeouts = Timeouts()


@dataclass(frozen=True)
class Constraint:
    """A condition on the labels of a server.

    Attributes:
        key: The label.
        operator: How it is compared, as `CONSTRAINTS` names it.
        values: What it is compared with.
    """

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Return whether a server with these labels meets the condition.

        As in Kubernetes, `!=` and `notin` hold where there is no such label.
        """
        value = labels.get(self.key)
        match self.operator:
            case "=" | "==" | "in":
                return value in self.values
            case "!=" | "notin":
                return value not in self.values
            case "exists":
                return value is not None
            case "!":
                return value is None
        try:
            mine, theirs = int(value or ""), int(self.values[0])
        except ValueError:
            return False
        return mine > theirs if self.operator == "gt" else mine < theirs


@dataclass(frozen=True)
class Job:
    """A job.

    Attributes:
        task: Its one task.
        name: Its name, or "".
        namespace: Its group.
        type: "batch", "ops", "daemon" or "service".
        priority: Jobs with a higher one are started first.
        count: How many executions a batch or service job has.
        constraints: Conditions that a server must meet.
        labels: Words by which it is found.
        meta: Notes.
        snapshot_every: Seconds between two snapshots of an execution, or None.
        on_loss: What becomes of an execution whose server is lost.
        output: When its log shows output: at once, or when a checkpoint has it.
    """

    task: Task
    name: str = ""
    namespace: str = "default"
    type: JobType = "batch"
    priority: int = 0
    count: int = 1
    constraints: tuple[Constraint, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, str] = field(default_factory=dict)
    snapshot_every: float | None = None
    on_loss: OnLoss = "restart"
    output: OutputMode = "live"


def read_span(text: str) -> float:
    """Return the seconds that a text such as "30", "1.5s", "5m" or "1h" gives.

    Raises:
        ValueError: It is no such text, or not above 0 and at most a year.
    """
    text = text.strip()
    unit = text[-1:] if text[-1:] in "smh" else ""
    number = text[: len(text) - len(unit)]
    if not number.replace(".", "", 1).isascii() or not number.replace(".", "", 1).isdigit():
        raise ValueError(f"{text!r} is no time, such as 30, 30s, 5m or 1h")
    seconds = float(number) * _UNITS[unit]
    if not 0 < seconds <= 366 * 86400:
        raise ValueError(f"{text!r} is not more than nothing and at most a year")
    return seconds


def job_from(data: Mapping[str, Any]) -> Job:
    """Return the job that checked data describes; see `job_file.checked`."""
    meta = data.get("Meta", {})
    every = meta.get(SNAPSHOT_EVERY)
    return Job(
        task=_task(data["Tasks"][0]),
        name=data.get("Name", ""),
        namespace=data.get("Namespace", "default"),
        type=data.get("Type", "batch"),
        priority=int(data.get("Priority", 0)),
        count=int(data.get("Count", 1)),
        constraints=tuple(
            Constraint(one["Key"], one["Operator"], tuple(one.get("Values", ())))
            for one in data.get("Constraints", ())
        ),
        labels=dict(data.get("Labels", {})),
        meta=dict(meta),
        snapshot_every=None if every is None else read_span(every),
        on_loss=meta.get(ON_LOSS, "restart"),
        output=meta.get(OUTPUT, "live"),
    )


def _task(data: Mapping[str, Any]) -> Task:
    engine, publisher = data["Engine"]["Params"], data.get("Publisher", {})
    network, timeouts = data.get("Network", {}), data.get("Timeouts", {})
    return Task(
        engine=WasmEngine(
            engine["EntryModule"],
            engine.get("Entrypoint", "_start"),
            tuple(engine.get("Parameters", ())),
            tuple(engine.get("ImportModules", ())),
        ),
        name=data.get("Name", "main"),
        env=dict(data.get("Env", {})),
        meta=dict(data.get("Meta", {})),
        inputs=tuple(
            InputSource(
                one["Source"]["Type"],
                dict(one["Source"]["Params"]),
                one["Target"],
                one.get("Alias", ""),
            )
            for one in data.get("InputSources", ())
        ),
        results=tuple(ResultPath(one["Name"], one["Path"]) for one in data.get("ResultPaths", ())),
        publisher=Publisher(publisher.get("Type", "local"), dict(publisher.get("Params", {}))),
        resources=_resources(data.get("Resources", {})),
        network=Network(network.get("Type", "None"), tuple(network.get("Domains", ()))),
        timeouts=Timeouts(
            *(int(timeouts.get(f"{one}Timeout", 0)) for one in ("Execution", "Queue", "Total"))
        ),
    )


def _resources(data: Mapping[str, str]) -> Resources:
    return Resources(
        read_cpu(data["CPU"]) if data.get("CPU") else None,
        read_bytes(data["Memory"]) if data.get("Memory") else None,
        read_bytes(data["Disk"]) if data.get("Disk") else None,
    )


__all__ = [
    "ON_LOSS",
    "OUTPUT",
    "SNAPSHOT_EVERY",
    "Constraint",
    "InputSource",
    "Job",
    "JobType",
    "Network",
    "OnLoss",
    "OutputMode",
    "Publisher",
    "Resources",
    "ResultPath",
    "Task",
    "Timeouts",
    "WasmEngine",
    "job_from",
    "read_span",
]
