"""What guests and files say of calls, and names of prepared sandboxes; no guest is needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.snapshot.store.filled import GROWING, growing
from wasmsr import Limits, Module
from wasmsr.errors import FormatError, ModuleMismatch
from wasmsr.sandbox.call import PendingCall, question_of
from wasmsr.sandbox.guests import Guest
from wasmsr.sandbox.machine import template_of
from wasmsr.sandbox.states.warm import WarmRecipe
from wasmsr.sandbox.streams import DEEPEST, MARK, AnswerReader, well_formed
from wasmsr.snapshot.mapped.saving import save_mapped
from wasmsr.snapshot.store.increments import IncrementBase


def deep(levels: int) -> Any:
    made: Any = 1
    for _ in range(levels):
        made = [made]
    return made


TOOL = {"k": "tool", "id": "1", "name": "take", "arguments": {"x": [1]}}


@pytest.mark.parametrize(
    "lie",
    [
        {"instructions": -(1 << 62)},
        {"seconds": -1e300},
        {"seconds": float("nan")},
        {"seconds": float("inf")},
        {"displayed": -1},
        {"question": {"k": "other", "id": "1"}},
        {"question": {"k": "tool"}},
        {"answer": {"value": deep(600)}},
    ],
)
def test_a_call_that_lies_about_its_limits_is_refused(lie: dict[str, Any]) -> None:
    record = PendingCall(question=TOOL).record()
    assert PendingCall.of_record(record).record() == record
    with pytest.raises(FormatError):
        PendingCall.of_record({**record, **lie})


def test_what_is_shown_is_only_what_can_be() -> None:
    record = PendingCall(question=TOOL).record()
    record["shown"] = [{"text/plain": "a", "x": deep(600), "y": 10**30}, 5, deep(600)]
    made = PendingCall.of_record(record)
    assert made.shown == [{"text/plain": "a"}]
    assert [one.data for one in made.result("interrupted").artifacts] == [{"text/plain": "a"}]


def test_questions_have_their_types() -> None:
    assert question_of({**TOOL, "more": 1}) == TOOL
    asked = question_of({"k": "input", "id": 5, "password": 1})
    assert asked == {"k": "input", "id": "5", "prompt": "", "password": True}
    wrong_ones: tuple[Any, ...] = (None, [], {"x": {"$bytes": 5}}, {"x": {"$bytes": "!"}})
    for arguments in wrong_ones:
        wrong = question_of({**TOOL, "id": None, "name": 3, "arguments": arguments})
        assert (wrong["id"], wrong["name"], wrong["arguments"]) == ("None", "3", {})
        call = PendingCall(question=wrong)
        again = PendingCall.of_record(call.record())
        assert again.question is not None
        assert again.question["wrong"] == wrong["wrong"]
        assert call.tool is not None


def test_answers_are_unicode_and_not_deep() -> None:
    def heard(line: bytes) -> Any:
        (found,) = AnswerReader().feed(MARK + line + b"\n")
        return found

    found = heard(b'{"k": "show", "\\ud800": ["a\\udc80b", "\\ud83d\\ude00", 5]}')
    assert found == {"k": "show", "\ufffd": ["a\ufffdb", "\U0001f600", 5]}
    assert heard(b'{"k": "\xed\xa0\x80"}') == {"k": "\ufffd"}
    for depth, kind in ((DEEPEST - 1, dict), (DEEPEST + 1, bytes)):
        line = b'{"k": "show", "x": ' + b"[" * depth + b"]" * depth + b"}"
        assert type(heard(line)) is kind
    assert well_formed({"a": None, "b": [1.5, True]}) == {"a": None, "b": [1.5, True]}


def test_files_of_other_mounts_have_other_labels() -> None:
    """Files with the same label are earlier versions of each other, and are removed."""
    guest = Guest("python", None, (), {}, (), "run", "", "base")  # type: ignore[arg-type]
    long = "/a" * 200
    mounts = [
        (),
        (("/a/b", "ro"),),
        (("/a_b", "ro"),),
        (("/a/b", "overlay"),),
        ((long, "ro"), ("/b", "ro")),
        ((long, "ro"), ("/c", "ro")),
    ]
    labels = {WarmRecipe(guest, one).label for one in mounts}
    assert len(labels) == len(mounts)
    assert all(len(one) < 150 and "/" not in one for one in labels)
    assert WarmRecipe(guest).label == "python-base"


def test_a_record_gets_no_template_of_another_guest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that names another guest than its program's is refused, whoever came before."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    state = growing()[0]
    bare = replace(state, modules=[replace(one, binary=None) for one in state.modules])
    save_mapped(bare, tmp_path / "base.bin")
    base = IncrementBase.open(tmp_path / "base.bin")
    right, wrong = (
        Guest("python", module, (), {}, (), "run", "")
        for module in (Module.from_text(GROWING), Module.from_text("(module)"))
    )
    made = template_of(base, right, Limits())
    with pytest.raises(ModuleMismatch):
        template_of(base, wrong, Limits())
    assert template_of(base, right, Limits()) is made
