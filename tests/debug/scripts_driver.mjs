// Asks the scripts of the page without a page: node scripts_driver.mjs FOLDER, which has scripts.js,
// the scripts as one module, and asks.json. Prints the answers as JSON; a BigInt is text.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const folder = process.argv[2];
const { Sources, HostCalls, Disassembler, valueText } = await import(pathToFileURL(`${folder}/scripts.js`).href);
const bytesOf = (text) => Uint8Array.from(text.match(/../g) ?? [], (two) => parseInt(two, 16));

const ways = {
  variables({ data, memory, locals, offset }) {
    const values = locals.map(BigInt);
    const state = { offset, memory: bytesOf(memory), global: () => null, operand: () => null };
    state.local = (at) => values[at] ?? null;
    const sources = new Sources(data);
    return [...sources.variables(state), ...sources.globals(state)].map(({ text }) => text);
  },
  call({ name, params, size, words, monotonic }) {
    const bytes = new Uint8Array(size);
    const view = new DataView(bytes.buffer);
    for (const [at, word] of words) view.setUint32(at, word, true);
    const machine = { addresses: () => ({ memories: [0] }), memory: () => bytes };
    const calls = new HostCalls([[name, []]], {}, () => true, BigInt(monotonic));
    const found = calls.answer({ row: 0, instance: 0, params: params.map(BigInt) }, machine);
    if (!found) return null;
    const writes = (found.writes ?? []).map(({ offset, bytes: one }) => [offset, one.length, [...one.slice(0, 8)]]);
    return { result: found.result, writes, output: found.output?.length ?? null };
  },
  code({ module, table }) {
    return new Disassembler(bytesOf(module), table, 0, []).of(0).map(({ name, text }) => [name, text]);
  },
  value: ({ type, bits }) => valueText(type, BigInt(bits)),
};
const found = JSON.parse(readFileSync(`${folder}/asks.json`, "utf8")).map((one) => ways[one.way](one));
console.log(JSON.stringify(found, (_, value) => (typeof value === "bigint" ? String(value) : value)));
