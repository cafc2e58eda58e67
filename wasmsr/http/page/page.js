// The page of a node. All texts of programs are set as text, never as HTML.
"use strict";

const EVERY = 1000; // milliseconds between two questions
const KEPT = 200000; // characters of output that stay on the page
const byId = (id) => document.getElementById(id);

const state = { token: "", chosen: "", offset: 0, stream: "stdout", asking: false, programs: [] };

class Refused extends Error {}

async function ask(path, method = "GET", order = undefined) {
  const answer = await fetch(path, {
    method,
    body: order === undefined ? undefined : JSON.stringify(order),
    headers: { Authorization: "Bearer " + state.token },
    cache: "no-store",
  });
  const found = await answer.json();
  if (answer.status === 401) throw new Refused(found.error);
  if (!answer.ok) throw new Error([found.error, found.hint].filter(Boolean).join(". "));
  return found;
}

function say(text) {
  if (byId("said").textContent !== text) byId("said").textContent = text;
}

function size(bytes) {
  if (bytes === null || bytes === undefined) return "";
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (bytes < 1024 || unit === "GiB") return bytes.toFixed(unit === "B" ? 0 : 1) + " " + unit;
    bytes /= 1024;
  }
  return "";
}

function ago(seconds) {
  if (!seconds) return "";
  const span = Math.max(0, Date.now() / 1000 - seconds);
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (span >= 2 * length) return Math.floor(span / length) + " " + unit + " ago";
  }
  return Math.floor(span) + " s ago";
}

function span(seconds) {
  if (seconds === null || seconds === undefined) return "";
  return seconds < 1 ? (seconds * 1000).toFixed(1) + " ms" : seconds.toFixed(2) + " s";
}

function cell(row, content, className = "") {
  const made = document.createElement("td");
  if (className) made.className = className;
  made.append(content);
  row.append(made);
}

function stateOf(program) {
  if (program.standing === "ended") return program.ending + ", code " + program.code;
  return program.reason ? program.standing + ": " + program.reason : program.standing;
}

// Who owns a leased program, until when, and whether the register answers.
function leaseOf(lease) {
  const parts = ["epoch " + lease.epoch];
  parts.push(lease.owner ? "owner " + lease.owner.slice(0, 8) : "owner not known here");
  if (lease.state) parts.push("state " + lease.state);
  if (lease.deadline) {
    const end = new Date(lease.deadline * 1000).toLocaleTimeString();
    parts.push("ends " + end + " if it is not renewed");
  }
  if (lease.register) {
    parts.push(lease.register === "away" ? "the register is away" : "the register answers");
  }
  if (lease.checkpoint) {
    parts.push("the checkpoint that counts is of epoch " + lease.checkpoint.epoch);
  }
  return "Lease: " + parts.join(", ") + ".";
}

function showPrograms(programs) {
  const focused = document.activeElement && document.activeElement.dataset.program;
  const rows = programs.map((program) => {
    const row = document.createElement("tr");
    row.classList.toggle("chosen", program.program === state.chosen);
    const button = document.createElement("button");
    button.type = "button";
    button.className = "row";
    button.dataset.program = program.program;
    button.textContent = program.name + " ";
    if (program.program === state.chosen) button.setAttribute("aria-current", "true");
    const id = document.createElement("span");
    id.className = "id";
    id.textContent = program.program.slice(0, 8);
    button.append(id);
    button.addEventListener("click", () => choose(program.program));
    const name = document.createElement("th");
    name.scope = "row";
    name.append(button);
    row.append(name);
    cell(row, stateOf(program));
    cell(row, size(program.memory), "number");
    cell(row, program.saved ? ago(program.saved.time) : "");
    cell(row, ago(program.submitted));
    cell(row, program.submitter);
    return row;
  });
  byId("rows").replaceChildren(...rows);
  byId("table").hidden = programs.length === 0;
  byId("none").hidden = programs.length !== 0;
  if (focused) {
    const again = byId("rows").querySelector('[data-program="' + CSS.escape(focused) + '"]');
    if (again) again.focus();
  }
}

// How far a move is: a sentence, a bar, and a row for each round.
function showMove(move) {
  byId("move").hidden = !move;
  if (!move) return;
  const rounds = move.rounds || [];
  byId("move-title").textContent = "Move to " + move.peer;
  byId("move-state").textContent = {
    preparing: "The other node prepares.",
    copying: "Copying while the program runs" +
      (move.left === undefined ? "." : ", " + size(move.left) + " left in this round."),
    moved: "Moved: downtime " + span(move.downtime) + ", " + size(move.bytes) + " sent in " +
      span(move.seconds) + ".",
    failed: "Not moved: " + move.message,
  }[move.standing];
  const bar = byId("move-bar");
  bar.hidden = move.standing === "moved" || move.standing === "failed";
  const whole = rounds.length ? rounds[0].bytes_raw : 0;
  if (whole && move.left !== undefined) {
    bar.max = whole;
    bar.value = Math.max(0, whole - move.left);
  } else {
    bar.removeAttribute("value");
  }
  byId("rounds").hidden = rounds.length === 0;
  byId("round-rows").replaceChildren(...rounds.map((round) => {
    const row = document.createElement("tr");
    const number = document.createElement("th");
    number.scope = "row";
    number.append(round.round);
    row.append(number);
    cell(row, size(round.bytes_raw), "number");
    const share = document.createElement("meter");
    share.max = Math.max(1, whole);
    share.value = round.bytes_raw;
    share.title = (100 * round.bytes_raw / Math.max(1, whole)).toFixed(1) + " %";
    cell(row, share);
    cell(row, span(round.seconds), "number");
    cell(row, span(round.predicted), "number");
    return row;
  }));
}

function showOne(program) {
  byId("one").hidden = false;
  byId("one-title").textContent = program.name + " " + program.program.slice(0, 8);
  byId("one-state").textContent = stateOf(program);
  byId("one-lease").hidden = !program.lease;
  byId("one-lease").textContent = program.lease ? leaseOf(program.lease) : "";
  const allowed = {
    running: ["pause", "checkpoint", "kill"],
    paused: ["resume", "checkpoint", "kill"],
    resumable: ["resume"],
  }[program.standing] || [];
  for (const button of byId("actions").children) {
    button.disabled = !allowed.includes(button.dataset.verb);
  }
  for (const part of byId("migrate").elements) {
    part.disabled = !["running", "paused"].includes(program.standing);
  }
  showMove(program.move);
  showVisit(program);
}

// ---- programs that run in this tab ----

const visits = new Map(); // by program: {worker, said, output, over}

function showVisit(program) {
  const here = visits.get(program.program);
  const runs = here && !here.over;
  byId("visit-begin").disabled = runs || !["running", "paused"].includes(program.standing);
  byId("visit-end").disabled = !runs && program.standing !== "visiting";
  byId("visit-end").textContent = runs ? "Send it home" : "Call it home";
  const state = here ? here.said : "";
  if (byId("visit-state").textContent !== state) byId("visit-state").textContent = state;
  const output = byId("visit-output");
  output.hidden = !here;
  if (here && output.textContent !== here.output) {
    output.textContent = here.output;
    output.scrollTop = output.scrollHeight;
  }
}

function showChosen() {
  const one = state.programs.find((program) => program.program === state.chosen);
  if (one) showVisit(one);
}

async function beginVisit() {
  const program = state.chosen;
  const here = { worker: null, said: "It leaves the node.", output: "", over: false };
  visits.set(program, here);
  showChosen();
  try {
    const { key } = await ask("/programs/" + program + "/visit", "POST");
    const decoders = { 1: new TextDecoder(), 2: new TextDecoder() };
    here.worker = new Worker("/visit.js", { type: "module" });
    here.worker.onmessage = ({ data }) => {
      if (data.output) {
        const text = decoders[data.stream].decode(data.output, { stream: true });
        here.output = (here.output + text).slice(-KEPT);
      } else if (data.state) {
        here.said = "It runs in this tab. The node has state " + data.state + ", " + size(data.bytes) + ".";
      } else if (data.over) {
        here.over = true;
        here.said = "It went home: " + data.over + ".";
        here.worker.terminate();
      } else {
        here.said = data.said;
      }
      showChosen();
    };
    here.worker.onerror = (event) => {
      here.over = true;
      here.said = "The worker of this tab failed: " + event.message;
      showChosen();
    };
    here.worker.postMessage({ program, key });
  } catch (error) {
    visits.delete(program);
    throw error;
  }
  await refresh();
}

async function endVisit() {
  const here = visits.get(state.chosen);
  if (here && !here.over && here.worker) here.worker.postMessage("home");
  else await ask("/programs/" + state.chosen + "/return", "POST");
}

async function choose(program) {
  state.chosen = program;
  state.offset = -65536; // the end of the output
  byId("output").textContent = "";
  byId("stack").replaceChildren();
  byId("view-link").hidden = true;
  await refresh();
  byId("one").focus();
}

async function look() {
  const found = await ask("/programs/" + state.chosen);
  const frames = (found.frames || []).map((frame) => {
    const item = document.createElement("li");
    item.textContent = (frame.function || "function " + frame.index) + " + " + frame.offset;
    return item;
  });
  byId("stack").replaceChildren(...frames);
  if (frames.length === 0) say("The program has no call stack: it does not run.");
  if (found.depth > frames.length) say("The stack has " + found.depth + " frames.");
}

async function view() {
  const link = byId("view-link");
  link.hidden = true;
  say("The page is being made.");
  const found = await ask("/programs/" + state.chosen + "/view", "POST");
  say("The page is ready.");
  link.href = found.path;
  link.hidden = false;
  link.focus();
}

async function act(verb) {
  if (verb === "kill" && !window.confirm("End this program? What it has not saved is lost.")) return;
  const found = await ask("/programs/" + state.chosen + "/" + verb, "POST");
  say(found.name + ": " + verb + ", now " + stateOf(found));
  await refresh();
}

async function migrate(to) {
  const found = await ask("/programs/" + state.chosen + "/migrate", "POST", { to });
  say(found.name + ": moves to " + to);
  await refresh();
}

async function readOutput() {
  const asked = [state.chosen, state.stream, state.offset];
  const query = "?stream=" + state.stream + "&offset=" + state.offset;
  const found = await ask("/programs/" + state.chosen + "/output" + query);
  // An answer that another one has overtaken shows nothing new.
  if (asked.join() !== [state.chosen, state.stream, state.offset].join()) return;
  const place = byId("output");
  if (state.offset > 0 && found.offset > state.offset) {
    place.textContent += "\n[" + (found.offset - state.offset) + " bytes are kept no more]\n";
  }
  if (state.offset > 0 && found.offset < state.offset) {
    place.textContent += "\n[rewound to " + found.offset + "]\n";
  }
  state.offset = found.next;
  if (!found.text) return;
  place.textContent = (place.textContent + found.text).slice(-KEPT);
  if (byId("follow").checked) place.scrollTop = place.scrollHeight;
}

async function refresh() {
  const node = await ask("/node");
  byId("node").textContent = node.node.slice(0, 8);
  byId("about").textContent =
    "version " + node.software + ", " + node.programs.length + " programs, up since " +
    new Date(node.started * 1000).toLocaleString() + (node.stopping ? ", stopping" : "");
  byId("programs").hidden = false;
  byId("enter").hidden = true;
  state.programs = node.programs;
  showPrograms(node.programs);
  const one = node.programs.find((program) => program.program === state.chosen);
  if (one) {
    showOne(one);
    await readOutput();
  } else {
    byId("one").hidden = true;
    state.chosen = "";
  }
}

function failed(error) {
  if (error instanceof Refused) {
    byId("enter").hidden = false;
    byId("programs").hidden = byId("one").hidden = true;
    if (state.token) say(error.message);
    state.token = "";
    sessionStorage.removeItem("token");
  } else if (error instanceof TypeError) {
    say("The node does not answer.");
  } else {
    say(error.message);
  }
}

async function guarded(work) {
  try {
    await work();
  } catch (error) {
    failed(error);
  }
}

async function tick() {
  if (!state.token || document.hidden || state.asking) return;
  state.asking = true;
  await guarded(async () => {
    await refresh();
    if (byId("said").textContent === "The node does not answer.") say("");
  });
  state.asking = false;
}

function begin() {
  // The token comes after the #, which browsers do not send, and does not stay in the address.
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) history.replaceState(null, "", location.pathname);
  state.token = given || sessionStorage.getItem("token") || "";
  if (state.token) sessionStorage.setItem("token", state.token);
  for (const verb of ["pause", "resume", "checkpoint", "kill"]) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.verb = verb;
    button.textContent = verb[0].toUpperCase() + verb.slice(1);
    button.addEventListener("click", () => guarded(() => act(verb)));
    byId("actions").append(button);
  }
  byId("migrate").addEventListener("submit", (event) => {
    event.preventDefault();
    guarded(() => migrate(byId("to").value.trim()));
  });
  byId("view").addEventListener("click", () => guarded(view));
  byId("view-link").addEventListener("click", () => setTimeout(() => (byId("view-link").hidden = true)));
  byId("visit-begin").addEventListener("click", () => guarded(beginVisit));
  byId("visit-end").addEventListener("click", () => guarded(endVisit));
  window.addEventListener("beforeunload", (event) => {
    if ([...visits.values()].some((visit) => !visit.over)) event.preventDefault();
  });
  byId("look").addEventListener("click", () => guarded(look));
  byId("stream").addEventListener("change", (event) => {
    state.stream = event.target.value;
    state.offset = -65536;
    byId("output").textContent = "";
    guarded(readOutput);
  });
  byId("enter").addEventListener("submit", (event) => {
    event.preventDefault();
    state.token = byId("token").value.trim();
    byId("token").value = "";
    sessionStorage.setItem("token", state.token);
    guarded(refresh);
  });
  byId("enter").hidden = Boolean(state.token);
  setInterval(tick, EVERY);
  tick();
}

begin();
