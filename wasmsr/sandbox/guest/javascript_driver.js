// The loop inside a JavaScript guest (QuickJS): it reads requests, executes code, and tells what
// came of it. The protocol is that of python_driver.py; ../streams.py describes it.
//
// It is a module, so that each `await` runs the promises of the code.

const MARK = "\x1ewasmsr:";
const { stringify, parse } = JSON;
const { getline } = std.in;
const { puts, flush } = std.out;
const evaluate = std.evalScript;
const DISPLAY = Symbol.for("Jupyter.display");
const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const MOST = 200; // entries of an object that are shown
let asked = 0;

function send(answer) {
  puts.call(std.out, MARK + stringify(answer) + "\n");
  flush.call(std.out);
}

function receive() {
  for (;;) {
    const request = parse(getline.call(std.in));
    if (request.op !== "forked") return request;
    reseed(request.seed);
  }
}

class ToolError extends Error {
  get name() { return "ToolError"; }
}

function ask(question) {
  const id = "js" + ++asked;
  send({ id, ...question });
  for (;;) {
    const answer = receive();
    if (answer.op !== "answer" || answer.id !== id) continue;
    if (answer.failure !== undefined && answer.failure !== null) throw new ToolError(answer.failure);
    return decode(answer.value);
  }
}

// Values: what JSON can hold, and bytes in base64.

function toBase64(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 3) {
    const [a, b, c] = [bytes[at], bytes[at + 1], bytes[at + 2]];
    text += LETTERS[a >> 2] + LETTERS[((a & 3) << 4) | (b >> 4)];
    text += b === undefined ? "=" : LETTERS[((b & 15) << 2) | (c >> 6)];
    text += c === undefined ? "=" : LETTERS[c & 63];
  }
  return text;
}

function fromBase64(text) {
  const found = [];
  let bits = 0, count = 0;
  for (const letter of text) {
    if (letter === "=") break;
    bits = ((bits << 6) | LETTERS.indexOf(letter)) & 0xffffff;
    count += 6;
    if (count >= 8) { count -= 8; found.push((bits >> count) & 255); }
  }
  return new Uint8Array(found);
}

function encode(value, depth = 100) {
  if (depth < 0) throw new TypeError("the value is nested too deeply");
  if (value === undefined) return null;
  if (value === null || ["boolean", "number", "string"].includes(typeof value)) return value;
  if (value instanceof ArrayBuffer) value = new Uint8Array(value);
  if (value instanceof Uint8Array) return { $bytes: toBase64(value) };
  if (Array.isArray(value)) return value.map((one) => encode(one, depth - 1));
  if (typeof value !== "object") throw new TypeError(`a ${typeof value} cannot be passed on`);
  if ("$bytes" in value) throw new TypeError("the name $bytes cannot be passed on");
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, encode(one, depth - 1)]));
}

function decode(value) {
  if (Array.isArray(value)) return value.map(decode);
  if (value === null || typeof value !== "object") return value;
  if (typeof value.$bytes === "string") return fromBase64(value.$bytes);
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, decode(one)]));
}

// What code finds.

function reseed(seed) { // xorshift128 (Marsaglia, 2003), because QuickJS cannot be given a seed
  const state = [0, 8, 16, 24].map((at) => parseInt(seed.slice(at, at + 8), 16) | 0);
  if (!state.some((one) => one)) state[0] = 1;
  const next = () => {
    let t = state[3];
    const s = state[0];
    state[3] = state[2]; state[2] = state[1]; state[1] = s;
    t ^= t << 11; t ^= t >>> 8;
    state[0] = t ^ s ^ (s >>> 19);
    return state[0] >>> 0;
  };
  Math.random = () => (next() * 2 ** 21 + (next() >>> 11)) / 2 ** 53;
}

function shown(value, depth = 4, above = []) {
  if (typeof value === "string") return stringify(value);
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value === "symbol") return value.toString();
  if (typeof value === "function") return `[Function: ${value.name || "anonymous"}]`;
  if (value === null || typeof value !== "object") return Object.is(value, -0) ? "-0" : String(value);
  if (above.includes(value)) return "[Circular]";
  if (value instanceof Error) return `${value}\n${value.stack ?? ""}`.trimEnd();
  if (value instanceof Date) return isNaN(value) ? "Invalid Date" : value.toISOString();
  if (value instanceof RegExp) return String(value);
  if (value instanceof Promise) return "Promise {}";
  const inner = (one) => shown(one, depth - 1, [...above, value]);
  const list = (all, show) => {
    if (!depth && all.length) return "…";
    const parts = all.slice(0, MOST).map(show);
    if (all.length > MOST) parts.push(`… ${all.length - MOST} more`);
    return parts.join(", ");
  };
  const kind = value.constructor?.name ?? "null";
  if (Array.isArray(value)) return `[${list(value, inner)}]`;
  if (ArrayBuffer.isView(value) && "length" in value) return `${kind} [${list([...value], inner)}]`;
  if (value instanceof Map) {
    return `Map { ${list([...value], ([key, one]) => `${inner(key)} => ${inner(one)}`)} }`;
  }
  if (value instanceof Set) return `Set { ${list([...value], inner)} }`;
  const name = (key) => (/^[\p{ID_Start}$_][\p{ID_Continue}$]*$/u.test(key) ? key : stringify(key));
  const text = list(Object.entries(value), ([key, one]) => `${name(key)}: ${inner(one)}`);
  return (kind === "Object" ? "" : kind + " ") + (text ? `{ ${text} }` : "{}");
}

function rich(value) {
  const data = { "text/plain": shown(value) };
  try {
    const given = value?.[DISPLAY]?.();
    for (const [mime, one] of Object.entries(given ?? {})) data[mime] = encode(one);
  } catch { /* then the object has no such form */ }
  return data;
}

function failure(error) {
  if (!(error instanceof Error)) {
    return { type: "Thrown", message: shown(error), traceback: `Uncaught ${shown(error)}\n` };
  }
  const kind = /out of memory/.test(error.message) ? "MemoryError" : String(error.name);
  const stack = String(error.stack ?? "").split("\n").filter((line) => !/<cmdline>/.test(line));
  const traceback = [`${error.name}: ${error.message}`, ...stack].join("\n").trimEnd() + "\n";
  return { type: kind, message: String(error.message), traceback };
}

Object.assign(globalThis, {
  tools: {},
  display: (...objects) => objects.forEach((one) => send({ k: "show", data: rich(one) })),
  prompt: (text = "") => ask({ k: "input", prompt: String(text), password: false }),
});

// What is asked of the guest.

function lookup(path) {
  return evaluate(path, { backtrace_barrier: true });
}

function word(code, cursor) {
  return /[\p{ID_Continue}$.]*$/u.exec(code.slice(0, cursor))[0];
}

function unfinished(code) { // brackets, strings and comments that are open at the end
  const open = [];
  for (let at = 0; at < code.length; at++) {
    const letter = code[at];
    if (open.at(-1) === "`") {
      if (letter === "\\") at++;
      else if (letter === "`") open.pop();
      else if (code.startsWith("${", at)) { open.push("{"); at++; }
    } else if (code.startsWith("//", at)) {
      at = code.indexOf("\n", at);
      if (at < 0) break;
    } else if (code.startsWith("/*", at)) {
      at = code.indexOf("*/", at + 2);
      if (at < 0) return true;
      at++;
    } else if (letter === '"' || letter === "'") {
      for (at++; at < code.length && code[at] !== letter && code[at] !== "\n"; at++) {
        if (code[at] === "\\") at++;
      }
    } else if (letter === "`" || "([{".includes(letter)) open.push(letter);
    else if (")]}".includes(letter)) open.pop();
  }
  return open.length > 0;
}

function opened(path, mode) {
  const error = {};
  const file = std.open(path, mode, error);
  if (file === null) throw new Error(`${path}: ${std.strerror(error.errno)}`);
  return file;
}

function below(folder, found = []) {
  const [names, error] = os.readdir(folder);
  if (error) throw new Error(`${folder}: ${std.strerror(error)}`);
  for (const name of names.sort()) {
    if (name === "." || name === "..") continue;
    const path = `${folder}/${name}`;
    const [status] = os.stat(path);
    if (status && (status.mode & os.S_IFMT) === os.S_IFDIR) below(path, found);
    else found.push(path);
  }
  return found;
}

const verbs = {
  async run({ code, silent }) {
    const { value } = await evaluate(code, { backtrace_barrier: true, async: true });
    globalThis._ = value;
    return value === undefined || silent ? { value: null } : { value: rich(value) };
  },
  complete({ code, cursor }) {
    const path = word(code, cursor);
    const cut = path.lastIndexOf(".");
    let owner = cut < 0 ? globalThis : lookup(path.slice(0, cut));
    const start = path.slice(cut + 1);
    const found = new Set();
    if (path) {
      for (owner = Object(owner); owner; owner = Object.getPrototypeOf(owner)) {
        for (const name of Object.getOwnPropertyNames(owner)) {
          if (name.startsWith(start)) found.add(path.slice(0, cut + 1) + name);
        }
      }
    }
    return { matches: [...found].sort().slice(0, 500), start: cursor - path.length, end: cursor };
  },
  inspect({ code, cursor }) {
    const path = word(code, cursor) + /^[\p{ID_Continue}$]*/u.exec(code.slice(cursor))[0];
    if (!/[\p{ID_Continue}$]$/u.test(path)) return { found: null };
    let value;
    try { value = lookup(path); } catch { return { found: null }; }
    const text = typeof value === "function" ? String(value).slice(0, 2000) : shown(value);
    return { found: { "text/plain": `Type: ${typeof value}\n${text}` } };
  },
  is_complete({ code }) {
    if (unfinished(code)) return { answer: "incomplete", indent: "  " };
    try {
      new (async () => {}).constructor(code);
    } catch (error) {
      if (error instanceof SyntaxError) return { answer: "invalid", indent: "" };
    }
    return { answer: "complete", indent: "" };
  },
  put({ path, data }) {
    const bytes = decode(data);
    const parts = path.split("/");
    for (let count = 2; count < parts.length; count++) os.mkdir(parts.slice(0, count).join("/"));
    const file = opened(path, "wb");
    const written = file.write(bytes.buffer, 0, bytes.length);
    if (file.close() !== 0 || written !== bytes.length) throw new Error(`${path}: no space is left`);
    return {};
  },
  get({ path }) {
    const file = opened(path, "rb");
    const parts = [];
    const piece = new Uint8Array(65536);
    for (let got; (got = file.read(piece.buffer, 0, piece.length)) > 0;) {
      for (let at = 0; at < got; at++) parts.push(piece[at]);
    }
    file.close();
    return { data: { $bytes: toBase64(parts) } };
  },
  list: ({ path }) => ({ names: below(path) }),
};

function setUp({ tools, env }) {
  for (const [name, value] of Object.entries(env ?? {})) std.setenv(name, value);
  for (const { name, parameters } of tools ?? []) {
    globalThis.tools[name] = (...given) => {
      if (given.length > parameters.length) {
        throw new TypeError(`${name}() takes ${parameters.length} arguments, not ${given.length}`);
      }
      const named = Object.fromEntries(given.map((one, at) => [parameters[at], encode(one)]));
      return ask({ k: "tool", name, arguments: named });
    };
  }
}

send({ k: "ready", about: {} });
for (;;) {
  const request = receive();
  if (request.op === "answer") continue; // of a question that was cancelled
  if (request.op === "setup") {
    setUp(request);
    continue;
  }
  let answer;
  try {
    answer = await verbs[request.op](request);
  } catch (error) {
    answer = { error: failure(error) };
  }
  send({ k: "done", ...answer });
}
