"""The prompt of `wasmsr sandbox`: code, and commands that begin with a colon."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from wasmsr.errors import WasmsrError, printable

if TYPE_CHECKING:
    from wasmsr.sandbox.results import SandboxResult, SandboxValue
    from wasmsr.sandbox.sandbox import Sandbox

COMMANDS = """\
:snapshot [NAME]   keep the present state
:rewind NAME       go back to a state that was kept
:snapshots         list them
:fork NAME         make a copy with this name, and go on in it
:use NAME          go on in another copy; the first one is main
:save FILE         write the state to a file; wasmsr sandbox --load FILE goes on
:resume            go on with a call that was interrupted before it was saved
:cancel            end that call
:help              this list
:quit              end (or Ctrl-D)
"""
_LONGEST = 1000
"""Lines of the history that are kept."""


class SandboxPrompt:
    """Reads lines, and runs them in a sandbox.

    Args:
        sandbox: The sandbox.
        read: Returns the next line for a prompt; raises EOFError at the end.
        interactive: Whether a person types: each statement is run when it is complete.
    """

    def __init__(self, sandbox: Sandbox, read: Callable[[str], str], *, interactive: bool) -> None:
        self._copies = {"main": sandbox}
        self._name = "main"
        self._read = read
        self._interactive = interactive
        self._failed = False

    @property
    def sandbox(self) -> Sandbox:
        """The copy in which code runs."""
        return self._copies[self._name]

    def loop(self) -> int:
        """Read and run until the end; return the exit code, 1 if code of a pipe has failed."""
        lines: list[str] = []
        while True:
            try:
                line = self._read("... " if lines else self._title)
            except EOFError:
                if lines:
                    self._run(lines)
                return int(self._failed and not self._interactive)
            except KeyboardInterrupt:
                self._say("")
                lines.clear()
                continue
            if line.startswith(":") and (not lines or not self._interactive):
                self._run(lines)
                if self._failed and not self._interactive:
                    return 1
                goes_on = self._command(line[1:].split(None, 1))
                if not goes_on or (self._failed and not self._interactive):
                    return int(self._failed and not self._interactive)
                continue
            lines.append(line)
            if self._interactive and self._is_whole(lines):
                self._run(lines)

    def close(self) -> None:
        """Close all copies."""
        for one in self._copies.values():
            one.close()

    @property
    def _title(self) -> str:
        return ">>> " if self._name == "main" else f"{self._name} >>> "

    def _is_whole(self, lines: list[str]) -> bool:
        """Whether the lines can be run. A block ends with an empty line, as in Python's prompt."""
        code = "\n".join(lines)
        if not code.strip():
            lines.clear()
            return False
        try:
            return self.sandbox.is_complete(code)[0] != "incomplete"
        except WasmsrError:
            return True  # what is wrong is said when it is run

    def _run(self, lines: list[str]) -> None:
        code = "\n".join(lines)
        lines.clear()
        if code.strip():
            self._drive(lambda told: self.sandbox.run(code, **told))

    def _drive(self, call: Callable[[dict[str, Any]], SandboxResult]) -> None:
        """Make a call on a thread, so that Ctrl-C ends it, and print what came of it."""
        told: dict[str, Any] = {"on_output": self._output, "on_display": self._show}
        if self._interactive:
            told["on_input"] = self._input
        found: list[SandboxResult | BaseException] = []
        ended = threading.Event()

        def work() -> None:
            try:
                found.append(call(told))
            except BaseException as error:  # noqa: BLE001 (it is raised below)
                found.append(error)
            finally:
                ended.set()

        thread = threading.Thread(target=work, name="wasmsr-sandbox")
        thread.start()
        again = False
        while not ended.is_set():
            try:
                ended.wait()  # an interrupted join takes the thread for ended
            except KeyboardInterrupt:
                self.sandbox.cancel(gently=not again)
                again = True
        (result,) = found
        self._failed = True
        if isinstance(result, WasmsrError):
            self._complain(str(result))
        elif isinstance(result, BaseException):
            raise result
        else:
            self._print(result)

    def _print(self, result: SandboxResult) -> None:
        error = result.error
        self._failed = error is not None
        if error is not None:
            shown = error.traceback.rstrip("\n") or f"{error.type}: {error.message}"
            if error.limit is not None and error.message not in shown:
                shown += f"\n{error.type}: {error.message}"
            self._complain(shown)
            if error.rolled_back:
                self._complain("the sandbox is in the state before this call")
        elif result.status == "interrupted":
            self._complain("the call is interrupted: :resume goes on, :cancel ends it")
        elif result.value is not None and self._interactive:
            self._show(result.value)

    def _command(self, words: list[str]) -> bool:
        """Carry out a command; return whether more is read."""
        name, given = words[0] if words else "", words[1].strip() if len(words) > 1 else ""
        if name in ("quit", "exit"):
            return False
        made = getattr(self, f"_do_{name}", None) if name.isidentifier() else None
        self._failed = False
        try:
            if made is None:
                raise WasmsrError(f"there is no command :{printable(name, 40)}", hint=":help")
            made(given)
        except (WasmsrError, OSError) as error:
            self._failed = True
            self._complain(str(error))
        return True

    def _do_help(self, given: str) -> None:
        self._say(COMMANDS.rstrip())

    def _do_snapshot(self, given: str) -> None:
        self._say(f"snapshot {printable(self.sandbox.snapshot(given or None))}")

    def _do_snapshots(self, given: str) -> None:
        for name in self.sandbox.snapshots:
            self._say(printable(name))

    def _do_rewind(self, given: str) -> None:
        self.sandbox.rewind(given)

    def _do_fork(self, given: str) -> None:
        if not given or given in self._copies:
            raise WasmsrError("a copy needs a name that no other has: :fork NAME")
        (self._copies[given],) = self.sandbox.fork(1)
        self._name = given

    def _do_use(self, given: str) -> None:
        if given not in self._copies:
            raise WasmsrError(f"there is no copy {printable(given)!r}: " + ", ".join(self._copies))
        self._name = given

    def _do_save(self, given: str) -> None:
        if not given:
            raise WasmsrError("a file is missing: :save FILE")
        size = self.sandbox.save(given)
        self._say(f"{printable(given)}: {size:,} bytes")

    def _do_resume(self, given: str) -> None:
        self._drive(lambda told: self.sandbox.resume(**told))

    def _do_cancel(self, given: str) -> None:
        result = self.sandbox.cancel()
        if result is not None and result.error is not None:
            self._complain(f"{result.error.type}: {result.error.message}")

    def _output(self, stream: str, text: str) -> None:
        to = sys.stderr if stream == "stderr" else sys.stdout
        to.write(text)
        to.flush()

    def _show(self, value: SandboxValue) -> None:
        self._say(value.text)

    def _input(self, prompt: str, password: bool) -> str:
        if password:
            import getpass

            return getpass.getpass(prompt)
        return self._read(prompt)

    def _say(self, text: str) -> None:
        print(text, flush=True)

    def _complain(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def terminal_reader(prompt: Callable[[], SandboxPrompt]) -> Callable[[str], str]:
    """Return what reads lines of a terminal, with completion and a history, where Python has them.

    Args:
        prompt: Gives the prompt, whose sandbox knows the names.
    """
    try:
        import readline
    except ImportError:  # a Python without it
        return input
    path = history_file()
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        if os.path.exists(path):
            readline.read_history_file(path)
    except OSError:
        pass  # a prompt without a history is of use
    matches: list[str] = []

    def complete(word: str, number: int) -> str | None:
        if number == 0:
            line, end = readline.get_line_buffer(), readline.get_endidx()
            try:
                found = prompt().sandbox.complete(line, end)
            except WasmsrError:
                found = None
            matches[:] = [] if found is None else found.matches
        return matches[number] if number < len(matches) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" \t\n`~!@#$%^&*()-=+[{]}\\|;:'\",<>/?")
    readline.parse_and_bind("tab: complete")
    readline.set_history_length(_LONGEST)

    def read(title: str) -> str:
        line = input(title)
        try:
            readline.write_history_file(path)
            os.chmod(path, 0o600)
        except OSError:
            pass
        return line

    return read


def history_file() -> str:
    """Return the file of the lines that were typed, in the user's state folder."""
    base = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.local/state")
    return os.path.join(base, "wasmsr", "sandbox_history")


def pipe_reader(title: str) -> str:
    """Return the next line of standard input.

    Raises:
        EOFError: There is none.
        WasmsrError: It is no text.
    """
    try:
        line = sys.stdin.readline()
    except UnicodeDecodeError as error:
        raise WasmsrError(
            f"the input is not in {error.encoding}, from byte {error.start} on",
            hint="iconv -f latin1 -t utf-8 FILE | wasmsr sandbox",
        ) from None
    if not line:
        raise EOFError
    return line.rstrip("\n")


__all__ = ["COMMANDS", "SandboxPrompt", "history_file", "pipe_reader", "terminal_reader"]
