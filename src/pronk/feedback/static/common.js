// What the pages share: asking the server, saying what happened, and keys.

export const $ = (id) => document.getElementById(id);

let csrf = "";

export class Refusal extends Error {
  constructor(text, status) {
    super(text);
    this.status = status;
  }
}

// One request. Throws Refusal where the server said no, and fetch's own error where it could not be reached.
async function request(path, options) {
  const response = await fetch(path, { credentials: "same-origin", ...options });
  const told = await response.json().catch(() => ({}));
  if (response.ok) return told;
  const text = typeof told.error === "string" ? told.error : `the server refused this (${response.status})`;
  throw new Refusal(text, response.status);
}

export async function me() {
  const told = await request("/api/me");
  csrf = told.csrf;
  return told;
}

export const facts = () => request("/api/facts");

export async function post(path, body = {}) {
  const headers = { "Content-Type": "application/json", "X-CSRF": csrf };
  const told = await request(path, { method: "POST", headers, body: JSON.stringify(body) });
  if (told.csrf) csrf = told.csrf;
  return told;
}

// The same again until the server answers: its key makes the repetition harmless.
export async function insist(path, body) {
  for (let wait = 500; ; wait = Math.min(2 * wait, 8000)) {
    try {
      return await post(path, body);
    } catch (error) {
      if (error instanceof Refusal && error.status < 500) throw error;
      say("Not stored yet: the server does not answer. Trying again; keep this page open.", true);
      await new Promise((resume) => setTimeout(resume, wait));
    }
  }
}

// A key of one's own for each answer (crypto.randomUUID would need https).
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function say(text, trouble = false) {
  $("status").textContent = text;
  $("status").classList.toggle("trouble", trouble);
}

export function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

// keys: {"a": action}; a key is left alone while someone writes, and with Ctrl, Alt or Meta.
export function onKeys(keys) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.target.matches("textarea, input[type=text]") || document.querySelector("dialog[open]")) return;
    if (event.key === "Enter" && event.target.matches("button, a")) return;
    const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
}

export const go = (path) => () => location.assign(path);
