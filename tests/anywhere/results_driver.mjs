// Answers host calls: node results_driver.mjs FOLDER, which has what machine_driver.mjs needs, and
// results.json, a result for each call. Prints after each the first global, and what was wrong.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const folder = process.argv[2];
const read = (name) => new Uint8Array(readFileSync(`${folder}/${name}`));
const { Machine } = await import(pathToFileURL(`${folder}/machine.js`).href);
const machine = new Machine(new WebAssembly.Module(read("machine.wasm")), read("head.bin"), read("pages.bin"));
const found = [];
for (const text of JSON.parse(readFileSync(`${folder}/results.json`, "utf8"))) {
  let error = "";
  try {
    let given = false;
    const answer = () => (given ? null : ((given = true), { result: BigInt.asUintN(64, BigInt(text)) }));
    machine.run(100n, answer); // to the next call, which has no answer
  } catch (thrown) {
    error = thrown.message;
  }
  if (machine.outcome !== "host call") throw new Error(`it is ${machine.outcome}`);
  found.push({ error, global: String(machine.globals()[0].value) });
}
console.log(JSON.stringify(found));
