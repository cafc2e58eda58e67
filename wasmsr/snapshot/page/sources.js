// The debug data of a module: source lines, functions that were inlined, and variables. Where a
// variable is depends on the state, so its expression (DWARF 5, section 2.5) is evaluated here.

const DEEPEST = 2; // structures inside each other that are shown
const MOST_PARTS = 8; // elements of an array
const LONGEST = 60; // characters of a string
const MOST_ALL = 4000; // parts of structures in all variables that are shown at once
const MOST_VARIABLES = 500; // variables of a frame, and those outside of functions
const CHARACTERS = new Set(["char", "uchar"]);
const WIDEST = 16; // bytes of a number
// What has no place in a line: control and direction marks, among others.
const UNSEEN = /[\p{C}\p{Zl}\p{Zp}]/gu;
const visible = (text) =>
  text.replace(UNSEEN, (one) => `\\u{${one.codePointAt(0).toString(16)}}`);

export class Sources {
  // `data`: {files, at, file, line, scopes, variables, types}, with offsets in the module.
  constructor(data) {
    this.data = data;
    this.left = MOST_ALL;
    // Functions by where they begin; they do not overlap.
    const places = data.scopes.flatMap((scope) => scope.ranges.map(([begin, end]) => ({ begin, end, scope })));
    this.places = places.sort((one, other) => one.begin - other.begin);
  }

  #function(offset) {
    let [low, high] = [0, this.places.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.places[middle].begin <= offset) low = middle + 1;
      else high = middle;
    }
    const found = this.places[low - 1];
    return found && offset < found.end ? found.scope : undefined;
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
    let next = this.#function(offset);
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
    const all = scopes.reverse().flatMap((scope) => scope.variables);
    return this.#all(all, { ...state, base });
  }

  // The variables outside of functions whose names have `part` in them.
  globals(state, part = "") {
    this.outside ??= this.data.variables.filter(([name]) => name !== "?");
    const found = part ? this.outside.filter(([name]) => name.includes(part)) : this.outside;
    return this.#all(found, state);
  }

  #all(variables, state) {
    this.left = MOST_ALL;
    const shown = variables.slice(0, MOST_VARIABLES);
    const found = shown.map(([name, type, place]) => ({ name, ...this.#shown(type, place, state) }));
    const more = variables.length - shown.length;
    return more ? [...found, { name: `and ${more} more`, type: "", text: "" }] : found;
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
    try {
      return this.#calculate(bytes, state);
    } catch (error) {
      const cut = error instanceof RangeError && !(error instanceof Outside);
      if (cut || error instanceof NoValue) return null;
      throw error;
    }
  }

  #calculate(bytes, state) {
    const read = new Reader(bytes, 0);
    const view = new DataView(bytes.buffer);
    const stack = [];
    const pop = () => {
      if (!stack.length) throw new NoValue();
      return stack.pop();
    };
    let isValue = false;
    while (read.at < bytes.length) {
      const code = read.byte();
      if (code === 0x03) {
        stack.push(BigInt(view.getUint32(read.at, true)));
        read.at += 4;
      } else if (code === 0x06) {
        const at = Number(pop());
        if (!(at >= 0 && at + 4 <= state.memory.length)) throw new Outside();
        stack.push(BigInt(viewOf(state).getUint32(at, true)));
      } else if (code === 0x08 || code === 0x09) {
        stack.push(BigInt(code === 0x08 ? view.getUint8(read.at) : view.getInt8(read.at)));
        read.at += 1;
      } else if (code === 0x10) stack.push(read.wide());
      else if (code === 0x11) stack.push(read.s());
      else if (code === 0x1c || code === 0x22) {
        const right = pop();
        stack.push(code === 0x22 ? pop() + right : pop() - right);
      } else if (code === 0x23) stack.push(pop() + read.wide());
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
    const { kind } = type;
    const size = Math.min(Math.max(type.size || 4, 1), kind === "struct" || kind === "array" ? Infinity : WIDEST);
    this.left--;
    if (kind === "struct" || kind === "array") {
      if (place.address === undefined) return "in a local";
      return depth > DEEPEST || this.left < 0 ? "..." : this.#parts(type, Number(place.address), state, depth);
    }
    const bits = place.value ?? this.#bits(Number(place.address), size, state);
    const signed = BigInt.asIntN(8 * size, bits);
    const unsigned = BigInt.asUintN(8 * size, bits);
    if (kind === "bool") return unsigned ? "true" : "false";
    if (kind === "int") return `${signed}`;
    if (kind === "uint") return `${unsigned}`;
    if (kind === "enum") return `${type.values[String(signed)] ?? type.values[String(unsigned)] ?? signed}`;
    if (kind === "float" && (size === 4 || size === 8)) return valueText(size === 4 ? 0x7d : 0x7c, bits);
    if (CHARACTERS.has(kind)) {
      const number = kind === "char" ? signed : unsigned;
      const seen = size === 1 && unsigned > 31n && unsigned < 127n;
      return seen ? `${number} '${String.fromCharCode(Number(unsigned))}'` : `${number}`;
    }
    if (kind === "pointer") {
      const text = unsigned && CHARACTERS.has(this.data.types[type.of]?.kind);
      return hex(unsigned) + (text ? this.#string(unsigned, state) : "");
    }
    return hex(unsigned);
  }

  #bits(address, size, state) {
    let found = 0n;
    for (let at = size - 1; at >= 0; at--)
      found = (found << 8n) | BigInt(viewOf(state).getUint8(address + at));
    return found;
  }

  // The value of a field of bits: `first` of the bytes at `address`, and how many.
  #field(type, address, [first, count], state) {
    const all = this.#bits(address, Math.ceil((first + count) / 8), state) >> BigInt(first);
    return type.kind === "int" || type.kind === "char" ? BigInt.asIntN(count, all) : BigInt.asUintN(count, all);
  }

  #string(pointer, state) {
    const at = Number(pointer);
    if (at >= state.memory.length) return "";
    const bytes = state.memory.slice(at, at + LONGEST + 1);
    const end = bytes.indexOf(0);
    const text = new TextDecoder().decode(end < 0 ? bytes.subarray(0, LONGEST) : bytes.subarray(0, end));
    return ` ${visible(JSON.stringify(text))}${end < 0 ? "..." : ""}`;
  }

  #parts(type, address, state, depth) {
    const show = (number, place, field = null) => {
      const part = this.data.types[number] ?? { name: "?", kind: "other", size: 0 };
      const found = field ? { value: this.#field(part, place, field, state) } : { address: BigInt(place) };
      return this.#text(part, found, state, depth + 1);
    };
    if (type.kind === "struct") {
      const parts = type.members.map(
        ([name, place, number, field]) => `${name}: ${show(number, address + place, field)}`,
      );
      return `{${parts.join(", ")}}`;
    }
    const { size } = this.data.types[type.of] ?? { size: 0 };
    const count = Math.min(type.count, MOST_PARTS);
    const parts = Array.from({ length: count }, (_, at) => show(type.of, address + at * size));
    return `[${parts.join(", ")}${type.count > count ? ", ..." : ""}]`;
  }
}

class NoValue extends Error {} // an expression takes more than there is
class Outside extends RangeError {} // an expression reads outside the memory

const viewOf = ({ memory }) => new DataView(memory.buffer, memory.byteOffset, memory.byteLength);
