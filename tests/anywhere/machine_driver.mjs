// Walks through a saved program: node machine_driver.mjs FOLDER, which has machine.js, machine.wasm,
// head.bin, pages.bin and walk.json, a list of counts to go to. Writes N.state after step N, and
// prints for each its count and outcome as JSON. Host calls are answered with 0. With memory.json,
// {keeps, bytes}, only so many states find memory, and the kept ones seem to have so many bytes.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const folder = process.argv[2];
const read = (name) => new Uint8Array(readFileSync(`${folder}/${name}`));
const { Machine } = await import(pathToFileURL(`${folder}/machine.js`).href.replace(/js$/, "js"));
const code = new WebAssembly.Module(read("machine.wasm"));
const machine = new Machine(code, read("head.bin"), read("pages.bin"));
if (existsSync(`${folder}/memory.json`)) {
  const { keep, kept_bytes } = machine.core;
  const short = JSON.parse(readFileSync(`${folder}/memory.json`, "utf8"));
  machine.core = {
    ...machine.core,
    keep: () => (short.keeps-- > 0 ? keep() : 0),
    kept_bytes: () => kept_bytes() + BigInt(short.bytes),
  };
}
const found = [];
for (const [number, count] of JSON.parse(readFileSync(`${folder}/walk.json`, "utf8")).entries()) {
  const began = performance.now();
  const wanted = BigInt(count);
  let outcome = machine.goTo(wanted);
  while (machine.count < wanted && outcome === "host call")
    outcome = machine.run(wanted - machine.count, () => ({ result: 0n }));
  const seconds = (performance.now() - began) / 1e3;
  writeFileSync(`${folder}/${number}.state`, machine.state());
  const top = machine.frames(1);
  if (JSON.stringify(top.map(({ at }) => at)) !== JSON.stringify([machine.core.frame_count() - 1].filter((at) => at >= 0)))
    throw new Error("the innermost frame is another one");
  const frames = machine.frames().map((one) => [one.function, one.offset, one.values.length]);
  found.push({ count: Number(machine.count), outcome, frames, kept: machine.marks.length, seconds });
}
console.log(JSON.stringify(found));
