// Runs a WASI command under Node: node node_engine.mjs MODULE HOST::GUEST...
import { readFileSync } from "node:fs";
import { WASI } from "node:wasi";

const [file, ...folders] = process.argv.slice(2);
const preopens = {};
for (const folder of folders) {
  const [host, guest] = folder.split("::");
  preopens[guest] = host;
}
const env = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => name.startsWith("WASMSR_SNAPSHOT")),
);
// An exit returns from `start`: one that ends Node at once crashes it while it compiles.
const wasi = new WASI({ version: "preview1", args: [file], env, preopens, returnOnExit: true });
const module = await WebAssembly.compile(readFileSync(file));
const instance = await WebAssembly.instantiate(module, { wasi_snapshot_preview1: wasi.wasiImport });
try {
  process.exitCode = wasi.start(instance);
} catch (error) {
  if (!(error instanceof WebAssembly.RuntimeError)) throw error;
  process.exitCode = 134;
}
