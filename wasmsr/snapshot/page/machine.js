// A saved program in a page: it runs forwards and backwards. The core is machine.wasm (machine.c).
//
// To go backwards the machine goes back to a state that it kept before, and runs forwards from there.
// That gives the same program again, because everything but host calls is deterministic, and the
// answers of host calls are kept. States are kept more closely near the present: about 16 for each
// doubling of the distance.

export const OUTCOMES = ["finished", "trapped", "paused", "host call", "uncaught"];
const PAUSED = OUTCOMES.indexOf("paused");
const HITS = ["", "position", "return", "write"];
const EVERY = 4_000_000n; // instructions between two kept states, at least
const PER_DOUBLING = 16;
const MOST_KEPT = 1n << 30n; // bytes of old pages in all kept states
const SLICE = 2_000_000n; // instructions of a search before others may work
// What the C library imports for its standard streams, which nothing here uses.
const NO_STREAMS = { fd_close: () => 8, fd_seek: () => 8, fd_write: () => 8 };

export class Machine {
  // `code`: a compiled machine.wasm; `head`: the plain state without pages; `pages`: the pages.
  // Without `history` the machine keeps nothing of the past, and cannot go backwards.
  constructor(code, head, pages, { history = true } = {}) {
    this.history = history;
    this.core = new WebAssembly.Instance(code, { wasi_snapshot_preview1: NO_STREAMS }).exports;
    this.core._initialize();
    const at = this.#put(head);
    this.#call(() => this.core.begin(at, head.length));
    const piece = 1 << 20;
    for (let start = 0; start < pages.length; start += piece) {
      const bytes = pages.subarray(start, start + piece);
      const place = this.#put(bytes);
      this.#call(() => this.core.put_pages(place, bytes.length / 4096));
      this.core.release(place);
    }
    this.#call(() => this.core.put_pages(0, 0));
    this.count = 0n; // instructions since the saved state
    this.before = BigInt.asUintN(64, this.core.executed_before()); // instructions before that
    this.outcome = "paused";
    this.hit = ""; // which watch has stopped the last run: "position", "return", "write" or none
    this.watched = {};
    this.pending = null; // the host call before which the program stands
    this.answers = new Map(); // answers of host calls, by the count that includes the call
    this.marks = []; // counts of the kept states
    this.without = 0n; // where there was too little memory to keep a state
    this.refused = false; // whether an answer was no value of the result's type
    this.broken = ""; // why this is the program no more
    this.#keep();
  }

  // Run an export; a trap of it has a sentence.
  #call(work) {
    try {
      return work();
    } catch (error) {
      if (!(error instanceof WebAssembly.RuntimeError)) throw error;
      const at = this.core.trouble();
      const bytes = new Uint8Array(this.core.memory.buffer, at, 400);
      const said = new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)));
      throw new Error(said || String(error), { cause: error });
    }
  }

  // Run an export that changes the program. If it ends in the middle, the program is lost.
  #change(work) {
    if (this.broken) throw new Error(this.broken);
    try {
      return this.#call(work);
    } catch (error) {
      this.broken = `${error.message}; the program is lost here, so open the page anew`;
      throw new Error(this.broken, { cause: error });
    }
  }

  #put(bytes) {
    const at = this.core.allocate(bytes.length) >>> 0;
    new Uint8Array(this.core.memory.buffer, at, bytes.length).set(bytes);
    return at;
  }

  #answer() {
    const at = this.core.answer() >>> 0;
    return this.core.memory.buffer.slice(at, at + (this.core.answer_size() >>> 0));
  }

  // ---- running ----

  // Run up to `most` instructions (BigInt), as far as the program goes. `answer` is asked at host
  // calls that have no answer yet: it gets the call, and returns {result, writes} or null; with null
  // the program stands before the call. Writes are {memory, offset, bytes}. Returns the outcome.
  // The position that is watched does not stop the program where it is now, unless `leave` is false.
  run(most, answer = () => null, leave = true) {
    const end = this.count + most;
    this.hit = "";
    this.core.leave_position(leave);
    if (this.outcome === "host call" && most) this.outcome = "paused"; // it is made again
    while (this.count < end && this.outcome === "paused" && !this.hit) this.#advance(end, answer);
    if (this.refused) {
      this.refused = false;
      throw new Error("the result is no value of its type");
    }
    return this.outcome;
  }

  // What stops the next runs, beside their length. `position`: {function, offset}, an address and an
  // offset in the module, before that instruction; `frames`: after a return that leaves so many at
  // most; `memory`: {memory, begin, end}, after an instruction that writes there. Returns whether an
  // instruction starts at the position.
  watch({ position = null, frames = 0, memory = null } = {}) {
    this.watched = { position, frames, memory };
    this.core.watch_nothing();
    this.core.watch_frames(frames);
    if (memory) this.core.watch_memory(memory.memory, BigInt(memory.begin), BigInt(memory.end));
    return !position || this.core.watch_position(position.function, position.offset) === 1;
  }

  #advance(end, answer) {
    const last = this.marks.at(-1) ?? 0n;
    const due = (last > this.without ? last : this.without) + EVERY;
    const stop = due > this.count && due < end ? due : end;
    const before = this.core.executed();
    const outcome = this.#change(() => this.core.run(stop - this.count)) >>> 0;
    this.outcome = OUTCOMES[outcome];
    const count = this.count + this.core.executed() - before;
    if (this.outcome === "host call" && !this.#answered(count, answer)) this.core.host_retry();
    this.count += this.core.executed() - before;
    if (outcome === PAUSED) this.hit = HITS[this.core.hit()];
    if (this.outcome === "paused" && this.count >= due) this.#keep();
  }

  // Answer the host call that has just been reached; whether there is an answer.
  #answered(count, answer) {
    const view = new DataView(this.#answer());
    const params = [];
    for (let i = 0; i < view.getUint32(12, true); i++) params.push(view.getBigUint64(16 + 8 * i, true));
    const [called, instance, row] = [0, 4, 8].map((place) => view.getUint32(place, true));
    this.pending = { function: called, instance, row, params };
    let found = this.answers.get(count);
    if (!found) {
      const given = answer(this.pending, this);
      if (!given) return false;
      found = { result: given.result ?? 0n, writes: given.writes ?? [] };
    }
    if (!this.#change(() => this.core.host_return(found.result))) {
      this.refused = true;
      return false;
    }
    if (this.history) this.answers.set(count, found);
    const { memory: bytes } = this.watched;
    for (const one of found.writes) {
      this.memory(one.memory).set(one.bytes, one.offset);
      const [begin, end] = [one.offset, one.offset + one.bytes.length];
      if (bytes && bytes.memory === one.memory && begin < bytes.end && end > bytes.begin) this.hit = "write";
    }
    this.pending = null;
    this.outcome = "paused";
    return true;
  }

  // ---- backwards ----

  #keep() {
    if (!this.history || this.marks.at(-1) === this.count) return;
    const keep = () => this.#call(() => this.core.keep());
    if (!keep() && !(this.#thin(PER_DOUBLING / 4) && keep())) {
      if (!this.marks.length) throw new Error("there is too little memory to step backwards");
      this.without = this.count; // the way back to here is longer, no more
      return;
    }
    this.marks.push(this.count);
    this.#thin(PER_DOUBLING);
    for (let per = PER_DOUBLING / 2; per >= 1 && this.core.kept_bytes() > MOST_KEPT; per /= 2) this.#thin(per);
  }

  // Forget states that lie closer together than their distance from here needs, where `per` are for
  // each doubling. Returns whether there were some.
  #thin(per) {
    const before = this.marks.length;
    for (let i = this.marks.length - 2; i > 0; i--) {
      const age = this.count - this.marks[i];
      if ((this.marks[i + 1] - this.marks[i - 1]) * BigInt(per) >= age) continue;
      if (this.#call(() => this.core.forget(i))) this.marks.splice(i, 1);
    }
    return this.marks.length < before;
  }

  // Be where the program was after `count` instructions.
  goTo(count) {
    this.near(count);
    return count > this.count ? this.run(count - this.count) : this.outcome;
  }

  // Be where the program was at the last kept state before then, if that is not after here.
  near(count) {
    if (count < 0n) count = 0n;
    this.watch();
    if (count < this.count || this.outcome !== "paused") this.#return(this.#markBefore(count + 1n));
  }

  #markBefore(count) {
    return this.marks.findLastIndex((one) => one < count);
  }

  #return(mark) {
    this.#change(() => this.core.go_back(mark));
    this.marks.length = mark + 1;
    this.without = 0n;
    this.count = this.marks[mark];
    this.outcome = "paused";
    this.pending = null;
  }

  // Look for the last moment before this one at which a watch stops the program and `accepts`: a
  // generator that yields between pieces of work, and returns the count, or null. Of writes only
  // those count that change a byte, and the count is that before the write. Afterwards the program
  // is anywhere: go where you want to be.
  *lastBefore(watch, accepts = () => true) {
    const end = this.count;
    let until = end;
    for (let mark = this.#markBefore(end); mark >= 0; mark--) {
      const from = this.marks[mark];
      this.#return(mark);
      this.watch(watch);
      const found = yield* this.#lastUntil(until, end, watch.memory, accepts);
      if (found !== null) return found;
      until = from;
    }
    return null;
  }

  *#lastUntil(until, end, range, accepts) {
    const bytes = () => this.memory(range.memory).slice(range.begin, range.end);
    let last = null;
    let before = range ? bytes() : null;
    let leave = false;
    while (this.outcome === "paused") {
      const left = until - this.count;
      this.run(left < SLICE ? left : SLICE, undefined, leave);
      leave = this.hit === "position";
      if (this.hit === "write") {
        const after = bytes();
        if (differs(before, after) && accepts()) last = this.count - 1n;
        before = after;
      } else if (this.hit && this.count < end && accepts()) last = this.count;
      yield this.count;
      if (this.count >= until) break;
    }
    return last;
  }

  back(steps = 1n) {
    return this.goTo(this.count - steps);
  }

  // ---- looking ----

  memory(address = 0) {
    if (address >= this.memories()) return new Uint8Array();
    const at = this.core.memory_data(address) >>> 0;
    return new Uint8Array(this.core.memory.buffer, at, this.core.memory_size(address) >>> 0);
  }

  memories() {
    return this.core.memories();
  }

  // The innermost frames, `most` of them, outermost first: {at, instance, function, offset, types,
  // values, locals, live}. `at` counts from the outermost frame of all. A value is a BigInt of its
  // bits; a vector has 128.
  frames(most = Infinity) {
    const first = Math.max(0, this.core.frame_count() - most);
    this.#call(() => this.core.frames(first));
    const bytes = this.#answer();
    const view = new DataView(bytes);
    const found = [];
    let at = 8;
    for (let left = view.getUint32(0, true); left; left--) {
      const [instance, index, offset, locals, operands, slots] = [0, 4, 8, 12, 16, 20].map((place) =>
        view.getUint32(at + place, true),
      );
      at += 24;
      const height = locals + operands;
      const types = [...new Uint8Array(bytes, at, height)];
      at += Math.ceil(height / 8) * 8;
      const values = [];
      let slot = 0;
      for (const type of types) {
        let value = view.getBigUint64(at + 8 * slot++, true);
        if (type === 0x7b) value |= view.getBigUint64(at + 8 * slot++, true) << 64n;
        values.push(value);
      }
      at += 8 * slots;
      const live = [...new Uint8Array(bytes, at, locals)].map(Boolean);
      at += Math.ceil(locals / 8) * 8;
      found.push({ at: first + found.length, instance, function: index, offset, locals, types, values, live });
    }
    return found;
  }

  // The numbers in the store of what an instance has: {functions, tables, memories, globals}.
  addresses(instance) {
    this.#call(() => this.core.addresses(instance));
    const numbers = new Uint32Array(this.#answer());
    const found = {};
    let at = 0;
    for (const name of ["functions", "tables", "memories", "globals"]) {
      found[name] = numbers.slice(at + 1, at + 1 + numbers[at]);
      at += 1 + numbers[at];
    }
    return found;
  }

  // Globals: {type, mutable, value}.
  globals() {
    this.#call(() => this.core.globals());
    const view = new DataView(this.#answer());
    const found = [];
    for (let at = 0; at < view.byteLength; at += 24) {
      const type = view.getUint32(at, true);
      let value = view.getBigUint64(at + 8, true);
      if (type === 0x7b) value |= view.getBigUint64(at + 16, true) << 64n;
      found.push({ type, mutable: view.getUint32(at + 4, true) === 1, value });
    }
    return found;
  }

  // All of it as a plain state, which wasmsr reads as a snapshot.
  state() {
    this.#call(() => this.core.state());
    return new Uint8Array(this.#answer());
  }
}

function differs(one, other) {
  return one.length !== other.length || one.some((byte, at) => byte !== other[at]);
}
