// What QuickJS does in bench/suite.py: calls, objects, closures, arrays, strings, floats, typed arrays.
function fib(n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }

class Task {
  constructor(name, next) { this.name = name; this.next = next; this.done = 0; }
  run(amount) { this.done = (this.done + amount * 31) % 65521; return this.next; }
}
function schedule(turns) {
  let first = null, last = null;
  for (let i = 0; i < 12; i++) { first = new Task("task" + i, first); last = last ?? first; }
  last.next = first;
  let task = first;
  for (let i = 0; i < turns; i++) task = task.run(i % 17);
  let sum = "";
  for (let i = 0; i < 12; i++, task = task.next) sum += task.name + task.done;
  return sum;
}

function words(n) {
  const seen = new Map();
  let seed = 42;
  for (let i = 0; i < n; i++) {
    seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
    const word = String.fromCharCode(97 + (seed >> 16) % 26, 97 + (seed >> 8) % 26) + i % 10;
    seen.set(word, (seen.get(word) ?? 0) + 1);
  }
  const list = [...seen].map(([word, count]) => count + word).sort();
  return [list.length, list[0], list.at(-1), list.join(",").replace(/\d+a/g, "").length].join(" ");
}

function sieve(limit) {
  const crossed = new Uint8Array(limit);
  let count = 0;
  for (let i = 2; i < limit; i++) {
    if (crossed[i]) continue;
    count++;
    for (let k = 2 * i; k < limit; k += i) crossed[k] = 1;
  }
  return count;
}

function orbit(steps) {
  let [x, y, u, v] = [1, 0, 0, 0.5];
  for (let i = 0; i < steps; i++) {
    const square = x * x + y * y, cube = square * Math.sqrt(square);
    u -= 0.001 * x / cube; v -= 0.001 * y / cube;
    x += 0.001 * u; y += 0.001 * v;
  }
  return x.toFixed(6) + " " + y.toFixed(6);
}

console.log(fib(24), schedule(250000), words(40000), sieve(200000), orbit(130000));
console.log(JSON.stringify({ fib: [1, 2, 3].map((n) => fib(n)), nested: { deep: [true, null, "é"] } }));
