"""What a node takes, and tokens that cost time when they are wrong."""

from __future__ import annotations

import threading

import pytest

from wasmsr.node.security.failures import AccessRefused
from wasmsr.node.security.policy import MountWish, Policy, ProgramAdmission, ProgramWish
from wasmsr.node.security.tokens import CALLERS, LAST_WAIT, TokenCheck

MODULE, OTHER = b"\x01" * 32, b"\x02" * 32


def refused(policy: Policy, **wish) -> str:
    """Return the rule that refuses, or ""."""
    wish.setdefault("modules", (MODULE,))
    try:
        policy.check(ProgramWish(**wish))
    except AccessRefused as error:
        assert error.message
        return error.rule
    return ""


def test_a_policy_without_rules_gives_nothing_of_the_host():
    assert refused(Policy(), memory=2**40) == ""
    assert refused(Policy(), mounts=(MountWish("/tmp", "ro"),)) == "mounts"
    assert refused(Policy(), mounts=(MountWish("", "mem"),)) == ""
    assert refused(Policy(), listen=("127.0.0.1:80",)) == "listen"


def test_modules():
    only = Policy(modules=(MODULE,))
    assert refused(only) == ""
    assert refused(only, modules=(MODULE, OTHER)) == "modules"


def test_memory_of_one_program():
    assert refused(Policy(memory=100), memory=100) == ""
    assert refused(Policy(memory=100), memory=101) == "memory"


def test_files_of_one_program():
    assert refused(Policy(), carried=2**50) == ""
    assert refused(Policy(carried=100), carried=100) == ""
    assert refused(Policy(carried=100), carried=101) == "carried"


def test_mounts_are_checked_where_they_really_are(tmp_path):
    data, secret = tmp_path / "data", tmp_path / "data-secret"
    for folder in (data, secret, data / "below"):
        folder.mkdir()
    (data / "link").symlink_to(secret)
    policy = Policy(mounts=(f"{data}:ro",))
    for mode, name, rule in [
        ("ro", data, ""),
        ("ro", data / "below", ""),
        ("ro", data / "below" / ".." / "below", ""),
        ("host", data, "mounts"),
        ("carry", data / "below", "mounts"),
        ("ro", secret, "mounts"),
        ("ro", data / "link", "mounts"),
        ("ro", data / ".." / "data-secret", "mounts"),
        ("ro", "/", "mounts"),
    ]:
        assert refused(policy, mounts=(MountWish(str(name), mode),)) == rule, (mode, name)
    assert refused(Policy(mounts=("/",)), mounts=(MountWish(str(secret), "host"),)) == ""


def test_listening():
    policy = Policy(listen=("127.0.0.1:*", "0.0.0.0:80"))
    assert refused(policy, listen=("127.0.0.1:9", "0.0.0.0:80")) == ""
    assert refused(policy, listen=("0.0.0.0:81",)) == "listen"
    assert refused(policy, listen=("::1:80",)) == "listen"


def rule_of(call) -> str:
    with pytest.raises(AccessRefused) as caught:
        call()
    return caught.value.rule


def test_counts_of_programs_and_memory():
    admission = ProgramAdmission(Policy(programs=2, total_memory=100))
    wish = ProgramWish((MODULE,), memory=50)
    admission.admit(b"a", "x", wish)
    admission.admit(b"b", "x", wish)
    assert rule_of(lambda: admission.admit(b"c", "x", ProgramWish((MODULE,)))) == "programs"
    admission.admit(b"a", "x", wish)  # again: nothing changes
    assert rule_of(lambda: admission.admit(b"a", "x", ProgramWish((), memory=51))) == "total-memory"
    assert admission.counts() == (2, 100)
    admission.leave(b"a")
    admission.leave(b"a")
    admission.admit(b"c", "x", wish)
    assert admission.counts() == (2, 100)


def test_a_limit_holds_for_calls_at_the_same_time():
    admission = ProgramAdmission(Policy(programs=10))
    refusals = []

    def bring(number: int) -> None:
        try:
            admission.admit(bytes([number]), "x", ProgramWish(()))
        except AccessRefused as error:
            refusals.append(error.rule)

    threads = [threading.Thread(target=bring, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert admission.counts()[0] == 10 and refusals == ["programs"] * 40


def test_rates_count_each_caller_alone():
    now = [0.0]
    admission = ProgramAdmission(Policy(per_minute=2), lambda: now[0])
    admission.admit(b"1", "a", ProgramWish(()))
    admission.admit(b"2", "a", ProgramWish(()))
    assert rule_of(lambda: admission.admit(b"3", "a", ProgramWish(()))) == "per-minute"
    admission.admit(b"4", "b", ProgramWish(()))
    now[0] = 60.5
    admission.admit(b"3", "a", ProgramWish(()))


def test_wrong_tokens_cost_time_and_other_callers_do_not_pay():
    now = [0.0]
    check = TokenCheck(b"right", lambda: now[0])
    for _ in range(4):
        assert rule_of(lambda: check.admit("a", b"wrong")) == "token"
    check.admit("a", b"right")  # four are free, and a right one forgives
    waits = []
    for _ in range(12):
        assert rule_of(lambda: check.admit("a", b"")) == "token"
        began = now[0]
        while True:
            try:
                check.admit("a", b"wrong")
            except AccessRefused as error:
                if "too many" not in error.message:
                    break
            now[0] += 0.5
        waits.append(now[0] - began)
    assert waits[0] < 1 and waits[-1] <= 2 * LAST_WAIT and max(waits) >= LAST_WAIT - 1
    check.admit("b", b"right")
    for number in range(CALLERS + 10):
        assert rule_of(lambda number=number: check.admit(f"c{number}", b"x")) == "token"
    assert len(check._wrong) == CALLERS
