// The code of a module as text: bodies of functions, and the instructions in them. The module was
// validated before it ran, so each body is well formed. `interp/instruction_set/instructions.py`
// has the same in Python, and the table of instructions comes from there.

const TYPES = {
  0x7f: "i32", 0x7e: "i64", 0x7d: "f32", 0x7c: "f64", 0x7b: "v128", 0x70: "funcref",
  0x6f: "externref", 0x69: "exnref", 0x73: "nullfuncref", 0x72: "nullexternref", 0x74: "nullexnref",
};
const HEAPS = { 0x70: "func", 0x6f: "extern", 0x69: "exn", 0x73: "nofunc", 0x72: "noextern", 0x74: "noexn" };
const CATCHES = ["catch", "catch_ref", "catch_all", "catch_all_ref"];

export const typeName = (code) => TYPES[code] ?? "0x" + code.toString(16);

const LONGEST_TEXT = 200; // characters of the immediates of an instruction
const MOST_BODIES = 64; // functions whose instructions are kept

export class Reader {
  constructor(bytes, at) {
    this.bytes = bytes;
    this.at = at;
  }

  byte() {
    if (this.at >= this.bytes.length) throw new RangeError("the bytes end before a number does");
    return this.bytes[this.at++];
  }

  // A number that is a count or an index, of 53 bits at most.
  u() {
    let [result, scale] = [0, 1];
    for (;;) {
      const byte = this.byte();
      result += (byte & 127) * scale;
      scale *= 128;
      if (byte < 128) return result;
    }
  }

  // A number of 64 bits.
  wide() {
    let [result, shift] = [0n, 0n];
    for (;;) {
      const byte = this.byte();
      result |= BigInt(byte & 127) << shift;
      shift += 7n;
      if (byte < 128) return BigInt.asUintN(64, result);
    }
  }

  s() {
    let [result, shift] = [0n, 0n];
    for (;;) {
      const byte = this.byte();
      result |= BigInt(byte & 127) << shift;
      shift += 7n;
      if (byte < 128) return BigInt.asIntN(Number(shift), result);
    }
  }

  heap() {
    const value = this.s();
    return value >= 0n ? String(value) : HEAPS[Number(value & 127n)] ?? "0x" + (value & 127n).toString(16);
  }

  type() {
    const code = this.byte();
    if (code === 0x63 || code === 0x64) return `(ref ${code === 0x63 ? "null " : ""}${this.heap()})`;
    return typeName(code);
  }
}

export class Disassembler {
  // `table`: by opcode, [name, kind of immediates]; `functions`: names by index.
  constructor(bytes, table, imported, functions) {
    this.bytes = bytes;
    this.table = table;
    this.imported = imported;
    this.functions = functions;
    this.bodies = this.#findBodies();
    this.known = new Map();
  }

  #findBodies() {
    const read = new Reader(this.bytes, 8);
    while (read.at < this.bytes.length) {
      const kind = read.byte();
      const size = read.u();
      const end = read.at + size;
      if (kind === 10) {
        const found = [];
        for (let left = read.u(); left; left--) {
          const length = read.u();
          found.push([read.at, read.at + length]);
          read.at += length;
        }
        return found;
      }
      read.at = end;
    }
    return [];
  }

  // The instructions of a function, by its index: {offset, end, name, text}.
  of(index) {
    let found = this.known.get(index);
    this.known.delete(index); // the one that was asked for last is at the end
    found ??= this.#list(index);
    this.known.set(index, found);
    if (this.known.size > MOST_BODIES) this.known.delete(this.known.keys().next().value);
    return found;
  }

  #list(index) {
    const body = this.bodies[index - this.imported];
    if (!body) return [];
    const read = new Reader(this.bytes, body[0]);
    for (let groups = read.u(); groups; groups--) {
      read.u();
      read.type();
    }
    const found = [];
    let depth = 0;
    while (read.at < body[1]) {
      const offset = read.at;
      const one = this.#instruction(read);
      if (one.name === "end" || one.name === "else") depth--;
      found.push({ ...one, offset, end: read.at, depth: Math.max(depth, 0) });
      if (["block", "loop", "if", "else", "try_table"].includes(one.name)) depth++;
    }
    return found;
  }

  // Where the first instruction of a function is.
  start(index) {
    return this.of(index)[0]?.offset ?? null;
  }

  // The function whose body has an offset.
  functionAt(offset) {
    const at = this.bodies.findIndex(([begin, end]) => begin <= offset && offset < end);
    return at < 0 ? null : at + this.imported;
  }

  #instruction(read) {
    let code = read.byte();
    if (code === 0xfc || code === 0xfe) code = code * 256 + read.u();
    else if (code === 0xfd) code = code * 65536 + read.u();
    const row = this.table[code];
    if (!row) return { name: "0x" + code.toString(16), text: "" };
    const text = this.#immediates(row[1], read).join(" ");
    return { name: row[0], text: text.length > LONGEST_TEXT ? `${text.slice(0, LONGEST_TEXT)}...` : text };
  }

  #immediates(kind, read) {
    const many = (count, one) => Array.from({ length: count }, one);
    switch (kind) {
      case "block":
      case "block catches":
        return this.#block(kind, read);
      case "labels":
        return many(read.u() + 1, () => read.u());
      case "types":
        return many(read.u(), () => read.type());
      case "reftype":
        return [read.heap()];
      case "memarg":
      case "memarg lane": {
        const align = read.u();
        const memory = align & 64 ? [read.u()] : [];
        const found = [...memory, `offset=${read.wide()}`, `align=${1 << (align & 63)}`];
        return kind === "memarg" ? found : [...found, read.byte()];
      }
      case "i32":
      case "i64":
        return [read.s()];
      case "f32":
      case "f64": {
        const view = new DataView(this.bytes.buffer, this.bytes.byteOffset + read.at, 8);
        read.at += kind === "f32" ? 4 : 8;
        return [kind === "f32" ? view.getFloat32(0, true) : view.getFloat64(0, true)];
      }
      case "v128":
        return ["i32x4", ...many(4, () => this.#word(read))];
      case "lanes":
        return many(16, () => read.byte());
      case "lane":
        return [read.byte()];
      case "zero":
        read.byte();
        return [];
      case "function": {
        const index = read.u();
        return [index, this.functions[index] ? `<${this.functions[index]}>` : ""];
      }
      default:
        return many(kind ? kind.split(" ").length : 0, () => read.u());
    }
  }

  #block(kind, read) {
    const first = this.bytes[read.at];
    const found = [];
    if (first === 0x40) read.byte();
    else if (first > 0x40 && first < 0x80) found.push(read.type());
    else found.push(`type=${read.s()}`);
    for (let left = kind === "block" ? 0 : read.u(); left; left--) {
      const clause = read.byte();
      const operands = Array.from({ length: clause < 2 ? 2 : 1 }, () => read.u());
      found.push(`(${CATCHES[clause]} ${operands.join(" ")})`);
    }
    return found;
  }

  #word(read) {
    let word = 0;
    for (let byte = 0; byte < 4; byte++) word += read.byte() * 2 ** (8 * byte);
    return "0x" + word.toString(16).padStart(8, "0");
  }
}
