// The guidelines page: says that they were read.

import { $, go, me, onKeys, post, say } from "./common.js";

async function read() {
  if ($("read").hidden) return;
  try {
    await post("/api/read", { version: Number($("guidelines").dataset.version) });
    location.assign("/");
  } catch (error) {
    say(error.message, true);
  }
}

const told = await me();
const unread = told.name !== null && told.read !== told.guidelines;
$("read").hidden = !unread;
$("back").hidden = unread;
$("read").addEventListener("click", read);
onKeys({ Enter: read, c: go("/"), d: go("/dashboard") });
