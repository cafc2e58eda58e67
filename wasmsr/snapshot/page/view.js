// Shows a program: frames, values, code, memory, globals. It changes nothing of the program.

const PAGE = 4096;
const AROUND = 24; // instructions shown before and after the position
const ROWS = 16; // lines of memory
const MOST_ROWS = 2000; // lines of a table

export const byId = (id) => document.getElementById(id);
export const hex = (value) => "0x" + value.toString(16);

export function element(name, text, more = {}) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = String(text);
  for (const [key, value] of Object.entries(more)) made.setAttribute(key, value);
  return made;
}

export function row(cells, more = {}) {
  const made = element("tr", null, more);
  cells.forEach((cell, at) => {
    const place = element(at ? "td" : "th", null, at ? {} : { scope: "row" });
    place.append(cell ?? "");
    made.append(place);
  });
  return made;
}

// The first rows of a table, and how many more there are.
function rowsOf(count, make) {
  const rows = Array.from({ length: Math.min(count, MOST_ROWS) }, (_, at) => make(at));
  if (count > MOST_ROWS) rows.push(row([`and ${count - MOST_ROWS} more`]));
  return rows.length ? rows : [row(["none"])];
}

// Do what makes parts of the page anew. The focus stays on what it was on, or on what is like it.
function keepingFocus(work) {
  const had = document.activeElement;
  const around = had?.closest("#frames, #code, #ranges");
  work();
  if (!around || had.isConnected) return;
  const [name, value] = Object.entries(had.dataset)[0] ?? ["none", ""];
  const same = around.querySelector(`[data-${name}="${value}"]`) ?? around.querySelector("[aria-current] button");
  (same ?? around.closest("[tabindex]"))?.focus();
}

const decimal = (number) => (Object.is(number, -0) ? "-0" : String(number));
const bits = new DataView(new ArrayBuffer(16));

// A value of a type as text: signed numbers, floats, references.
export function valueText(type, value, functionName) {
  if (type === 0x7f) return `${BigInt.asIntN(32, value)}  ${hex(BigInt.asUintN(32, value))}`;
  if (type === 0x7e) return `${BigInt.asIntN(64, value)}  ${hex(value)}`;
  bits.setBigUint64(0, BigInt.asUintN(64, value), true);
  if (type === 0x7d) return decimal(bits.getFloat32(0, true));
  if (type === 0x7c) return decimal(bits.getFloat64(0, true));
  if (type === 0x7b) return "0x" + value.toString(16).padStart(32, "0");
  if (value === 0n) return "null";
  return type === 0x70 ? functionName(Number(value - 1n)) : `reference ${value - 1n}`;
}

export class View {
  constructor(machine, about, codes, baseline) {
    this.machine = machine;
    this.about = about;
    this.codes = codes; // a disassembler for each module
    this.debug = about.modules.map(({ debug }) => (debug ? new Sources(debug) : undefined));
    this.baseline = baseline; // {of(memory, page): bytes or null} of the saved state
    this.named = new Map(); // functions by address
    this.chosen = null; // the frame that is shown, null for the innermost
    this.address = 0;
    this.memory = 0;
    this.shownBytes = null; // {memory, from, bytes} that were shown last
  }

  code(instance) {
    return this.codes[this.machine.core.module_of(instance)];
  }

  module(instance) {
    return this.about.modules[this.machine.core.module_of(instance)];
  }

  functionName(frame) {
    return this.module(frame.instance).functions[frame.function] ?? `function ${frame.function}`;
  }

  addressName(address) {
    if (!this.named.has(address)) this.named.set(address, this.#findName(address));
    return this.named.get(address);
  }

  #findName(address) {
    const host = this.about.hosts[address];
    if (host) return `${host.module}.${host.name}`;
    const count = this.machine.core.instances();
    this.functions ??= Array.from({ length: count }, (_, at) => this.machine.addresses(at).functions);
    for (let number = 0; number < count; number++) {
      const index = this.functions[number].indexOf(address);
      if (index >= 0) return this.module(number).functions[index] ?? `function ${index}`;
    }
    return `function ${address}`;
  }

  // The debug data of an instance's module, or undefined.
  sources(instance) {
    return this.debug[this.machine.core.module_of(instance)];
  }

  // The frame that is shown, and whether it waits for a callee.
  frame(frames) {
    const last = frames.length - 1;
    const at = this.chosen === null ? last : Math.max(0, Math.min(this.chosen - (frames[0]?.at ?? 0), last));
    return { at, one: frames[at], waiting: at < last };
  }

  show() {
    keepingFocus(() => this.#show());
  }

  #show() {
    const frames = this.machine.frames(MOST_ROWS);
    const { at, one, waiting } = this.frame(frames);
    this.#where(frames);
    this.#frames(frames, at);
    this.#values(one);
    this.#variables(one, waiting);
    this.#code(one, waiting);
    this.#globals();
    this.#memoryChoices();
    this.hex();
  }

  #where(frames) {
    const top = frames.at(-1);
    const place = top ? `in ${this.functionName(top)} at byte ${hex(top.offset)}` : "no function runs";
    const { count, before, outcome } = this.machine;
    const since = count ? `, ${count} after it was saved` : ", as it was saved";
    byId("where").textContent = `After ${before + count} instructions${since}: ${outcome}, ${place}.`;
  }

  #frames(frames, chosen) {
    const rows = [];
    for (let at = frames.length - 1; at >= 0; at--) {
      const one = frames[at];
      const name = element("button", this.functionName(one), { type: "button", "data-frame": one.at });
      const place = at < frames.length - 1 ? one.offset - 1 : one.offset;
      const known = this.sources(one.instance)?.functions(place) ?? [];
      for (const inlined of known.slice(0, -1))
        rows.push(row(["", `${inlined.name} (inlined)`, "", inlined.line]));
      const source = known.at(-1)?.line ?? this.sources(one.instance)?.line(place) ?? "";
      const made = row([`${frames.length - 1 - at}`, name, hex(one.offset), source]);
      if (at === chosen) made.setAttribute("aria-current", "true");
      rows.push(made);
    }
    if (frames[0]?.at) rows.push(row([`and ${frames[0].at} more`]));
    byId("frames").replaceChildren(...rows);
    const sources = this.debug.some(Boolean);
    for (const one of document.querySelectorAll("#stack th.source, #stack td:nth-child(4)"))
      one.hidden = !sources;
  }

  #values(one) {
    const names = one ? this.module(one.instance).locals[one.function] ?? {} : {};
    const rows = rowsOf(one ? one.types.length : 0, (at) => {
      const type = one.types[at];
      const local = at < one.locals;
      const name = local ? names[at] ?? `local ${at}` : `operand ${at - one.locals}`;
      const dead = local && !one.live[at];
      const text = dead
        ? element("span", "no value: it is not read again", { class: "soft" })
        : valueText(type, one.values[at], (address) => this.addressName(address));
      return row([name, typeName(type), text]);
    });
    byId("values").replaceChildren(...rows);
  }

  #variables(one, waiting) {
    const sources = one && this.sources(one.instance);
    byId("variables").hidden = !sources;
    if (!sources) return;
    const has = this.machine.addresses(one.instance);
    const globals = this.machine.globals();
    const memory = has.memories.length ? this.machine.memory(has.memories[0]) : new Uint8Array();
    const state = {
      offset: waiting ? one.offset - 1 : one.offset,
      local: (at) => (at < one.locals && one.live[at] ? one.values[at] : null),
      operand: (at) => one.values[one.locals + at] ?? null,
      global: (at) => globals[has.globals[at]]?.value ?? null,
      memory,
    };
    const none = () => element("span", "no value here", { class: "soft" });
    const show = (id, found) => {
      const rows = found.map(({ name, type, text }) => row([name, type, text ?? none()]));
      byId(id).replaceChildren(...(rows.length ? rows : [row(["none"])]));
    };
    show("variable-rows", sources.variables(state));
    // A program may have very many of them.
    if (byId("outside").open) show("outside-rows", sources.globals(state, byId("outside-name").value));
  }

  #code(one, waiting) {
    const list = byId("code");
    if (!one) return list.replaceChildren(element("li", "no function runs"));
    const all = this.code(one.instance).of(one.function);
    const here = all.findIndex((each) => (waiting ? each.end : each.offset) === one.offset);
    const rows = [];
    let last = "";
    const around = all.slice(Math.max(0, here - AROUND), here + AROUND + 1);
    const least = Math.min(...around.map((each) => each.depth));
    for (const each of around) {
      const made = element("li");
      const offset = element("button", hex(each.offset), { type: "button", "data-offset": each.offset });
      offset.title = "Run to this instruction";
      const source = this.sources(one.instance)?.line(each.offset);
      const words = `${"  ".repeat(Math.min(each.depth - least, 20))}${each.name} ${each.text}`;
      made.append(offset, element("span", words.trimEnd()));
      if (source && source !== last) made.append(element("span", source, { class: "soft" }));
      last = source || last;
      if (all[here] === each) made.setAttribute("aria-current", "true");
      rows.push(made);
    }
    list.replaceChildren(...rows);
    const current = list.querySelector("[aria-current]");
    if (current) list.scrollTop = current.offsetTop - list.offsetTop - list.clientHeight / 2;
  }

  #globals() {
    const all = this.machine.globals();
    const rows = rowsOf(all.length, (at) => {
      const { type, mutable, value } = all[at];
      return row([
        this.about.globals[at] ?? `global ${at}`,
        typeName(type) + (mutable ? "" : ", constant"),
        valueText(type, value, (address) => this.addressName(address)),
      ]);
    });
    byId("globals").replaceChildren(...rows);
  }

  #memoryChoices() {
    const count = this.machine.memories();
    const list = byId("memory");
    if (list.options.length === count) return;
    list.replaceChildren();
    for (let at = 0; at < count; at++)
      list.append(element("option", this.about.memories[at] ?? `memory ${at}`, { value: at }));
  }

  hex() {
    const place = byId("hex");
    if (!this.machine.memories()) return place.replaceChildren("no memory");
    const memory = this.machine.memory(this.memory);
    const within = Math.max(0, Math.min(this.address, memory.length - 1));
    const from = within - (within % 16);
    const bytes = memory.slice(from, from + 16 * ROWS);
    const before = this.shownBytes;
    const same = before && before.memory === this.memory ? before : { from: 0, bytes: [] };
    const pieces = [];
    for (let line = 0; line < bytes.length; line += 16) {
      pieces.push((from + line).toString(16).padStart(8, "0") + "  ");
      let text = "";
      for (let at = line; at < line + 16 && at < bytes.length; at++) {
        const old = same.bytes[from + at - same.from];
        const byte = bytes[at];
        const kinds = [
          ...(old !== undefined && old !== byte ? ["changed"] : []),
          ...(from + at === this.address ? ["chosen"] : []),
        ];
        const shown = byte.toString(16).padStart(2, "0");
        pieces.push(kinds.length ? element("span", shown, { class: kinds.join(" ") }) : shown);
        pieces.push(at % 16 === 7 ? "  " : " ");
        text += byte > 31 && byte < 127 ? String.fromCharCode(byte) : ".";
      }
      pieces.push(` ${text}\n`);
    }
    place.replaceChildren(...pieces);
    this.shownBytes = { memory: this.memory, from, bytes };
  }

  // Where data is, and what differs from the saved state, in pages of 4 KiB.
  map() {
    if (!this.machine.memories()) return;
    const memory = this.machine.memory(this.memory);
    const pages = memory.length / PAGE;
    const kinds = new Uint8Array(pages);
    const words = new Uint32Array(memory.buffer, memory.byteOffset, memory.length / 4);
    const each = PAGE / 4;
    for (let page = 0; page < pages; page++) {
      const old = this.baseline.of(this.memory, page);
      for (let at = 0; at < each; at++) {
        const word = words[page * each + at];
        if (word) kinds[page] |= 1;
        if (word !== (old ? old[at] : 0)) kinds[page] |= 2;
        if (kinds[page] & 2) break;
      }
    }
    this.#draw(kinds);
    this.#ranges(kinds);
  }

  #draw(kinds) {
    const canvas = byId("map");
    const cells = canvas.width * 8;
    const per = Math.max(1, Math.ceil(kinds.length / cells));
    const wide = canvas.width / Math.ceil(Math.ceil(kinds.length / per) / 8);
    const ink = getComputedStyle(document.body);
    const colours = ["--fill", "--soft", "--changed", "--changed"].map((name) => ink.getPropertyValue(name));
    const paint = canvas.getContext("2d");
    paint.clearRect(0, 0, canvas.width, canvas.height);
    for (let cell = 0; cell * per < kinds.length; cell++) {
      let kind = 0;
      for (let at = cell * per; at < (cell + 1) * per && at < kinds.length; at++) kind |= kinds[at];
      paint.fillStyle = colours[kind];
      paint.fillRect((cell >> 3) * wide, (cell & 7) * 8, Math.ceil(wide), 8);
    }
    const data = kinds.filter((kind) => kind & 1).length;
    const changed = kinds.filter((kind) => kind & 2).length;
    byId("map-said").textContent =
      `${kinds.length} pages of 4 KiB; ${data + kinds.filter((kind) => kind === 2).length} have data or ` +
      `changed, ${changed} changed since the program was saved.`;
  }

  #ranges(kinds) {
    const rows = [];
    const said = (kind) => (kind & 2 ? "changed" : kind & 1 ? "data" : "zeros");
    for (let from = 0; from < kinds.length; ) {
      if (rows.length === MOST_ROWS) {
        rows.push(row(["and more"]));
        break;
      }
      let to = from;
      while (to < kinds.length && said(kinds[to]) === said(kinds[from])) to++;
      const start = element("button", hex(from * PAGE), { type: "button", "data-address": from * PAGE });
      rows.push(row([start, hex(to * PAGE - 1), said(kinds[from])]));
      from = to;
    }
    keepingFocus(() => byId("ranges").replaceChildren(...rows));
  }

  tables(place, blocks) {
    for (const [title, headings, rows] of blocks) {
      if (!rows.length) continue;
      const table = element("table");
      table.append(element("caption", title));
      if (headings.length) {
        const head = element("tr");
        for (const heading of headings) head.append(element("th", heading, { scope: "col" }));
        const top = element("thead");
        top.append(head);
        table.append(top);
      }
      const body = element("tbody");
      body.append(...rows.slice(0, MOST_ROWS).map((cells) => row(cells)));
      if (rows.length > MOST_ROWS) body.append(row(["and more"]));
      table.append(body);
      place.append(table);
    }
  }
}
