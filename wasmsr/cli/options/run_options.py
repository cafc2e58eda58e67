"""`wasmsr run`: its options, one row each, and what they mean together.

`quick` or `run_command` read a command line by these rows; `launch` carries it out.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from wasmsr.cli import programs
from wasmsr.cli.options.usage import UsageError
from wasmsr.record import record, replaced
from wasmsr.runspec.kinds import (
    Choice,
    Count,
    Flag,
    Folder,
    NodeIds,
    OptionKind,
    RepeatedChoice,
    Seconds,
    Size,
    SwappedFolders,
    WritableFile,
)
from wasmsr.runspec.run_spec import RunSpec, option_kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wasmsr.wasi.state.tree_restore import OnChanged

HELP = """Runs PROGRAM: a .wasm or .wat file, or one of the packaged programs

\b
{programs}

Options can be before or after PROGRAM. The first argument after PROGRAM that is no option, or `--`,
ends them; every argument from there on belongs to the program.

\b
  wasmsr run fib --trace                        trace it
  wasmsr run python.wasm -c 'print(1)'          -c is python's
  wasmsr run app.wasm --dir data -- --trace     --trace is app's
  wasmsr run lib.wasm --invoke add 2 3 -- -v    -v is lib's own, add gets 2 and 3
  wasmsr run app.wasm --snapshot-after 2        after 2 seconds save in snapshot.bin, and stop
  wasmsr run app.wasm --from-snapshot snapshot.bin        ... and continue
  wasmsr run fib --hop 1000 20                  saved and restored every 1,000 instructions

Ctrl-C and SIGTERM end the program; a second Ctrl-C ends it at once. SIGUSR1 saves a snapshot, and
the program continues (kill -USR1 PID). Seconds and instructions count from this start or resume.

Each option is also a variable, WASMSR_FUEL for --fuel. `wasmsr --help` lists the exit codes."""


@record(frozen=True)
class OptionRow:
    """One option of `run`.

    Attributes:
        name: The option, with its dashes.
        field: The field of `RunOptions` that it sets.
        metavar: The name of its value, for help.
        help: What it does, for help.
        default: Its default as text, or None.
        own: The kind of its value, for an option that is not a field of `RunSpec`.
    """

    name: str
    field: str
    metavar: str
    help: str
    default: str | None = None
    own: OptionKind | None = None

    @property
    def type(self) -> OptionKind:
        """The kind of the value; the description of a run has the kinds of its fields."""
        return self.own or option_kind(self.name)


def variable(name: str) -> str:
    """Return the environment variable that is the same as an option: WASMSR_FUEL for --fuel."""
    return "WASMSR_" + name.removeprefix("--").replace("-", "_").upper()


FLAG = Flag()
TEXT = OptionKind()
TIERS = ("interpreter", "native", "auto")  # as in interp/tier.py, whose import would take time
WRITTEN = WritableFile()

SHORTEST_LEASE, LONGEST_LEASE = 0.5, 86_400
"""Seconds that a lease can have."""

ONLY_LEASED = ("checkpoint_store", "failover", "policy", "output", "unfenced", "state_dir")
"""Fields that mean nothing without a lease."""

CHECKPOINT_SECONDS = 5.0
"""Seconds between checkpoints of a leased program, if the user names none."""

ROWS = (
    OptionRow("--invoke", "invoke", "NAME",
        "Call this export; ARGS are typed by its signature, up "
        "to a --. Default: _start, which has them as text."),
    OptionRow("--arg", "arg", "TEXT",
        "An argument of the program itself, before those in ARGS; every argument after -- is one "
        "too. Repeatable."),
    OptionRow("--dir", "dirs", "HOST[::GUEST[::MODE]]",
        "Let the program use the folder HOST, by the name GUEST (default: HOST). MODE says what "
        "becomes of its files: host (default), ro, carry, overlay, or mem without HOST; a .zip or "
        ".tar file is a folder to be read. Repeatable."),
    OptionRow("--mapdir", "mapdirs", "GUEST::HOST",
        "The same as --dir HOST::GUEST.", own=SwappedFolders()),
    OptionRow("--preload", "preload", "NAME=FILE",
        "Instantiate this module first; later ones, and the program, import from it by NAME. "
        "A saved program needs the same files again, or --embed-module. Repeatable."),
    OptionRow("--carry-limit", "carry_limit", "SIZE",
        "Most that folders in memory, and files in snapshots, may hold. Default: 1GiB."),
    OptionRow("--env", "env", "K=V",
        "Set an environment variable of the program; it has no others of itself. Repeatable."),
    OptionRow("--inherit-env", "inherit_env", "",
        "Give the program all variables of this command but those of wasmsr; --env overrides."),
    OptionRow("--stdin", "stdin", "FILE",
        "The program's standard input. Default: ours; with --interactive an empty one."),
    OptionRow("--tcp-listen", "tcp_listen", "ADDR:PORT",
        "Let the program accept connections there; PORT 0: any. Repeatable."),
    OptionRow("--remote-memory", "remote_memory", "NAME=URL",
        "Let the program open a memory of `wasmsr memory`, tcp://HOST:PORT. Repeatable."),
    OptionRow("--stdout", "stdout", "FILE",
        "Where its standard output goes. Default: ours."),
    OptionRow("--stderr", "stderr", "FILE",
        "Where its standard error goes. Default: ours."),
    OptionRow("--max-memory", "max_memory", "SIZE",
        "Limit of each memory: 65536, 512M, 1GiB."),
    OptionRow("--fuel", "fuel", "N", "After N instructions end with exit code 121."),
    OptionRow("--timeout", "timeout", "SECONDS",
        "End it after this time, with exit code 121."),
    OptionRow("--features", "features", "-NAME,+NAME",
        "Refuse modules that need these features of WebAssembly, or take them."),
    OptionRow("--core", "core", "",
        "PROGRAM is a component: run the core module in it, if that needs WASI preview 1 only."),
    OptionRow("--module-cache", "module_cache", "FOLDER|off",
        "Where it is noted which modules are valid, so that large ones start sooner.", own=TEXT),
    OptionRow("--deterministic", "deterministic", "",
        "Canonical NaNs, and clocks and random numbers that repeat."),
    OptionRow("--tier", "tier", "interpreter|native|auto",
        "Run in the interpreter; or make native code too, where this machine allows it: native of "
        "each function at its first call, auto of those that run often, in the background. The "
        "results and snapshots are the same.", "interpreter", own=Choice(*TIERS)),
    OptionRow("--code-budget", "code_budget", "SIZE",
        "Make at most so much native code; the rest runs in the interpreter. Default: 256M.",
        own=Size()),
    OptionRow("--perf-map", "perf_map", "",
        "At the end, write the names of native functions to /tmp/perf-PID.map, for `perf report`.",
        own=FLAG),
    OptionRow("--trace", "trace", "", "Print every instruction, on standard error.", own=FLAG),
    OptionRow("--trace-state", "trace_state", "",
        "The same with operands, locals and changed globals.", own=FLAG),
    OptionRow("--trace-file", "trace_file", "FILE", "Print the trace there.", own=WRITTEN),
    OptionRow("--snapshot-after", "after", "SECONDS", "Save after this time, and stop."),
    OptionRow("--snapshot-at", "at", "N", "Save after exactly N instructions, and stop."),
    OptionRow("--snapshot-every", "every", "SECONDS",
        "Save again and again; the program continues."),
    OptionRow("--checkpoint-dir", "checkpoint_dir", "FOLDER",
        "With --snapshot-every: write checkpoints there, one whole and then what changed, while "
        "the program runs on."),
    OptionRow("--keep", "keep", "N", "How many checkpoints stay in the folder.", "3"),
    OptionRow("--merge-after", "merge_after", "N",
        "After how many checkpoints of changes older ones are merged.", "16"),
    OptionRow("--snapshot-file", "snapshot_file", "FILE",
        "Where snapshots go. {n} in it is the next free number, {time} the moment; - is standard "
        "output. A file that is no snapshot is never overwritten.", "snapshot.bin"),
    OptionRow("--force", "force", "", "Overwrite a snapshot of another program."),
    OptionRow("--embed-module", "embed_module", "",
        "Put the module into snapshots, so that PROGRAM can be left out on resume; where it is "
        "left out the module stays in them."),
    OptionRow("--sign-with", "sign_with", "KEY",
        "Sign snapshots and checkpoints. KEY is a FILE, env:NAME for a variable, or fd:N for an "
        "open descriptor."),
    OptionRow("--encrypt-with", "encrypt_with", "KEY", "Encrypt snapshots and checkpoints."),
    OptionRow("--keep-running", "keep_running", "",
        "Continue after --snapshot-after or --snapshot-at."),
    OptionRow("--stop", "stop", "", "Stop after it, with exit code 120: the default.", own=FLAG),
    OptionRow("--snapshot-on-interrupt", "on_interrupt", "",
        "Save before Ctrl-C, SIGTERM or --timeout ends the program."),
    OptionRow("--interactive", "interactive", "",
        "Read keys: s saves, r calls the export again, q quits. Through a pipe too.", own=FLAG),
    OptionRow("--from-snapshot", "from_snapshot", "FILE",
        "Continue a saved program: a snapshot, or the last checkpoint of a folder. Give folders "
        "again, with --dir."),
    OptionRow("--decrypt-with", "decrypt_with", "KEY",
        "The key of an encrypted snapshot. The key of --encrypt-with is tried too."),
    OptionRow("--require-signature", "require_signature", "KEY",
        "Continue only what one of these public keys has signed, each checkpoint of a chain."),
    OptionRow("--forks", "forks", "N",
        "With --from-snapshot: run N forks of the saved program, each line of their output with "
        "the fork's number in front. {fork} in the names of --stdin, --stdout and --stderr is the "
        "number.", own=Count(1)),
    OptionRow("--on-changed", "on_changed", "WHAT",
        "On resume, what to do with files that were written since: refuse (error), leave them "
        "(keep), or undo it (truncate, the default)."),
    OptionRow("--adopt", "adopt", "",
        "Take over a program whose state was handed to a host that is gone for good."),
    OptionRow("--lease", "lease", "SECONDS",
        "Run the program under a lease of so many seconds: if this host is lost, another continues "
        "it from its last checkpoint. Needs --checkpoint-dir. Default with --register: 10.",
        own=Seconds()),
    OptionRow("--register", "register", "FILE|URL",
        "With a lease: the register that says who may run the program. A FILE is for one host; "
        "http://HOST:PORT is an etcd (several with commas). Default: a file of the user's own.",
        own=TEXT),
    OptionRow("--checkpoint-store", "checkpoint_store", "DIR|URL",
        "With a lease: put each checkpoint into this store of snapshots too (a folder, or "
        "s3://BUCKET/PREFIX), from which hosts without the folder take the program over.",
        own=TEXT),
    OptionRow("--failover", "failover", "NODE",
        "With a lease: a node that may take the program over; `wasmsr ownership node` prints its "
        "id. Repeatable.", own=NodeIds()),
    OptionRow("--policy", "policy", "WHAT",
        "With a lease: what happens when the owner is lost: continue from the last checkpoint "
        "(restore, the default), begin again (restart), or end the program (fail).",
        own=Choice("restore", "restart", "fail")),
    OptionRow("--output", "output", "live|commit",
        "With a lease: show output at once (live, the default; after a crash some comes again), or "
        "hold it back until the next checkpoint (commit).", own=Choice("live", "commit")),
    OptionRow("--unfenced", "unfenced", "WHAT",
        "With a lease: allow an effect that a lost owner could still have: files below a mount of "
        "mode host or carry (host), connections (listen), or output to files (streams). "
        "Repeatable.", own=RepeatedChoice("host", "listen", "streams")),
    OptionRow("--take-over", "take_over", "ID",
        "Continue the leased program ID here, as soon as its lease has ended or its owner has "
        "given it back. The first digits of an id suffice.", own=TEXT),
    OptionRow("--state-dir", "state_dir", "FOLDER",
        "With a lease: where this host keeps its node id, and what belongs to its leased programs. "
        "Default: the user's.", own=Folder()),
    OptionRow("--hop", "hop", "N",
        "Capture, encode, decode and restore in place every N instructions."),
    OptionRow("--strict", "strict", "",
        "Every argument after PROGRAM belongs to the program, as with other runtimes.", own=FLAG),
    OptionRow("--timings", "timings", "",
        "Print how long capture, encode, write, read, decode and restore took.", own=FLAG),
    OptionRow("--json", "json", "",
        "Print one object at the end that says how it ended; results are in it.", own=FLAG),
    OptionRow("--json-file", "json_file", "FILE",
        "Write that object there; standard output is the program's alone.", own=WRITTEN),
)  # fmt: skip


@record
class RunOptions:
    """The values of `ROWS`, PROGRAM and ARGS; `dashes` says whether a `--` was before ARGS."""

    program: str | None
    args: tuple[str, ...]
    invoke: str | None
    arg: tuple[str, ...]
    dirs: tuple[str, ...]
    mapdirs: tuple[str, ...]
    preload: tuple[str, ...]
    carry_limit: int | None
    env: tuple[str, ...]
    inherit_env: bool
    stdin: str | None
    tcp_listen: tuple[str, ...]
    remote_memory: tuple[str, ...]
    stdout: str | None
    stderr: str | None
    max_memory: int | None
    fuel: int | None
    timeout: float | None
    features: str | None
    core: bool
    module_cache: str | None
    deterministic: bool
    tier: str
    code_budget: int | None
    perf_map: bool
    trace: bool
    trace_state: bool
    trace_file: str | None
    after: float | None
    at: int | None
    every: float | None
    checkpoint_dir: str | None
    keep: int
    merge_after: int
    snapshot_file: str
    force: bool
    embed_module: bool
    sign_with: str | None
    encrypt_with: str | None
    keep_running: bool
    stop: bool
    on_interrupt: bool
    interactive: bool
    from_snapshot: str | None
    decrypt_with: str | None
    require_signature: str | None
    forks: int | None
    on_changed: OnChanged | None
    adopt: bool
    lease: float | None
    register: str | None
    checkpoint_store: str | None
    failover: tuple[str, ...]
    policy: str | None
    output: str | None
    unfenced: tuple[str, ...]
    take_over: str | None
    state_dir: str | None
    hop: int | None
    strict: bool
    timings: bool
    json: bool
    json_file: str | None
    dashes: bool = False

    def settle(self, typed: Collection[str]) -> None:
        """Resolve what options mean together; `typed` names the fields that were typed and not
        set by variables. Raises UsageError where they contradict."""
        self._only_one(typed, ("after", "at", "every"))
        self._only_one(typed, ("keep_running", "stop"))
        if "register" not in typed and self.lease is None and self.take_over is None:
            self.register = None  # a variable names the register, and does not ask for a lease
        self._check_lease(typed)
        if self.program is None and self.from_snapshot is None and self.take_over is None:
            names = " | ".join(programs.PROGRAMS)
            raise UsageError(f"PROGRAM is missing: a .wasm or .wat file, or {names}.")
        if self.stop and self.every is not None:
            raise UsageError("--snapshot-every never stops; --snapshot-after does.")
        if self.checkpoint_dir is not None and self.every is None:
            raise UsageError("--checkpoint-dir needs --snapshot-every SECONDS.")
        if self.adopt and self.from_snapshot is None:
            raise UsageError("--adopt belongs to --from-snapshot.")
        if self.forks is not None:
            self._check_forks()
        if self.take_over is not None and (self.args or self.arg) and self.program is None:
            raise UsageError("ARGS need PROGRAM.")
        if self.from_snapshot is not None:
            if (self.args or self.arg) and self.invoke is None:
                more = f" There is no option {word}." if (word := self._dashed) else ""
                raise UsageError(f"A saved program has its arguments already.{more}")
            if (self.env and "env" in typed) or (self.inherit_env and "inherit_env" in typed):
                raise UsageError("A saved program has its environment already.")
        if self.json and self.snapshot_file == "-":
            raise UsageError("--json and --snapshot-file - would be mixed; take --json-file FILE.")
        self.dirs = (*self.dirs, *self.mapdirs)
        self.trace = self.trace or self.trace_state or self.trace_file is not None

    @property
    def leased(self) -> bool:
        """Whether the program runs under a lease."""
        return any(one is not None for one in (self.lease, self.register, self.take_over))

    def _check_lease(self, typed: Collection[str]) -> None:
        """Refuse what a program under a lease cannot have, and what only such a program has."""
        if not self.leased:
            for row in ROWS:
                if row.field in ONLY_LEASED and row.field in typed:
                    raise UsageError(f"{row.name} is for programs under a lease: add --lease.")
            return
        without = ("invoke", "after", "at", "force", "on_interrupt", "keep_running", "interactive",
            "trace", "trace_state", "trace_file", "hop", "forks", "timings", "timeout", "core",
            "adopt", "stop")  # fmt: skip
        for row in ROWS:
            if row.field in without and row.field in typed:
                raise UsageError(f"{row.name} cannot be used for a program under a lease.")
            if row.field in without:
                setattr(self, row.field, None if row.type.name != "flag" else False)
        if self.lease is not None and not SHORTEST_LEASE <= self.lease <= LONGEST_LEASE:
            raise UsageError(
                f"--lease must be between {SHORTEST_LEASE} and {LONGEST_LEASE:,} seconds."
            )
        if self.take_over is None:
            if self.checkpoint_dir is None:
                raise UsageError("A program under a lease needs --checkpoint-dir FOLDER.")
        else:
            for row in ROWS:
                if row.field in ("from_snapshot", "failover", "policy") and row.field in typed:
                    raise UsageError(f"{row.name} cannot be used with --take-over.")
            self.from_snapshot, self.failover, self.policy = None, (), None
        if self.every is None:
            self.every = CHECKPOINT_SECONDS

    def _check_forks(self) -> None:
        """Refuse what belongs to one program only."""
        if self.from_snapshot is None:
            raise UsageError("--forks belongs to --from-snapshot.")
        alone = ("after", "at", "every", "on_interrupt", "interactive", "trace", "trace_state",
            "trace_file", "hop", "tcp_listen", "timings", "preload",
            "remote_memory")  # fmt: skip
        for row in ROWS:
            if row.field in alone and getattr(self, row.field):
                raise UsageError(f"{row.name} is for one program; it cannot be used with --forks.")

    def spec(self) -> RunSpec:
        """Return the description of the run; the rest is what the command does with it."""
        from_options = {row.name[2:]: getattr(self, row.field) for row in ROWS}
        spec = RunSpec.from_options(from_options)
        return replaced(spec, program=self.program, args=tuple(self.args))

    @property
    def _dashed(self) -> str:
        """The first of ARGS, if it looks like an option."""
        word = self.args[0] if self.args else ""
        return word if word.startswith("--") and not self.dashes else ""

    def _only_one(self, typed: Collection[str], fields: Sequence[str]) -> None:
        """Of options that exclude each other, what is typed wins over what a variable says."""
        given = [name for name in fields if getattr(self, name) not in (None, False)]
        mine = [name for name in given if name in typed]
        if len(given) < 2:
            return
        if len(mine) != 1:
            names = [row.name for row in ROWS if row.field in (mine or given)]
            raise UsageError(f"{' and '.join(names)} exclude each other.")
        for name in given:
            if name not in mine:
                setattr(self, name, False if name in ("keep_running", "stop") else None)
