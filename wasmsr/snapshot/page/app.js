// The page: unpacks the parts of its file, and does what keys and buttons ask.

const FOREVER = 1n << 62n;
const MOST_WATCHED = 65_536; // bytes
const MOST_ANSWERS = 1 << 28; // bytes of the answers that the page gives by itself, all in all
const ANSWER = 500; // bytes of an answer beside what it writes
const SHOWN_OUTPUT = 200_000; // bytes that are shown
const PIECE = 2_000_000n; // instructions between two looks at the keys
// What windows-1252 makes of the bytes 0x80 to 0x9f; the others are themselves.
const MADE = "\u20ac\x81\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\x8d\u017d\x8f" +
  "\x90\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\x9d\u017e\u0178";
const BYTES = new Uint8Array(65536);
for (let byte = 0; byte < 256; byte++) BYTES[byte] = byte;
for (let at = 0; at < MADE.length; at++) BYTES[MADE.charCodeAt(at)] = 0x80 + at;

// The bytes of a part: text in which "=" and a character stand for four bytes that HTML changes.
async function unpack(name) {
  const place = byId("part-" + name);
  if (!place) throw new Error(`the part ${name} is missing`);
  const text = place.textContent;
  const packed = new Uint8Array(text.length);
  let size = 0;
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    packed[size++] = code === 61 ? BYTES[text.charCodeAt(++at)] ^ 64 : BYTES[code];
  }
  const wanted = Number(place.dataset.size);
  place.remove();
  const unzipped = new Blob([packed.subarray(0, size)]).stream().pipeThrough(new DecompressionStream("gzip"));
  let bytes;
  try {
    bytes = new Uint8Array(await new Response(unzipped).arrayBuffer());
  } catch (error) {
    throw new Error(`the part ${name} is damaged`, { cause: error });
  }
  if (bytes.length !== wanted) throw new Error(`the part ${name} is damaged`);
  return bytes;
}

// The parts of a plain state, by kind.
function plainParts(head) {
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  const found = {};
  let at = 16;
  for (let left = view.getUint32(12, true); left; left--) {
    const size = Number(view.getBigUint64(at + 8, true));
    found[view.getUint32(at, true)] = head.subarray(at + 16, at + 16 + size);
    at += 16 + size + ((8 - (size % 8)) % 8);
  }
  return found;
}

function binariesOf(part) {
  const view = new DataView(part.buffer, part.byteOffset, part.byteLength);
  const count = view.getUint32(0, true);
  let at = 4 + 4 * count;
  return Array.from({ length: count }, (_, number) => {
    const size = view.getUint32(4 + 4 * number, true);
    at += size;
    return part.subarray(at - size, at);
  });
}

// The pages of the saved state, by memory and number.
class Baseline {
  constructor(runs, pages) {
    this.places = new Map();
    this.pages = pages;
    if (!runs) return;
    const view = new DataView(runs.buffer, runs.byteOffset, runs.byteLength);
    let place = 0;
    for (let at = 0; at < runs.byteLength; at += 16) {
      const [memory, first, count] = [0, 4, 8].map((more) => view.getUint32(at + more, true));
      for (let page = first; page < first + count; page++)
        this.places.set(memory * 2 ** 32 + page, place++);
    }
  }

  of(memory, page) {
    const place = this.places.get(memory * 2 ** 32 + page);
    return place === undefined ? null : new Uint32Array(this.pages.buffer, place * 4096, 1024);
  }
}

const pause = () => new Promise((go) => setTimeout(go));
const said = (text) => (byId("said").textContent = text);

function numberOf(text) {
  try {
    return BigInt(text.trim().replaceAll("_", ""));
  } catch {
    throw new Error(`"${text.slice(0, 40)}" is no whole number; write 4096 or 0x1000`);
  }
}

class Debugger {
  constructor(machine, view, about) {
    this.machine = machine;
    this.view = view;
    this.about = about;
    this.breaks = { position: null, memory: null };
    this.written = []; // {count, bytes, end}: output of answered calls, and the bytes up to there
    this.given = 0; // bytes of the answers that the page gave
    this.running = false;
    this.stopping = false;
    this.manual = null; // the answer that a person has given
    const automatic = (kind) => document.querySelector(`[data-kind=${kind}]`).checked;
    this.host = new HostCalls(about.wasi, about.hosts, automatic, BigInt(about.monotonic));
    this.answer = (call) => this.#answer(call);
  }

  #answer(call) {
    const manual = this.manual;
    this.manual = null;
    if (manual) return manual;
    if (this.given > MOST_ANSWERS) {
      said("The page keeps no more answers. Give this one, or open the page anew.");
      return null;
    }
    const found = this.host.answer(call, this.machine);
    if (!found) return null;
    this.given += ANSWER + (found.output?.length ?? 0);
    for (const one of found.writes ?? []) this.given += one.bytes.length;
    if (found.output) {
      const end = (this.written.at(-1)?.end ?? 0) + found.output.length;
      this.written.push({ count: this.machine.count, bytes: found.output, end });
    }
    return found;
  }

  depth() {
    return this.machine.core.frame_count();
  }

  // Run with watches until one accepts, or the program stops. Yields between pieces.
  *forward(most, watch, accepts = () => true) {
    const machine = this.machine;
    const end = machine.count + most;
    machine.watch(watch);
    let leave = true;
    while (machine.count < end) {
      const left = end - machine.count;
      machine.run(left < PIECE ? left : PIECE, this.answer, leave);
      leave = machine.hit === "position";
      if (machine.hit && accepts()) return true;
      if (machine.outcome !== "paused") return false;
      yield;
    }
    return false;
  }

  *to(count) {
    this.machine.near(count);
    while (this.machine.count < count && this.machine.outcome === "paused") {
      const left = count - this.machine.count;
      this.machine.run(left < PIECE ? left : PIECE, this.answer);
      yield;
    }
  }

  // Go back to the last moment at which a watch stops; without one, stay here.
  *backTo(watch, accepts, nothing) {
    const here = this.machine.count;
    const found = yield* this.machine.lastBefore(watch, accepts);
    yield* this.to(found ?? here);
    if (found === null) said(nothing);
  }

  // ---- what one can ask for ----

  *step() {
    yield* this.forward(1n, {});
  }

  *over() {
    const depth = this.depth();
    yield* this.forward(1n, {});
    if (this.depth() > depth) yield* this.forward(FOREVER, { ...this.breaks, frames: depth });
  }

  // Where the innermost frame is in the source, "" where that is not known.
  #line() {
    const top = this.machine.frames(1)[0];
    return top ? this.view.sources(top.instance)?.line(top.offset) ?? "" : "";
  }

  // To the next line of the source, in this function or in its caller.
  *line() {
    const [depth, first] = [this.depth(), this.#line()];
    if (!first) return said("Here the line is not known; the module may have no debug data.");
    for (let steps = 0; this.depth() >= depth - 1; steps++) {
      const before = this.machine.count;
      yield* this.over();
      yield;
      const stopped = this.machine.outcome !== "paused" || this.machine.count === before;
      if (stopped || this.machine.hit === "position" || this.machine.hit === "write") return;
      const now = this.#line();
      if (now && (now !== first || this.depth() < depth)) return;
    }
  }

  *out() {
    yield* this.forward(FOREVER, { ...this.breaks, frames: this.depth() - 1 });
  }

  *run() {
    yield* this.forward(FOREVER, this.breaks);
    if (this.machine.hit) said(this.machine.hit === "write" ? "The bytes were written." : "Here is the break.");
  }

  *back() {
    if (!this.machine.count) return said("Before the saved state nothing is known.");
    yield* this.to(this.machine.count - 1n);
  }

  *backOver() {
    const depth = this.depth();
    yield* this.back();
    if (this.depth() > depth) yield* this.#toCall(depth);
  }

  *backOut() {
    if (this.depth() > 1) yield* this.#toCall(this.depth() - 1);
  }

  // Go back to the call by which the frame below `depth` waits.
  *#toCall(depth) {
    const frame = this.machine.frames(this.depth() - depth + 1)[0];
    const all = this.view.code(frame.instance).of(frame.function);
    const call = all.find((one) => one.end === frame.offset);
    const address = this.machine.addresses(frame.instance).functions[frame.function];
    if (!call) return said("This frame was not entered by a call of the program.");
    const position = { function: address, offset: call.offset };
    const nothing = "The call was before the program was saved.";
    yield* this.backTo({ position }, () => this.depth() <= depth, nothing);
  }

  *runBack() {
    if (!this.breaks.position && !this.breaks.memory) return yield* this.to(0n);
    yield* this.backTo(this.breaks, undefined, "Since the program was saved it was not there before.");
  }

  *lastChange() {
    const range = this.view.range();
    const nothing = `No byte of these has changed since the program was saved.`;
    yield* this.backTo({ memory: range }, undefined, nothing);
  }

  // The position that the form names: {function, offset}.
  position() {
    const text = byId("target").value.trim();
    const kind = byId("kind").value;
    if (kind === "count") throw new Error("a break is at a function or an offset, not at a count");
    const top = this.machine.frames(1)[0];
    const instance = top ? top.instance : 0;
    const code = this.view.code(instance);
    let [index, offset] = [null, null];
    if (kind === "offset") {
      offset = Number(numberOf(text));
      index = code.functionAt(offset);
    } else {
      const names = this.view.module(instance).functions;
      index = /^[0-9]+$/.test(text) ? Number(text) : names.indexOf(text);
      offset = index < 0 ? null : code.start(index);
    }
    if (index === null || offset === null) throw new Error(`there is no ${kind} ${text} with code`);
    const position = { function: this.machine.addresses(instance).functions[index], offset };
    if (!this.machine.watch({ position })) throw new Error(`no instruction starts at ${hex(offset)}`);
    return position;
  }

  *go() {
    if (byId("kind").value === "count")
      return yield* this.to(numberOf(byId("target").value) - this.machine.before);
    const found = yield* this.forward(FOREVER, { memory: this.breaks.memory, position: this.position() });
    if (!found && this.machine.outcome !== "host call") said("The program did not come there.");
  }

  *toBack() {
    if (byId("kind").value === "count") return yield* this.go();
    const position = this.position();
    yield* this.backTo({ position }, undefined, "Since it was saved, the program was not there before.");
  }

  *toOffset(offset) {
    byId("kind").value = "offset";
    byId("target").value = hex(offset);
    yield* this.go();
  }

  setBreak() {
    const now = this.breaks.position;
    const wanted = now && !byId("target").value.trim() ? now : this.position();
    const same = now && now.function === wanted.function && now.offset === wanted.offset;
    this.breaks.position = same ? null : wanted;
    this.showBreaks();
  }

  watch() {
    this.breaks.memory = this.breaks.memory ? null : this.view.range();
    this.showBreaks();
  }

  showBreaks() {
    const { position, memory } = this.breaks;
    const words = [
      ...(position ? [`at byte ${hex(position.offset)}`] : []),
      ...(memory ? [`on writes to ${hex(memory.begin)}-${hex(memory.end - 1)}`] : []),
    ];
    byId("breaks").textContent = words.length ? `Breaks: ${words.join(", ")}.` : "";
    document.querySelector("[data-do=setBreak]").setAttribute("aria-pressed", String(!!position));
    document.querySelector("[data-do=watch]").setAttribute("aria-pressed", String(!!memory));
  }

  // ---- carrying it out ----

  async perform(work) {
    if (this.running) return;
    said("");
    this.running = true;
    this.stopping = false;
    const here = this.machine.count;
    const before = performance.now();
    try {
      let last = performance.now();
      for (let one = work.next(); !one.done; one = work.next()) {
        if (performance.now() - last < 30) continue;
        this.#busy(true);
        await pause();
        if (this.stopping) break;
        last = performance.now();
      }
      if (this.stopping) {
        said("Stopped.");
        if (this.machine.count < here) for (const _ of this.to(here)) await pause();
      }
    } catch (error) {
      said(error.message + ".");
    }
    this.running = false;
    this.#busy(false);
    try {
      this.show();
    } catch (error) {
      said(`${error.message}. Open the page anew.`); // the core has no memory left
    }
    document.body.dataset.took = performance.now() - before;
    document.body.dataset.done = Number(document.body.dataset.done ?? 0) + 1;
  }

  #busy(busy) {
    if (busy && !byId("said").textContent) said("Running.");
    else if (!busy && byId("said").textContent === "Running.") said("");
    document.querySelector("[data-do=stop]").disabled = !busy;
    byId("main").setAttribute("aria-busy", String(busy));
  }

  show() {
    this.view.show();
    const call = this.machine.outcome === "host call" ? this.machine.pending : null;
    byId("host").hidden = !call;
    if (call) {
      byId("host-name").textContent = `The program calls ${this.host.name(call)}.`;
      const rows = this.host.parameters(call).map(([name, value]) => row([name, `${value}  ${hex(value)}`]));
      byId("host-params").replaceChildren(...rows);
      if (!byId("said").textContent) said(`Host call: ${this.host.name(call)}.`);
    }
    this.#output();
    clearTimeout(this.mapping);
    this.mapping = setTimeout(() => this.running || this.view.map(), 150);
  }

  // What was written before this moment, the last of it.
  #output() {
    const last = this.written.findLastIndex((one) => one.count < this.machine.count);
    const all = this.written[last]?.end ?? 0;
    const output = byId("output");
    if (Number(output.dataset.length ?? 0) === all) return;
    output.dataset.length = all;
    const pieces = [];
    let size = 0;
    for (let at = last; at >= 0 && size < SHOWN_OUTPUT; at--) {
      pieces.push(this.written[at].bytes);
      size += this.written[at].bytes.length;
    }
    const cut = size < all ? "...\n" : "";
    new Blob(pieces.reverse()).text().then((text) => {
      if (Number(output.dataset.length) === all) output.textContent = cut + text;
    });
  }

  answered() {
    const writes = [];
    const memory = this.machine.addresses(this.machine.pending.instance).memories[0] ?? 0;
    const size = this.machine.memories() ? this.machine.memory(memory).length : 0;
    for (const line of byId("writes").value.split("\n").filter((text) => text.trim())) {
      const [, offset, digits] = /^\s*(\w+)\s*:\s*((?:[0-9a-fA-F]{2}\s*)*)$/.exec(line) ?? [];
      if (offset === undefined) throw new Error(`"${line}" is no write; an example is 0x10: 01 ff`);
      const bytes = Uint8Array.from(digits.match(/[0-9a-fA-F]{2}/g) ?? [], (two) => parseInt(two, 16));
      const at = Number(numberOf(offset));
      if (at + bytes.length > size) throw new Error(`${offset} is outside the memory`);
      writes.push({ memory, offset: at, bytes });
    }
    this.manual = { result: BigInt.asUintN(64, numberOf(byId("result").value)), writes };
    return this.step();
  }
}

const KEYS = {
  s: "step", n: "over", i: "line", o: "out", c: "run", b: "back", p: "backOver", u: "backOut", r: "runBack",
  l: "lastChange", w: "watch", "[": "earlier", "]": "later", Escape: "stop",
};

function connect(one) {
  const view = one.view;
  const size = () => one.machine.memory(view.memory).length;
  view.range = () => {
    const count = numberOf(byId("size").value);
    if (count < 1n || count > MOST_WATCHED) throw new Error(`bytes are 1 to ${MOST_WATCHED}`);
    const end = view.address + Number(count);
    if (end > size()) throw new Error(`the memory has ${size()} bytes, and these are not in it`);
    return { memory: view.memory, begin: view.address, end };
  };
  const look = (address) => {
    view.address = Math.max(0, Math.min(address, size() - 1));
    byId("address").value = hex(view.address);
    view.shownBytes = null;
    view.hex();
  };
  const simple = {
    stop: () => (one.stopping = true),
    earlier: () => look(view.address - 256),
    later: () => look(view.address + 256),
    setBreak: () => one.setBreak(),
    watch: () => one.watch(),
  };
  const act = (name) => {
    try {
      if (name === "stop") return simple.stop();
      if (one.running) return;
      if (simple[name]) return simple[name]();
      return one.perform(one[name]());
    } catch (error) {
      said(error.message + ".");
    }
  };
  document.addEventListener("click", ({ target }) => {
    const button = target.closest("button");
    if (!button || one.running && button.dataset.do !== "stop") return;
    const { do: name, frame, offset, address } = button.dataset;
    if (name) act(name);
    else if (frame !== undefined) {
      view.chosen = Number(frame);
      view.show();
      document.querySelector(`[data-frame="${frame}"]`)?.focus();
    } else if (offset !== undefined) one.perform(one.toOffset(Number(offset)));
    else if (address !== undefined) look(Number(address));
  });
  document.addEventListener("keydown", (event) => {
    const { target, key } = event;
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (key !== "Escape" && target.closest("input:not([type=checkbox]), textarea, select")) return;
    if (!(key in KEYS) || (key !== "Escape" && !byId("keys").checked)) return;
    event.preventDefault();
    if (!["watch", "earlier", "later", "stop"].includes(KEYS[key])) view.chosen = null;
    act(KEYS[key]);
  });
  const submit = (id, work) =>
    byId(id).addEventListener("submit", (event) => {
      event.preventDefault();
      try {
        if (!one.running) work();
      } catch (error) {
        said(error.message + ".");
      }
    });
  const shown = () => one.running || view.show();
  byId("outside").addEventListener("toggle", shown);
  byId("outside-name").addEventListener("input", shown);
  submit("go", () => act("go"));
  submit("answer", () => one.perform(one.answered()));
  submit("look", () => {
    const address = Number(numberOf(byId("address").value));
    const memory = Number(byId("memory").value);
    const { length } = one.machine.memory(memory);
    if (address < 0 || address >= length)
      throw new Error(`the memory has ${length} bytes, and this is not one of them`);
    view.memory = memory;
    look(address);
    view.map();
  });
  submit("find", () => {
    const at = search(one.machine.memory(view.memory), byId("needle").value, view.address + 1);
    said(at < 0 ? "Not found." : `Found at ${hex(at)}.`);
    if (at >= 0) look(at);
  });
}

// Where text or bytes are next in a memory, from a place on and around its end; -1 if nowhere.
function search(memory, text, from) {
  const digits = /^0x((?:[0-9a-fA-F]{2})+)$/.exec(text.replaceAll(" ", ""));
  const wanted = digits
    ? Uint8Array.from(digits[1].match(/../g), (two) => parseInt(two, 16))
    : new TextEncoder().encode(text);
  const after = (at, end) => {
    for (at = memory.indexOf(wanted[0], at); at >= 0 && at < end; at = memory.indexOf(wanted[0], at + 1))
      if (wanted.every((byte, place) => memory[at + place] === byte)) return at;
    return -1;
  };
  const found = after(from, memory.length);
  return found >= 0 ? found : after(0, from);
}

async function open() {
  if (document.characterSet !== "windows-1252")
    throw new Error(
      `a server says that it is in ${document.characterSet}, and it is in windows-1252. Download the file, and open that`,
    );
  const names = ["about", "machine", "head", "pages"];
  const [told, core, head, pages] = await Promise.all(names.map(unpack));
  const about = JSON.parse(new TextDecoder().decode(told));
  const machine = new Machine(await WebAssembly.compile(core), head, pages);
  const parts = plainParts(head);
  const codes = binariesOf(parts[257]).map((bytes, number) => {
    const { imported, functions } = about.modules[number];
    return new Disassembler(bytes, about.instructions, imported, functions);
  });
  const view = new View(machine, about, codes, new Baseline(parts[264], pages));
  const one = new Debugger(machine, view, about);
  byId("title").textContent = about.title;
  document.title = `${about.title} - wasmsr snapshot`;
  const named = about.modules[0]?.functions.filter(Boolean).slice(0, 5000) ?? [];
  byId("functions").append(...named.map((name) => element("option", null, { value: name })));
  view.tables(byId("saved"), about.saved);
  if (about.difference) {
    byId("difference").append(element("h2", about.difference.title));
    view.tables(byId("difference"), about.difference.tables);
  }
  for (const warning of about.warnings) byId("difference").append(element("p", warning));
  connect(one);
  byId("main").hidden = false;
  said("");
  one.show();
  document.body.dataset.ready = performance.now(); // milliseconds since the navigation began
  window.wasmsr = one; // for the console
}

open().catch((error) => said(`This page cannot show its program: ${error.message}.`));
