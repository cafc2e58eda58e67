"""Whose argument is whose: the rule of `run`'s command line, by examples and at random."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from wasmsr.cli.commands.run import SplitCommand
from wasmsr.cli.options.argv import Split, split

OPTIONS = {"--trace": False, "--fuel": True, "--dir": True, "--help": False}


@pytest.mark.parametrize(
    ("line", "ours", "program", "rest"),
    [
        ("", "", None, ""),
        ("fib", "", "fib", ""),
        ("fib --trace", "--trace", "fib", ""),
        ("--trace fib", "--trace", "fib", ""),
        ("--fuel 5 fib --dir . 9", "--fuel 5 --dir .", "fib", "9"),
        ("fib 9 --trace", "", "fib", "9 --trace"),
        ("fib -9 --trace", "", "fib", "-9 --trace"),
        ("python.wasm -c print(1)", "", "python.wasm", "-c print(1)"),
        ("fib --fuel=5 --other --trace", "--fuel=5", "fib", "--other --trace"),
        ("fib -- --trace", "", "fib", "--trace"),
        ("fib --trace -- -- x", "--trace", "fib", "-- x"),
        ("fib a -- --trace", "", "fib", "a -- --trace"),
        ("-- fib --trace", "", "fib", "--trace"),
        ("--trace --", "--trace", None, ""),
        ("--dir --trace fib", "--dir --trace", "fib", ""),
        ("--unknown fib", "--unknown", "fib", ""),
        ("-c fib", "-c", "fib", ""),
        ("- x", "", "-", "x"),
        ("fib --tra", "", "fib", "--tra"),
    ],
)
def test_examples(line: str, ours: str, program: str | None, rest: str) -> None:
    assert split(line.split(), OPTIONS) == Split(ours.split(), program, rest.split())


def test_value_missing_at_the_end() -> None:
    assert split(["fib", "--fuel"], OPTIONS) == Split([], "fib", [], "--fuel")


FLAGS = st.just(["--trace"])
VALUED = st.tuples(st.sampled_from(["--fuel", "--dir"]), st.text(max_size=5)).map(list)
JOINED = st.tuples(st.sampled_from(["--fuel", "--dir"]), st.text(max_size=5)).map(
    lambda pair: ["=".join(pair)]
)
OURS = st.lists(st.one_of(FLAGS, VALUED, JOINED), max_size=4).map(
    lambda many: [word for words in many for word in words]
)
WORD = st.text(min_size=1, max_size=6)
FOREIGN = WORD.filter(lambda word: word != "--" and word.partition("=")[0] not in OPTIONS)


@given(
    OURS,
    OURS,
    FOREIGN.filter(lambda word: not word.startswith("-")),
    FOREIGN,
    st.lists(WORD | st.sampled_from([*OPTIONS, "--"])),
)
def test_rest_is_untouched(
    before: list[str], after: list[str], program: str, first: str, more: list[str]
) -> None:
    """Up to the first word that is not ours, options are ours on both sides; then nothing is."""
    line = [*before, program, *after, first, *more]
    assert split(line, OPTIONS) == Split([*before, *after], program, [first, *more])


@given(OURS, OURS, FOREIGN.filter(lambda word: not word.startswith("-")), st.lists(WORD))
def test_double_dash_ends_ours(
    before: list[str], after: list[str], program: str, rest: list[str]
) -> None:
    assert split([*before, program, *after, "--", *rest], OPTIONS) == Split(
        [*before, *after], program, rest
    )


def divided() -> click.Command:
    """A command that shows what it got."""

    @click.command(cls=SplitCommand)
    @click.argument("program", required=False)
    @click.argument("args", nargs=-1, type=click.UNPROCESSED)
    @click.option("--trace", is_flag=True)
    @click.option("--fuel", type=int)
    def command(program: str | None, args: tuple[str, ...], trace: bool, fuel: int | None) -> None:
        click.echo(repr((program, args, trace, fuel)))

    return command


@pytest.mark.parametrize(
    ("line", "result"),
    [
        (["fib", "--trace"], ("fib", (), True, None)),
        (["--fuel", "3", "fib", "-c", "--trace"], ("fib", ("-c", "--trace"), False, 3)),
        (["fib", "--", "--fuel", "--", "3"], ("fib", ("--fuel", "--", "3"), False, None)),
        (["--", "--odd-name"], ("--odd-name", (), False, None)),
        ([], (None, (), False, None)),
    ],
)
def test_click_gets_the_parts(line: list[str], result: object) -> None:
    outcome = CliRunner().invoke(divided(), line)
    assert outcome.output.strip() == repr(result)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--nope", "fib"], "No such option"),
        (["-c", "fib"], "No such option"),
        (["fib", "--fuel"], "'--fuel' requires an argument"),
        (["fib", "--fuel", "many"], "not a valid integer"),
        (["fib", "--trace=1"], "does not take a value"),
    ],
)
def test_ours_and_wrong(line: list[str], message: str) -> None:
    outcome = CliRunner().invoke(divided(), line)
    assert outcome.exit_code == 2
    assert message in outcome.output
