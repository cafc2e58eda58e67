"""Peers of the wire: pynng, and C programs that Debian's nanomsg links."""

from __future__ import annotations

import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from tests.mem.served import SECONDS, served
from wasmsr.mem.memory_link import MemoryLink
from wasmsr.mem.wire import commands
from wasmsr.mem.wire.commands import Command, read_header, whole

HEADER = Path("/usr/include/nanomsg/nn.h")
has_nanomsg = pytest.mark.skipif(
    shutil.which("gcc") is None or not HEADER.exists(), reason="needs gcc and libnanomsg-dev"
)

COMMAND_C = """
#include <nanomsg/nn.h>
#include <nanomsg/reqrep.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct command {
  uint64_t addr, size;
  uint16_t seq;
  uint8_t status, op;
  uint8_t data[];
};
"""

CLIENT_C = (
    COMMAND_C
    + """
static int ask(int sock, int op, uint64_t addr, uint64_t size, void *data) {
  struct command *one = calloc(1, sizeof *one + size);
  one->op = op; one->addr = addr; one->size = size;
  if (op == 2) memcpy(one->data, data, size);
  if (nn_send(sock, one, sizeof *one + (op == 2 ? size : 0), 0) < 0) return -1;
  int got = nn_recv(sock, one, sizeof *one + (op == 2 ? 0 : size), 0);
  if (got < 0) return -1;
  if (op == 3 && one->status == 0) memcpy(data, one->data, size);
  int status = one->status;
  free(one);
  return status;
}

int main(int count, char **words) {
  static unsigned char out[1 << 20], in[1 << 20];
  int sock = nn_socket(AF_SP, NN_REQ);
  if (count != 2 || sock < 0 || nn_connect(sock, words[1]) < 0) return 2;
  for (size_t at = 0; at < sizeof out; at++) out[at] = at * 31 >> 3;
  for (size_t size = 0; size <= sizeof out; size = size * 7 + 1) {
    if (ask(sock, 2, 4096, size, out)) return 3;
    if (ask(sock, 3, 4096, size, in)) return 4;
    if (memcmp(in, out, size)) return 5;
  }
  printf("%d\\n", ask(sock, 3, (1 << 21) - 3, 4, in));
  nn_close(sock);
  return 0;
}
"""
)

SERVER_C = (
    COMMAND_C
    + """
int main(int count, char **words) {
  static unsigned char memory[1 << 21];
  int sock = nn_socket(AF_SP, NN_REP);
  if (count != 2 || sock < 0 || nn_bind(sock, words[1]) < 0) return 2;
  printf("ready\\n");
  fflush(stdout);
  for (;;) { /* as Scad's server: what is no read is a write */
    struct command *asked = 0;
    if (nn_recv(sock, &asked, NN_MSG, 0) < 0) return 3;
    size_t size = asked->op == 3 ? asked->size : 0;
    struct command *answer = malloc(sizeof *answer + size);
    memset(answer, 0xee, sizeof *answer + size);
    answer->status = 0; answer->size = asked->size; answer->op = asked->op == 3 ? 3 : 2;
    if (asked->op == 3) memcpy(answer->data, memory + asked->addr, size);
    else memcpy(memory + asked->addr, asked->data, asked->size);
    nn_freemsg(asked);
    nn_send(sock, answer, sizeof *answer + size, 0);
    free(answer);
  }
}
"""
)


def built(folder: Path, source: str) -> Path:
    (folder / "peer.c").write_text(source)
    words = ["gcc", "-O1", "-o", "peer", "peer.c", "-lnanomsg"]
    subprocess.run(words, cwd=folder, check=True, timeout=SECONDS)
    return folder / "peer"


@has_nanomsg
def test_a_client_of_nanomsg(tmp_path: Path) -> None:
    with served(1 << 21) as memory:
        words = [str(built(tmp_path, CLIENT_C)), memory.url]
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS)
        assert (done.returncode, done.stdout) == (0, "1\n")
        assert not memory.notes


@has_nanomsg
def test_a_server_of_nanomsg(tmp_path: Path) -> None:
    with served() as memory:
        port = memory.server.port  # free once it is closed
    url = f"tcp://127.0.0.1:{port}"
    with subprocess.Popen([built(tmp_path, SERVER_C), url], stdout=subprocess.PIPE) as peer:
        try:
            assert peer.stdout is not None and peer.stdout.readline() == b"ready\n"
            link = MemoryLink("mem1", url)
            data = bytes(at * 7 & 255 for at in range(300_000))
            for size in (0, 1, 4, 4096, 300_000):
                link.write(100, memoryview(data)[:size])
                got = bytearray(size)
                link.read(100, memoryview(got))
                assert got == data[:size]
            assert link.fenced is False and link.size() == 0
            link.close()
        finally:
            peer.kill()


def test_a_client_of_pynng() -> None:
    pynng = pytest.importorskip("pynng", reason="needs pynng")
    with served(1 << 20) as memory, pynng.Req0(dial=memory.url) as peer:
        peer.recv_timeout = int(SECONDS * 1000)
        for size in (0, 4, 4096, 700_000):
            data = bytes(at * 13 & 255 for at in range(size))
            peer.send(whole(Command(commands.OP_WRITE, 8, size, 5), data))
            assert peer.recv() == Command(commands.OP_WRITE, 8, size, 5).alone()
            peer.send(Command(commands.OP_READ, 8, size, 6).alone())
            assert peer.recv() == whole(Command(commands.OP_READ, 8, size, 6), data)
        peer.send(Command(99).alone())
        assert read_header(peer.recv()).status == commands.NOT_UNDERSTOOD


def test_a_server_of_pynng() -> None:
    pynng = pytest.importorskip("pynng", reason="needs pynng")
    memory = bytearray(1 << 16)
    with pynng.Rep0(listen="tcp://127.0.0.1:0") as peer:
        port = str(peer.listeners[0].local_address).rpartition(":")[2]

        def serve() -> None:
            while True:
                try:
                    message = peer.recv()
                except pynng.Closed:
                    return
                one = read_header(message)
                data = b""
                if one.op == commands.OP_READ:
                    data = bytes(memory[one.addr : one.addr + one.size])
                elif one.op == commands.OP_WRITE:
                    memory[one.addr : one.addr + one.size] = message[20 : 20 + one.size]
                status = commands.OK if one.op in (2, 3) else commands.NOT_UNDERSTOOD
                peer.send(whole(Command(one.op, size=one.size, status=status), data))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        link = MemoryLink("m", f"tcp://127.0.0.1:{port}")
        link.write(3, memoryview(b"abc"))
        got = bytearray(3)
        link.read(3, memoryview(got))
        assert got == b"abc" and link.fenced is False
        link.close()
    thread.join(SECONDS)
