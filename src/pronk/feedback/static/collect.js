// The comparing page: shows a pair, gathers what the person thinks of it, sends it, and takes it back.
// What a model wrote is only ever put in place as textContent or as a textarea's value.

import { $, Refusal, element, go, insist, me, newKey, onKeys, post, say } from "./common.js";

const form = $("compare");
const sides = ["left", "right"];
let shown = null; // what awaits an answer
let since = 0; // when it came into sight
let busy = false;
let last = null; // the form as it was sent last, to be filled in again by undo

const chosen = (name) => form.elements[name].value;
const better = () => (sides.includes(chosen("choice")) ? chosen("choice") : null);
const text = (side) => $(side).querySelector("div.text");
const draft = (side) => $(side).querySelector("textarea");

// ── showing

const next = async () => show(await insist("/api/next", {}));

function show(told) {
  far(told);
  shown = told.showing;
  form.hidden = shown === null;
  $("pause").hidden = shown !== null;
  if (shown) present();
  else pause(told);
}

function far({ progress, goal }) {
  const total = goal || progress.pairs;
  const done = goal ? progress.votes : progress.mine;
  $("far").hidden = false;
  $("bar").max = Math.max(1, total);
  $("bar").value = Math.min(done, total);
  $("count").textContent = `${done} of ${total}`;
}

function present() {
  $("prompt").replaceChildren(...shown.prompt.map(turn));
  for (const side of sides) {
    text(side).textContent = shown[side];
    draft(side).value = shown[side];
  }
  form.reset();
  for (const side of sides) draft(side).value = shown[side];
  open("note", false);
  editing(false);
  if (last && last.showing === shown.id) restore(last);
  update();
  since = performance.now();
  scrollTo(0, 0);
  $("title").focus({ preventScroll: true });
}

function turn({ role, content }) {
  const names = { user: "Question", assistant: "Answer", system: "Setting" };
  const made = element("div", "", `turn ${role}`);
  const said = element("div", content, "said");
  said.dir = "auto";
  made.append(element("h2", names[role] ?? role), said);
  return made;
}

function pause({ making, trouble, done }) {
  const [title, words] = done
    ? ["Thank you, that was all", "Every vote is stored. You can still take back your last one."]
    : trouble
      ? ["No more pairs", `Making them stopped: ${trouble}`]
      : making
        ? ["One moment", "The models are still writing. The next pair comes by itself."]
        : ["You have seen every pair", "Thank you. Every vote is stored."];
  $("pause-title").textContent = title;
  $("pause-text").textContent = words;
  $("finish").hidden = !done;
  $("pause-title").focus({ preventScroll: true });
  if (making && !done && !trouble) setTimeout(() => shown === null && next(), 1500);
}

// ── the form

function update() {
  const side = better();
  for (const one of sides) $(one).classList.toggle("better", one === side);
  $("strength").disabled = side === null;
  if (side === null) for (const step of form.elements.strength) step.checked = false;
  $("edit").disabled = side === null;
  if ($("edit").getAttribute("aria-pressed") === "true") editing(side !== null);
  $("send").disabled = !complete();
}

const complete = () => chosen("choice") !== "" && (better() === null || chosen("strength") !== "");

function choose(value) {
  form.elements.choice.value = value;
  update();
}

function strengthen(value) {
  if (better() === null) return say("Say first which answer is better: A or B.");
  form.elements.strength.value = value;
  update();
}

function open(name, wide) {
  $(`${name}-box`).hidden = !wide;
  $(`add-${name}`).setAttribute("aria-expanded", String(wide));
}

function noting() {
  open("note", true);
  $("note").focus();
}

// Only the better answer can be written in.
function editing(on) {
  const side = on ? better() : null;
  $("edit").setAttribute("aria-pressed", String(side !== null));
  for (const one of sides) {
    draft(one).hidden = one !== side;
    text(one).hidden = one === side;
  }
  return side;
}

function edit() {
  const on = $("edit").getAttribute("aria-pressed") !== "true";
  const side = editing(on);
  if (side) {
    draft(side).style.height = ""; // grows with the card
    draft(side).focus();
  }
}

function restore({ choice, strength, note, edited }) {
  form.elements.choice.value = choice;
  if (strength) form.elements.strength.value = String(strength);
  if (note) {
    $("note").value = note;
    open("note", true);
  }
  if (edited) {
    draft(choice).value = edited;
    $("edit").setAttribute("aria-pressed", "true");
  }
}

// ── answering

const seconds = () => Math.round(performance.now() - since) / 1000;

// An edit that changes nothing is none.
function edited() {
  const side = $("edit").getAttribute("aria-pressed") === "true" ? better() : null;
  if (!side) return "";
  const now = draft(side).value;
  return now.trim() && now !== shown[side].replace(/\r\n?/g, "\n") ? now : "";
}

function work(on) {
  busy = on;
  $("main").setAttribute("aria-busy", String(on));
}

// Sends it until it is stored, and shows what comes next.
async function tell(path, body, words) {
  if (busy) return;
  work(true);
  try {
    const told = await insist(path, { key: newKey(), ...body });
    say(words);
    show(told.next);
  } catch (error) {
    await refused(error);
  }
  work(false);
}

async function send(path, body, words) {
  if (busy || !shown) return;
  $("send").disabled = true;
  const common = { showing: shown.id, seconds: seconds(), note: $("note").value.trim() };
  await tell(path, { ...common, ...body }, words);
}

function vote() {
  if (!complete()) return say("Say which is better, and how much: A or B and 1 to 4, T or X.");
  const body = { choice: chosen("choice"), strength: Number(chosen("strength") || 0), edit: edited() };
  last = { showing: shown.id, note: $("note").value.trim(), edited: body.edit, ...body };
  return send("/api/vote", body, "Stored.");
}

const undo = () => tell("/api/undo", {}, "Taken back: here it is again.");

// The server said no: show why, and what stands now.
async function refused(error) {
  if (!(error instanceof Refusal)) throw error;
  say(error.message, true);
  if (error.status === 401) location.reload();
  else if (error.message.includes("guidelines")) location.assign("/guidelines");
  else await next();
}

async function finish() {
  if ($("finish").hidden) return;
  await post("/api/finish");
  $("finish").hidden = $("pause-undo").hidden = true;
  $("pause-title").textContent = "Finished";
  $("pause-text").textContent = "You can close this page.";
  shown = {}; // no more asking for pairs
}

// ── windows

function ask(name, path, words) {
  if (!shown || busy) return;
  const window = $(name);
  const reasons = [...window.querySelectorAll("[data-reason]")];
  const take = (reason) => {
    window.close();
    send(path, { reason: reason.dataset.reason }, words);
  };
  for (const reason of reasons) reason.onclick = () => take(reason);
  window.onkeydown = (event) => {
    const reason = reasons[Number(event.key) - 1];
    if (reason && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      take(reason);
    }
  };
  window.showModal();
}

const skip = () => ask("skip-dialog", "/api/skip", "Skipped.");
const flag = () => ask("flag-dialog", "/api/flag", "Flagged. Nobody will see it again.");

for (const button of document.querySelectorAll("[data-close]")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}

// ── beginning

form.addEventListener("change", update);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  vote();
});
form.addEventListener("keydown", (event) => {
  if (!event.target.matches("textarea")) return;
  if (event.key === "Escape") event.target.blur();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) vote();
});
const buttons = { "add-note": noting, edit, undo, skip, flag, finish, "pause-undo": undo, keys: () => $("keys-dialog").showModal() };
for (const [id, action] of Object.entries(buttons)) $(id).addEventListener("click", action);

const comparing = (action) => () => !form.hidden && !busy && action();
onKeys({
  a: comparing(() => choose("left")),
  b: comparing(() => choose("right")),
  t: comparing(() => choose("tie")),
  x: comparing(() => choose("bad")),
  ...Object.fromEntries(["1", "2", "3", "4"].map((step) => [step, comparing(() => strengthen(step))])),
  n: comparing(noting),
  e: comparing(() => better() && edit()),
  s: comparing(skip),
  f: comparing(flag),
  u: () => (!form.hidden || !$("pause").hidden) && undo(),
  g: go("/guidelines"),
  d: go("/dashboard"),
  "?": () => $("keys-dialog").showModal(),
  Enter: () => (form.hidden ? finish() : vote()),
});

$("join").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await post("/api/join", { name: $("name").value.trim() });
    await begin();
  } catch (error) {
    say(error.message, true);
  }
});

async function begin() {
  const told = await me();
  if (told.name !== null && told.read !== told.guidelines) return location.assign("/guidelines");
  $("welcome").hidden = told.name !== null;
  if (told.name === null) return $("name").focus();
  await next();
}

await begin();
