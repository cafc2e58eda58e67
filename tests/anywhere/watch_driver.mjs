// Steps through a saved program with watches: node watch_driver.mjs FOLDER, which has what
// machine_driver.mjs needs, and asks.json, a list of {to, watch, back, most, depth}. For each the
// machine goes to the count `to`, then runs with the watch: forwards, `most` instructions at most,
// or backwards to the last moment that has `depth` frames at most. Prints counts and hits as JSON.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const folder = process.argv[2];
const read = (name) => new Uint8Array(readFileSync(`${folder}/${name}`));
const { Machine } = await import(pathToFileURL(`${folder}/machine.js`).href);
const code = new WebAssembly.Module(read("machine.wasm"));
const machine = new Machine(code, read("head.bin"), read("pages.bin"));
const answer = () => ({ result: 0n, writes: [{ memory: 0, offset: 96, bytes: new Uint8Array(4) }] });
function goTo(count) {
  machine.goTo(count);
  while (machine.count < count && machine.outcome === "host call")
    machine.run(count - machine.count, answer);
}
const found = [];
for (const { to, watch, back, most, depth } of JSON.parse(readFileSync(`${folder}/asks.json`, "utf8"))) {
  goTo(BigInt(to));
  if (!back) {
    const there = machine.watch(watch);
    machine.run(BigInt(most), answer);
    found.push({ count: Number(machine.count), hit: machine.hit, there });
    continue;
  }
  const search = machine.lastBefore(watch, () => machine.core.frame_count() <= depth);
  let step = search.next();
  while (!step.done) step = search.next();
  found.push({ count: step.value === null ? null : Number(step.value) });
}
console.log(JSON.stringify(found));
