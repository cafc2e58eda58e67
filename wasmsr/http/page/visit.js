// A program of the node runs here, in a worker of the page, for as long as the node lets it.
//
// The page says {program, key}, and later "home". This says {output, stream}, {said}, {state} and, in
// the end, {over}. The node has each state that was sent, with the output up to there; what came
// later and was not sent happens again at the node, so nothing is doubled or lost.

import { HostCalls } from "./hostcalls.js";
import { Machine } from "./machine.js";

const SLICE = 400_000n; // instructions between two looks at the clock
const TURN = 15; // milliseconds of computing before others may work
const ASK = 2500; // milliseconds after which the lease is renewed
const SAVE = 2000; // milliseconds between two states, at least
const SHARE = 10; // a state may take this part of the time
const LONGEST_NAP = 200; // milliseconds of a sleep before others may work
const MOST_OUTPUT = 4 << 20; // bytes that are not sent before a state is due
const TRIES = 4;

let wanted = false;
let wake = () => {};
self.onmessage = ({ data }) => {
  if (data === "home") {
    wanted = true;
    wake();
  } else visit(data).catch((error) => postMessage({ over: error.message }));
};

const nap = (milliseconds) =>
  new Promise((go) => {
    wake = go;
    setTimeout(go, milliseconds);
  });

class Over extends Error {}

// The lease by both clocks: one of them stands while a computer sleeps, the other can be set.
class Lease {
  constructor() {
    this.until = this.untilDate = 0;
  }

  // `asked`: both clocks before the node was asked; `seconds`: what it has answered.
  extend(asked, seconds) {
    this.until = asked[0] + seconds * 1000;
    this.untilDate = asked[1] + seconds * 1000;
  }

  get holds() {
    const [now, date] = clocks();
    return now < this.until && date < this.untilDate && date > this.untilDate - 3_600_000;
  }
}

const clocks = () => [performance.now(), Date.now()];

class Node {
  constructor(program, key) {
    this.path = `/visits/${program}/`;
    this.headers = { Authorization: "Bearer " + key };
    this.lease = new Lease();
    this.home = false;
  }

  async fetch(word) {
    const answer = await fetch(this.path + word, { headers: this.headers, cache: "no-store" });
    if (!answer.ok) throw new Over((await answer.json()).error);
    return new Uint8Array(await answer.arrayBuffer());
  }

  // Ask, and extend the lease. A node that does not answer is asked again while the lease holds.
  async ask(word, method, body) {
    for (let left = TRIES; ; left--) {
      const asked = clocks();
      try {
        const answer = await fetch(this.path + word, { method, body, headers: this.headers, cache: "no-store" });
        const found = await answer.json();
        if (!answer.ok) throw new Over(found.error);
        if (found.lease) this.lease.extend(asked, found.lease);
        this.home = Boolean(found.home);
        return found;
      } catch (error) {
        if (error instanceof Over || left === 0 || !this.lease.holds) throw error;
        await nap(500);
      }
    }
  }
}

// Host calls of a visit. One that needs the node has no answer here: it brings the program home.
class VisitCalls extends HostCalls {
  constructor(about) {
    const mayAnswer = (kind) => kind === "output" || !about.deterministic;
    super(about.wasi, about.hosts, mayAnswer, BigInt(about.monotonic), about.outputs);
    this.until = 0; // until when the program sleeps in the call before which it stands; 0 if not
    this.written = []; // [stream, bytes] since the last state
    this.size = 0;
  }

  now() {
    return this.monotonic + BigInt(Math.round((performance.now() - this.began) * 1e6));
  }

  // Whether the next state has enough output. The program then waits until it is sent.
  get full() {
    return this.size >= MOST_OUTPUT;
  }

  answer(call, machine) {
    if (this.full) return null;
    const waits = this.rows[call.row]?.[0] === "poll_oneoff" && this.mayAnswer("clocks");
    if (waits && !this.#slept(call, machine)) return null;
    const found = super.answer(call, machine);
    if (found?.output) {
      const bytes = found.output.slice();
      this.written.push([found.fd, bytes]);
      this.size += bytes.length;
      postMessage({ output: bytes, stream: found.fd });
    }
    return found;
  }

  // Whether a call that waits for one clock has waited long enough.
  #slept(call, machine) {
    const memory = machine.addresses(call.instance).memories[0];
    const bytes = memory === undefined ? new Uint8Array() : machine.memory(memory);
    const [from, , count] = call.params.map((value) => Number(BigInt.asUintN(32, value)));
    if (count !== 1 || from + 48 > bytes.length || bytes[from + 8] !== 0) return false;
    const view = new DataView(bytes.buffer, bytes.byteOffset + from, 48);
    if (!this.until) {
      const clock = view.getUint32(16, true);
      let left = view.getBigUint64(24, true);
      if (view.getUint16(40, true) & 1)
        left -= clock === 0 ? BigInt(Date.now()) * 1_000_000n : this.now();
      this.until = performance.now() + Number(left) / 1e6;
    }
    if (performance.now() < this.until) return false;
    this.until = 0;
    return true;
  }

  // How long the program still sleeps; 0 if it does not.
  naps() {
    return this.until && Math.max(1, this.until - performance.now());
  }
}

async function packed(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("gzip"));
  return new Blob([await new Response(stream).arrayBuffer()]);
}

class Visit {
  constructor(node, machine, calls) {
    this.node = node;
    this.machine = machine;
    this.calls = calls;
    this.number = 0;
    this.saved = this.asked = performance.now();
    this.every = SAVE;
  }

  // Send the state, and the output since the last one. They count together.
  async save() {
    const began = performance.now();
    const written = this.calls.written;
    const streams = [1, 2].map((stream) => new Blob(written.filter((one) => one[0] === stream).map((one) => one[1])));
    const head = new DataView(new ArrayBuffer(16));
    head.setBigUint64(0, this.calls.now(), true);
    streams.forEach((one, at) => head.setUint32(8 + 4 * at, one.size, true));
    // A large state can take longer than the lease.
    const renewal = setInterval(() => this.node.ask("lease", "POST").catch(() => {}), ASK);
    let body;
    try {
      body = new Blob([head, ...streams, await packed(this.machine.state())]);
      await this.node.ask(`state?number=${this.number + 1}`, "PUT", body);
    } finally {
      clearInterval(renewal);
    }
    this.number++;
    this.calls.written = [];
    this.calls.size = 0;
    this.saved = this.asked = performance.now();
    this.every = Math.max(SAVE, SHARE * (this.saved - began));
    postMessage({ state: this.number, bytes: body.size, count: String(this.machine.count) });
  }

  async home(why) {
    await this.save();
    await this.end(why);
  }

  async end(why) {
    await this.node.ask("end", "POST", why);
    throw new Over(why);
  }

  async run() {
    const { machine, calls, node } = this;
    const answer = (call) => calls.answer(call, machine);
    while (node.lease.holds) {
      const began = performance.now();
      do machine.run(SLICE, answer);
      while (machine.outcome === "paused" && performance.now() - began < TURN);
      if (machine.outcome !== "paused" && machine.outcome !== "host call") {
        // The node repeats the last part, and has the end of the program as any other one.
        await this.end("it came to its end there");
      }
      if (wanted || node.home) await this.home("it was asked home");
      if (machine.outcome === "host call" && !calls.full) {
        const left = calls.naps();
        if (!left) await this.home(`it calls ${calls.name(machine.pending)}, which only the node has`);
        await nap(Math.min(left, LONGEST_NAP));
      }
      const now = performance.now();
      if (now - this.saved > this.every || calls.full) await this.save();
      else if (now - this.asked > ASK) {
        await node.ask("lease", "POST");
        this.asked = now;
      }
      await nap(0);
    }
    throw new Over("the lease has ended, and the program goes on at the node");
  }
}

async function visit({ program, key }) {
  const node = new Node(program, key);
  try {
    const [about, head, pages, code] = await Promise.all([
      node.fetch("about"),
      node.fetch("head"),
      node.fetch("pages"),
      WebAssembly.compileStreaming(fetch("/machine.wasm")),
    ]);
    const machine = new Machine(code, head, pages, { history: false });
    await node.ask("lease", "POST");
    const calls = new VisitCalls(JSON.parse(new TextDecoder().decode(about)));
    postMessage({ said: "It runs in this tab." });
    await new Visit(node, machine, calls).run();
  } catch (error) {
    if (!(error instanceof Over)) {
      await node.ask("end", "POST", `the browser failed: ${error.message}`).catch(() => {});
    }
    throw error;
  }
}
