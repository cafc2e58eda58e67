"""The configuration of a node: order of strength, lines of problems, what is in force."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wasmsr.node.settings.reading import Settings, SettingsError, read_settings
from wasmsr.node.settings.table import BY_NAME, ROWS, SECTIONS
from wasmsr.node.settings.toml_file import FILE_LIMIT


def read(tmp_path: Path, text: str | bytes = "", environ=None, **flags) -> Settings:
    file = tmp_path / "node.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    named = {name.replace("__", "."): value for name, value in flags.items()}
    return read_settings(file, environ or {}, named)


def problems(tmp_path: Path, text: str | bytes, environ=None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, text, environ)
    return [one.replace(str(tmp_path / "node.toml"), "F") for one in caught.value.problems]


def test_a_flag_beats_a_variable_which_beats_the_file(tmp_path):
    text = '[node]\nlisten = "localhost:1"\nstop-seconds = 5\n[policy]\nprograms = 3\n'
    found = read(tmp_path, text)
    assert str(found["node.listen"]) == "localhost:1"
    assert (found["node.stop-seconds"], found["policy.programs"]) == (5.0, 3)
    assert found.origins["policy.programs"] == f"{tmp_path / 'node.toml'}:5"
    found = read(tmp_path, text, {"WASMSR_LISTEN": "localhost:2"})
    assert str(found["node.listen"]) == "localhost:2"
    assert found.origins["node.listen"] == "WASMSR_LISTEN"
    found = read(tmp_path, text, {"WASMSR_LISTEN": "localhost:2"}, node__listen="localhost:3")
    assert (str(found["node.listen"]), found.origins["node.listen"]) == ("localhost:3", "--listen")


def test_defaults_and_repeated_settings(tmp_path):
    found = read_settings(None, {}, {})
    assert str(found["node.listen"]) == "127.0.0.1:7443" and found["node.on-stop"] == "checkpoint"
    assert found["policy.mounts"] == () and found["policy.programs"] is None
    assert set(found.values) == set(BY_NAME) and set(found.origins.values()) == {"default"}
    found = read(tmp_path, '[policy]\nmounts = ["/a", "/b:ro"]\nmemory = "1.5GiB"\n')
    assert found["policy.mounts"] == ("/a", "/b:ro") and found["policy.memory"] == 3 * 2**29
    found = read(tmp_path, "", {"WASMSR_POLICY_MOUNTS": "/a\n/b"})
    assert found["policy.mounts"] == ("/a", "/b")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[node]\nlisen = '1'\n", "F:2: there is no setting lisen in [node]; is it listen in"),
        ("[nod]\nlisten = '1'\n", "F:2: there is no table [nod]; is it [node]?"),
        ("listen = '1'\n", "F:1: there is no setting listen outside of a table; is it listen in"),
        (
            "[node]\n\n# x\nkey = 'k'\n",
            "F:4: there is no setting key in [node]; is it key in [tls]?",
        ),
        ("[node]\nstop-seconds = 0\n", "F:2: node.stop-seconds: "),
        ("[node]\nstop-seconds = inf\n", "F:2: node.stop-seconds: "),
        ("[node]\nlisten = true\n", "F:2: node.listen: True is neither"),
        ("[node]\nlisten = 70000\n", "F:2: node.listen: 70000 is not a port"),
        ("[node]\nlisten = { a = 1 }\n", "F:2: node.listen: {'a': 1} is neither"),
        ("[policy]\nmodules = ['abc']\n", "F:2: policy.modules: 'abc' is no SHA-256"),
        ("[policy]\npeers = ['abc']\n", "F:2: policy.peers: "),
        ("[policy]\nmounts = ['data']\n", "F:2: policy.mounts: 'data' is not an absolute path"),
        ("[policy]\ntcp-listen = ['1.2.3.4:99999']\n", "F:2: policy.tcp-listen: "),
        ("[policy]\nprograms = 0\n", "F:2: policy.programs: "),
        ("[policy]\nprograms = 1.5\n", "F:2: policy.programs: "),
        ("[access]\ninsecure = 'perhaps'\n", "F:2: access.insecure: "),
        ("[node]\nlisten = 'x\n", "F:"),
        ("[node]\n[node]\n", "F:2: "),
        ("[node\n", "F:1: "),
        (b"[node]\nlisten = '\xff'\n", "F:2: it is not UTF-8"),
        (b"#" * (FILE_LIMIT + 1), "F: it has more than"),
        ("x = " + "[" * 100_000, "F"),
        ("[node]\non-stop = 'wait'\n", "F:2: node.on-stop: 'wait' is none of"),
        ("[node]\non-stop = 'drain'\n", "F:2: node.on-stop drain needs node.drain-to"),
        ("[tls]\nkey = '/dev/null'\n", "F:2: tls.key needs tls.certificate, tls.authority"),
        ("[node]\nlisten = '0.0.0.0:1'\n", "F:2: node.listen 0.0.0.0:1 can be reached"),
    ],
)
def test_each_problem_names_its_line(tmp_path, text, wanted):
    found = problems(tmp_path, text)
    assert len(found) == 1 and found[0].startswith(wanted), found


def test_all_problems_are_named_at_once(tmp_path):
    text = "[node]\nx = 1\nlisten = '0'\n[y]\nz = 1\n"
    found = problems(tmp_path, text, {"WASMSR_STOP_SECONDS": "soon"})
    assert [one.split(":")[0:2] for one in found] == [
        ["F", "2"],
        ["F", "3"],
        ["F", "5"],
        ["WASMSR_STOP_SECONDS", " node.stop-seconds"],
    ]


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"none\.toml cannot be read"):
        read_settings(tmp_path / "none.toml", {}, {})


def test_insecure_lets_in_and_contradicts_tls(tmp_path):
    assert read(tmp_path, "[node]\nlisten = '0.0.0.0:1'\n[access]\ninsecure = true\n")
    text = "[access]\ninsecure = true\n[tls]\n"
    text += "".join(f"{key} = '/dev/null'\n" for key in ("certificate", "key", "authority"))
    assert "contradicts" in problems(tmp_path, text)[0]


def test_what_is_in_force_is_plain(tmp_path):
    found = read(tmp_path, "[policy]\npeers = ['" + "ab" * 16 + "']\n")
    assert "ab" * 16 in json.dumps(found.shown())
    assert [one["name"] for one in found.shown()] == [row.name for row in ROWS]


def test_names_flags_and_variables_are_unique():
    assert len({row.flag for row in ROWS}) == len({row.variable for row in ROWS}) == len(ROWS)
    assert BY_NAME["tls.key"].flag == "--tls-key" and BY_NAME["node.listen"].flag == "--listen"
    assert BY_NAME["tls.key"].variable == "WASMSR_TLS_KEY"
    assert set(SECTIONS) == {row.section for row in ROWS}
