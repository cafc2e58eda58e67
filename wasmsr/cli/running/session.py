"""The main thread's loop while a program runs: signals, keys, timers and the program itself.

`launch` makes the program, and `report` says how it ended (`RunEnding`). The program computes on
its worker thread. The loop sleeps until something happens; it decides when to save and when to end.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress

from wasmsr import errors
from wasmsr.cli.running.terminal import END_CODES, Events, Keyboard
from wasmsr.cli.words.messages import say
from wasmsr.cli.words.units import human_size, human_time
from wasmsr.errors import printable
from wasmsr.interp.outcomes import Exited, Trapped
from wasmsr.program.program import Program
from wasmsr.program.state import ProgramState
from wasmsr.record import record

PATIENCE = 0.05
"""Seconds that an interrupted program has to pause; a longer host call is abandoned."""

PREPARE_AFTER = 1.0
"""Seconds that a program runs before this process prepares to save it. So short programs do not pay
for that."""

KEYS = "keys: r calls {export}, s saves a snapshot, q quits"


@record
class Plan:
    """What to do while the program runs; times in seconds from the start.

    Attributes:
        timeout: When to end.
        after: When to save; `Program.stop_conditions.stop` is the same in instructions.
        every: How often to save.
        keep_running: Whether the program continues after `after` and `stop_conditions.stop`.
        on_interrupt: Whether to save before a signal ends the program.
        save: Writes a snapshot of the paused program; returns the file's name and size in bytes.
        waits: Returns whether `save` may wait for a reader. A signal then ends the wait.
        keyboard: Opens the keys; None if there are none.
        again: Adds the call of the key r to the paused program.
        export: The export that the key r calls, for messages.
        checkpoint: Takes a checkpoint of the paused program, in place of a snapshot at each
            `every`; returns whether it did.
    """

    save: Callable[[], tuple[str, int]]
    waits: Callable[[], bool] = lambda: False
    after: float | None = None
    every: float | None = None
    timeout: float | None = None
    keep_running: bool = False
    on_interrupt: bool = False
    keyboard: Callable[[], Keyboard] | None = None
    again: Callable[[], None] | None = None
    checkpoint: Callable[[], bool] | None = None
    export: str = "_start"


@record
class RunEnding:
    """How a run ended.

    Attributes:
        outcome: "finished", "exited", "trapped", "stopped", "out-of-fuel", "timed-out",
            "interrupted" or "quit".
        exit_code: The exit code of this process.
        snapshots: How many snapshots were written.
        guest_code: The program's argument of `proc_exit`, or None.
        trap: The trap that ended the program, or None.
        signal: The name of the signal that ended the run, or None.
        abandoned: Whether the worker thread still runs. The process must not wait for it.
    """

    outcome: str
    exit_code: int = 0
    snapshots: int = 0
    guest_code: int | None = None
    trap: errors.Trap | None = None
    signal: str | None = None
    abandoned: bool = False


@record
class Timer:
    """When to save: at `due` (`time.monotonic`), and then every `every` seconds."""

    due: float | None = None
    every: float | None = None

    @classmethod
    def after(cls, first: float | None, every: float | None) -> Timer:
        """Return a timer that starts now."""
        wait = first if first is not None else every
        return cls(None if wait is None else time.monotonic() + wait, every)

    def left(self) -> float | None:
        """Return seconds until it is due, at least 0; None if it never is."""
        return None if self.due is None else max(0.0, self.due - time.monotonic())

    def take(self) -> bool:
        """Return whether the timer is due; if so, set it to its next time in the future."""
        now = time.monotonic()
        if self.due is None or now < self.due:
            return False
        if self.every is None:
            self.due = None
        else:
            self.due += self.every * (1 + (now - self.due) // self.every)
        return True


class RunSession:
    """One run of one program. `run` may be called once, in the main thread."""

    def __init__(self, program: Program, plan: Plan, events: Events) -> None:
        self.program = program
        self.plan = plan
        self.events = events
        self.snapshots = 0
        self._ending: RunEnding | None = None
        self._keys: Keyboard | None = None
        self._end = Timer()
        self._preparing = Timer()
        self._reported = ""

    def run(self) -> RunEnding:
        """Run the program to an end of this process's part in it.

        Raises:
            SnapshotError: a snapshot that was to be the end of it cannot be taken or written.
            WasmsrError: the host failed.
        """
        plan = self.plan
        self.program.on_stopped = self.events.wake
        if plan.keyboard is not None:
            self._keys = self.events.keyboard = plan.keyboard()
            say(KEYS.format(export=plan.export))
        if self._saved_within(2 * PREPARE_AFTER):
            self._prepare()
        else:
            self._preparing = Timer.after(PREPARE_AFTER, None)
        timer = Timer.after(plan.after, plan.every)
        self._end = Timer.after(plan.timeout, None)
        if self.program.pending or not self._keys:
            self.program.start()
        while self._ending is None:
            self._look_at_program()
            if self._ending is None:
                timers = (timer, self._end, self._preparing)
                left = [span for one in timers if (span := one.left()) is not None]
                signals, keys = self.events.wait(min(left, default=None))
                self._obey(signals, keys, timer)
                if self._ending is None and self._preparing.take():
                    self._prepare()
        self._ending.snapshots = self.snapshots
        return self._ending

    def _saved_within(self, seconds: float) -> bool:
        """Whether a snapshot may be due that soon: by the time, or by a count of instructions."""
        due = self.plan.after if self.plan.after is not None else self.plan.every
        stop = self.program.stop_conditions.stop
        return stop is not None or (due is not None and due < seconds)

    def _prepare(self) -> None:
        """Do what a snapshot needs and takes long, while the program runs or before it starts."""
        # A program that has used up descriptors or memory runs on. The snapshot tries again.
        with suppress(ImportError, OSError, MemoryError):
            from wasmsr.cli.running import outputs  # only here: it takes a while
            from wasmsr.cli.words import progress
            from wasmsr.snapshot.preload import preload

            assert outputs
            assert progress
            preload(self.program.module)

    def _obey(self, signals: set[int], keys: bytes, timer: Timer) -> None:
        """Do what signals, keys and the timer ask for, in this order."""
        for number in signals & END_CODES.keys():
            name = signal.Signals(number).name
            return self._end_it(RunEnding("interrupted", END_CODES[number], signal=name))
        if self._end.take():
            return self._end_it(RunEnding("timed-out", errors.EXIT_FUEL))
        if signal.SIGUSR1 in signals:
            self._save_and_go_on()
        for key in keys.decode("ascii", "replace"):
            if self._ending is None:
                self._key(key)
        if self._ending is None and timer.take():
            if self.plan.checkpoint is not None:
                self._checkpoint_and_go_on(self.plan.checkpoint)
            elif self.plan.every is not None or self.plan.keep_running:
                self._save_and_go_on()
            else:
                self._save_and_stop()

    def _look_at_program(self) -> None:
        """Decide what follows when the program has stopped by itself."""
        match self.program.state:
            case ProgramState.STOP if self.plan.keep_running:
                self._save_and_go_on()
            case ProgramState.STOP:
                self._save_and_stop()
            case ProgramState.FUEL:
                self._ending = RunEnding("out-of-fuel", errors.EXIT_FUEL)
            case ProgramState.IDLE if self._keys is None or self._keys.ended:
                self._ending = RunEnding("finished")
            case ProgramState.ENDED | ProgramState.FAILED:
                self._ending = ending_of(self.program)
            case _:
                pass

    def _key(self, key: str) -> None:
        """Obey one key of --interactive; other keys, and new lines of a pipe, mean nothing."""
        if key == "q":
            if not self.program.pause(PATIENCE):
                self._ending = RunEnding("quit", abandoned=True)
            else:
                self._ending = RunEnding("quit")
        elif key == "s":
            self._save_and_go_on()
        elif key == "r" and self.plan.again is not None:
            self._while_paused(self.plan.again)
        elif key.isprintable() and not key.isspace():
            say(KEYS.format(export=self.plan.export))

    def _while_paused(self, act: Callable[[], None]) -> None:
        """Do `act` while the program is paused; let it run on if it has not ended."""
        self.program.pause()
        if self.program.state in (ProgramState.ENDED, ProgramState.FAILED, ProgramState.FUEL):
            return
        act()
        # A stop that was reached at this very moment is still to be seen by the loop.
        if self.program.pending and self.program.state is not ProgramState.STOP:
            self.program.start()

    def _save_and_go_on(self) -> None:
        """Save and run on. A snapshot that fails is reported and end nothing."""

        def save() -> None:
            try:
                self._save()
            except (errors.SnapshotError, OSError) as error:
                say(f"no snapshot was saved: {error}", "error")
            if self.program.state is ProgramState.STOP:
                self.program.passed_stop()

        self._while_paused(save)

    def _checkpoint_and_go_on(self, checkpoint: Callable[[], bool]) -> None:
        """Take a checkpoint and continue. A failure is reported and ends nothing."""

        def take() -> None:
            if not self.program.pending and self._keys is None:
                return  # it has finished just now: nothing is left to go on with
            try:
                self.snapshots += checkpoint()
            except (errors.SnapshotError, OSError) as error:
                self._report_once(f"no checkpoint was taken: {error}")

        self._while_paused(take)

    def _report_once(self, sentence: str) -> None:
        """Report what may happen at every checkpoint, but not again and again."""
        if sentence != self._reported:
            self._reported = sentence
            say(sentence, "warning")

    def _save_and_stop(self) -> None:
        """Save and stop. If the program has ended before that, its own end counts."""
        self.program.pause()
        state = self.program.state
        if state in (ProgramState.PAUSED, ProgramState.STOP) or (
            state is ProgramState.IDLE and self._keys is not None
        ):
            self._save()
            self._ending = RunEnding("stopped", errors.EXIT_STOPPED)

    def _end_it(self, ending: RunEnding) -> None:
        """End the run, for example after Ctrl-C; save before that if the options ask for it."""
        self._ending = ending
        if self.plan.on_interrupt:
            self.program.pause()
            if self.program.state in (ProgramState.ENDED, ProgramState.FAILED):
                self._ending = ending_of(self.program)
            else:
                self._save()
        elif not self.program.pause(PATIENCE):
            self._ending.abandoned = True

    def _save(self) -> None:
        """Write a snapshot of the standing program. A signal is put off until it is written; the
        second one ends the process, and what was there before is still there. Where nobody may
        ever read what is written, into a FIFO, the first signal ends it."""
        began = time.perf_counter()
        name, size = self.events.call(self.plan.save, keep=not self.plan.waits())
        self.snapshots += 1
        span = human_time(time.perf_counter() - began)
        say(f"{printable(name)}: {human_size(size)} saved in {span}")


def ending_of(program: Program) -> RunEnding:
    """Return the end of a program that trapped, exited or failed; raises its error in the last
    case."""
    outcome = program.wait()
    if isinstance(outcome, Trapped):
        return RunEnding("trapped", errors.EXIT_TRAP, trap=outcome.trap)
    assert isinstance(outcome, Exited)
    # What a process may give its parent is 8 bits; the whole number is in --json.
    return RunEnding("exited", outcome.code & 0xFF, guest_code=outcome.code)
