// Walks through a saved program: node machine_driver.mjs FOLDER, which has machine.js, machine.wasm,
// head.bin, pages.bin and walk.json, a list of counts to go to. Writes N.state after step N, and
// prints for each its count and outcome as JSON. Host calls are answered with 0.
import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const folder = process.argv[2];
const read = (name) => new Uint8Array(readFileSync(`${folder}/${name}`));
const { Machine } = await import(pathToFileURL(`${folder}/machine.js`).href.replace(/js$/, "js"));
const code = new WebAssembly.Module(read("machine.wasm"));
const machine = new Machine(code, read("head.bin"), read("pages.bin"));
const found = [];
for (const [number, count] of JSON.parse(readFileSync(`${folder}/walk.json`, "utf8")).entries()) {
  const began = performance.now();
  const wanted = BigInt(count);
  let outcome = machine.goTo(wanted);
  while (machine.count < wanted && outcome === "host call")
    outcome = machine.run(wanted - machine.count, () => ({ result: 0n }));
  const seconds = (performance.now() - began) / 1e3;
  writeFileSync(`${folder}/${number}.state`, machine.state());
  const frames = machine.frames().map((one) => [one.function, one.offset, one.values.length]);
  found.push({ count: Number(machine.count), outcome, frames, kept: machine.marks.length, seconds });
}
console.log(JSON.stringify(found));
