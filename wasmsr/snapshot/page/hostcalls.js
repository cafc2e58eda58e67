// Answers of host calls in the page: output is shown, clocks and random numbers are made here, and
// nothing of the computer that shows the page is reached. An answer is {result, writes}, and of
// output also {output, fd}.

const KINDS = {
  fd_write: "output",
  clock_time_get: "clocks",
  clock_res_get: "clocks",
  poll_oneoff: "clocks",
  sched_yield: "clocks",
  random_get: "random",
};
const FAULT = 21n;
const MOST_VECTORS = 1024; // pieces of an output; a call with more is cut short, as on Linux
const MOST_OUTPUT = 1 << 20; // bytes of one call
const MOST_RANDOM = 1 << 24;
const low = (value) => Number(BigInt.asUintN(32, value));

export class HostCalls {
  // `rows`: [name, names of the parameters] of each call of WASI; `hosts`: by address, {module,
  // name} of each host function; `mayAnswer(kind)`: whether that is answered by itself;
  // `monotonic`: where the clock that never goes back goes on, in nanoseconds; `outputs`: which
  // descriptors are standard output (1) and error (2).
  constructor(rows, hosts, mayAnswer, monotonic = 0n, outputs = { 1: 1, 2: 2 }) {
    this.outputs = outputs;
    this.rows = rows;
    this.hosts = hosts;
    this.mayAnswer = mayAnswer;
    this.monotonic = monotonic;
    this.began = performance.now();
  }

  name(call) {
    const host = this.hosts[call.function];
    return host ? `${host.module}.${host.name}` : `host function ${call.function}`;
  }

  parameters(call) {
    const names = this.rows[call.row]?.[1] ?? [];
    return call.params.map((value, at) => [names[at] ?? `parameter ${at}`, value]);
  }

  // The answer of a call, or null if a person must give it.
  answer(call, machine) {
    const name = this.rows[call.row]?.[0];
    const kind = KINDS[name];
    if (!kind || !this.mayAnswer(kind)) return null;
    const memory = machine.addresses(call.instance).memories[0];
    if (memory === undefined) return { result: FAULT };
    const bytes = machine.memory(memory);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    try {
      return this["_" + name]({ memory, bytes, view, params: call.params.map(low) });
    } catch (error) {
      if (error instanceof RangeError) return { result: FAULT };
      throw error;
    }
  }

  _fd_write({ memory, bytes, view, params: [fd, vectors, count, result] }) {
    const stream = this.outputs[fd];
    if (!stream) return null;
    const pieces = [];
    let size = 0;
    for (let i = 0; i < Math.min(count, MOST_VECTORS) && size < MOST_OUTPUT; i++) {
      const at = view.getUint32(vectors + 8 * i, true);
      const length = view.getUint32(vectors + 8 * i + 4, true);
      if (at + length > bytes.length) throw new RangeError();
      const end = at + Math.min(length, MOST_OUTPUT - size);
      pieces.push(bytes.subarray(at, end));
      size += end - at;
    }
    view.getUint32(result, true); // it must be in the memory
    const output = new Uint8Array(size);
    let at = 0;
    for (const piece of pieces) {
      output.set(piece, at);
      at += piece.length;
    }
    return { result: 0n, writes: [{ memory, offset: result, bytes: little(size, 4) }], output, fd: stream };
  }

  _clock_time_get({ memory, view, params: [clock, , result] }) {
    view.getUint32(result + 4, true);
    const since = BigInt(Math.round((performance.now() - this.began) * 1e6));
    const now = clock === 0 ? BigInt(Date.now()) * 1_000_000n : this.monotonic + since;
    return { result: 0n, writes: [{ memory, offset: result, bytes: little(now, 8) }] };
  }

  _clock_res_get({ memory, view, params: [, result] }) {
    view.getUint32(result + 4, true);
    return { result: 0n, writes: [{ memory, offset: result, bytes: little(1000, 8) }] };
  }

  // Waiting for a clock ends at once; waiting for descriptors alone is left to the person.
  _poll_oneoff({ memory, bytes, view, params: [from, to, count, result] }) {
    for (let i = 0; i < count; i++) {
      const at = from + 48 * i;
      if (view.getUint8(at + 8) !== 0) continue;
      const event = new Uint8Array(32);
      event.set(bytes.slice(at, at + 8));
      view.getUint32(to + 28, true);
      view.getUint32(result, true);
      const ready = { memory, offset: result, bytes: little(1, 4) };
      return { result: 0n, writes: [{ memory, offset: to, bytes: event }, ready] };
    }
    return null;
  }

  _sched_yield() {
    return { result: 0n };
  }

  _random_get({ memory, bytes, params: [at, size] }) {
    if (at + size > bytes.length) throw new RangeError();
    if (size > MOST_RANDOM) return null;
    const made = new Uint8Array(size);
    for (let from = 0; from < size; from += 65536)
      crypto.getRandomValues(made.subarray(from, from + 65536));
    return { result: 0n, writes: [{ memory, offset: at, bytes: made }] };
  }
}

function little(value, size) {
  const made = new Uint8Array(size);
  let left = BigInt(value);
  for (let at = 0; at < size; at++) {
    made[at] = Number(left & 255n);
    left >>= 8n;
  }
  return made;
}
