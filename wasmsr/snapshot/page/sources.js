// The debug data of a module: source lines, functions that were inlined, and variables. Where a
// variable is depends on the state, so its expression (DWARF 5, section 2.5) is evaluated here.

const DEEPEST = 2; // structures inside each other that are shown
const MOST_PARTS = 8; // elements of an array
const LONGEST = 60; // characters of a string

export class Sources {
  // `data`: {files, at, file, line, scopes, variables, types}, with offsets in the module.
  constructor(data) {
    this.data = data;
  }

  // The line of an offset as "file:line", or "".
  line(offset) {
    const { at, line, file, files } = this.data;
    let [low, high] = [0, at.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (at[middle] <= offset) low = middle + 1;
      else high = middle;
    }
    if (!low) return "";
    return line[low - 1] ? `${files[file[low - 1]]}:${line[low - 1]}` : "";
  }

  // The scopes around an offset, outermost first.
  scopes(offset) {
    const found = [];
    const inside = ({ ranges }) => ranges.some(([begin, end]) => begin <= offset && offset < end);
    let next = this.data.scopes.find(inside);
    while (next) {
      found.push(next);
      next = next.inside.find(inside);
    }
    return found;
  }

  // The source functions of a frame, innermost first: {name, line}. Those before the last were
  // inlined into it.
  functions(offset) {
    const found = [];
    let line = this.line(offset);
    for (const scope of this.scopes(offset).reverse()) {
      if (scope.kind === "block") continue;
      found.push({ name: scope.name, line });
      line = scope.called ?? "";
    }
    return found;
  }

  // The variables of a frame, of the innermost scope first: {name, type, text}; text is null where
  // the variable has no value. `state`: {offset, local(index), global(index), memory}.
  variables(state) {
    const scopes = this.scopes(state.offset);
    const base = scopes.find((scope) => scope.base)?.base;
    const found = [];
    for (const scope of scopes.reverse())
      for (const [name, type, place] of scope.variables)
        found.push({ name, ...this.#shown(type, place, { ...state, base }) });
    return found;
  }

  // The variables outside of functions.
  globals(state) {
    return this.data.variables
      .filter(([name]) => name !== "?")
      .map(([name, type, place]) => ({ name, ...this.#shown(type, place, state) }));
  }

  #shown(number, place, state) {
    const type = this.data.types[number] ?? { name: "?", kind: "other", size: 0 };
    let text = null;
    try {
      const found = this.#find(place, state);
      if (found) text = this.#text(type, found, state, 0);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      text = "outside the memory";
    }
    return { type: type.name, text };
  }

  // Where a variable is: {address}, or its value as {value}; null if it has none now.
  #find(place, state) {
    if (place === null || place === undefined) return null;
    if (place.constant !== undefined) return { value: BigInt(place.constant) };
    if (typeof place === "string") return this.#evaluate(place, state);
    const here = place.find(([begin, end]) => begin <= state.offset && state.offset < end);
    return here ? this.#evaluate(here[2], state) : null;
  }

  #evaluate(hexes, state) {
    const bytes = Uint8Array.from(hexes.match(/../g) ?? [], (two) => parseInt(two, 16));
    const read = new Reader(bytes, 0);
    const view = new DataView(bytes.buffer);
    const stack = [];
    let isValue = false;
    while (read.at < bytes.length) {
      const code = read.byte();
      if (code === 0x03) {
        stack.push(BigInt(view.getUint32(read.at, true)));
        read.at += 4;
      } else if (code === 0x06) {
        stack.push(BigInt(viewOf(state).getUint32(Number(stack.pop()), true)));
      } else if (code === 0x08 || code === 0x09) {
        stack.push(BigInt(code === 0x08 ? view.getUint8(read.at) : view.getInt8(read.at)));
        read.at += 1;
      } else if (code === 0x10) stack.push(BigInt(read.u()));
      else if (code === 0x11) stack.push(read.s());
      else if (code === 0x1c || code === 0x22) {
        const right = stack.pop();
        stack.push(code === 0x22 ? stack.pop() + right : stack.pop() - right);
      } else if (code === 0x23) stack.push(stack.pop() + BigInt(read.u()));
      else if (code >= 0x30 && code <= 0x4f) stack.push(BigInt(code - 0x30));
      else if (code === 0x91) {
        const base = state.base && this.#evaluate(state.base, { ...state, base: null });
        if (!base) return null;
        stack.push((base.value ?? base.address) + read.s());
      } else if (code === 0x9f) isValue = true;
      else if (code === 0xed) {
        const value = this.#wasmPlace(read, view, state);
        if (value === null) return null;
        stack.push(value);
        isValue = true;
      } else return null; // an expression that is not evaluated here
      if (stack.some((value) => value === undefined)) return null;
      if (code !== 0xed && code !== 0x9f && isValue) isValue = false;
    }
    if (!stack.length) return null;
    return isValue ? { value: stack.at(-1) } : { address: stack.at(-1) & 0xffffffffn };
  }

  #wasmPlace(read, view, state) {
    const kind = read.byte();
    if (kind === 0) return state.local(read.u());
    if (kind === 1) return state.global(read.u());
    if (kind === 2) return state.operand(read.u());
    if (kind !== 3) return null;
    read.at += 4;
    return state.global(view.getUint32(read.at - 4, true));
  }

  #text(type, place, state, depth) {
    const { kind, size } = type;
    if (kind === "struct" || kind === "array") {
      if (place.address === undefined) return "in a local";
      return depth > DEEPEST ? "..." : this.#parts(type, Number(place.address), state, depth);
    }
    const bits = place.value ?? this.#bits(Number(place.address), size, state);
    const signed = BigInt.asIntN(8 * (size || 4), bits);
    const unsigned = BigInt.asUintN(8 * (size || 4), bits);
    if (kind === "bool") return unsigned ? "true" : "false";
    if (kind === "int") return `${signed}`;
    if (kind === "uint") return `${unsigned}`;
    if (kind === "enum") return `${type.values[String(signed)] ?? type.values[String(unsigned)] ?? signed}`;
    if (kind === "float") return valueText(size === 4 ? 0x7d : 0x7c, bits);
    if (kind === "char") {
      const seen = size === 1 && unsigned > 31n && unsigned < 127n;
      return seen ? `${signed} '${String.fromCharCode(Number(unsigned))}'` : `${signed}`;
    }
    if (kind === "pointer") {
      const string = this.data.types[type.of]?.kind === "char" && unsigned ? this.#string(unsigned, state) : "";
      return hex(unsigned) + string;
    }
    return hex(unsigned);
  }

  #bits(address, size, state) {
    let found = 0n;
    for (let at = Math.min(size || 4, 16) - 1; at >= 0; at--)
      found = (found << 8n) | BigInt(viewOf(state).getUint8(address + at));
    return found;
  }

  #string(pointer, state) {
    const at = Number(pointer);
    const end = state.memory.indexOf(0, at);
    if (at >= state.memory.length || end < 0) return "";
    const cut = end - at > LONGEST;
    const bytes = state.memory.slice(at, cut ? at + LONGEST : end);
    return ` ${JSON.stringify(new TextDecoder().decode(bytes))}${cut ? "..." : ""}`;
  }

  #parts(type, address, state, depth) {
    const show = (number, place) => {
      const part = this.data.types[number] ?? { name: "?", kind: "other", size: 0 };
      return this.#text(part, { address: BigInt(place) }, state, depth + 1);
    };
    if (type.kind === "struct") {
      const parts = type.members.map(([name, place, number]) => `${name}: ${show(number, address + place)}`);
      return `{${parts.join(", ")}}`;
    }
    const size = this.data.types[type.of]?.size ?? 0;
    const count = Math.min(type.count, MOST_PARTS);
    const parts = Array.from({ length: count }, (_, at) => show(type.of, address + at * size));
    return `[${parts.join(", ")}${type.count > count ? ", ..." : ""}]`;
  }
}

const viewOf = ({ memory }) => new DataView(memory.buffer, memory.byteOffset, memory.byteLength);
