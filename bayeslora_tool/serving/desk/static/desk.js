// Keys, the countdown, and news from the ledger. Without this the pages work as plain forms.
"use strict";

const all = (selector) => [...document.querySelectorAll(selector)];
const typing = (element) =>
  element.closest("textarea, select, [contenteditable]") ||
  (element.matches("input") && !["radio", "checkbox", "submit", "button"].includes(element.type));

// Rows of a list: j and k move the focus, so Enter opens by itself.

function move(step) {
  const rows = all(".reviews .to");
  if (!rows.length) return;
  const at = rows.indexOf(document.activeElement);
  const next = at < 0 ? (step > 0 ? 0 : rows.length - 1) : at + step;
  const row = rows[Math.min(Math.max(next, 0), rows.length - 1)];
  row.focus();
  row.closest("li").scrollIntoView({ block: "nearest" });
  const more = next >= rows.length && document.querySelector(".more a");
  if (more) more.click();
}

function claimRow() {
  const form = document.getElementById("claim");
  const row = document.activeElement.closest && document.activeElement.closest("[data-claim]");
  if (!form || !row) return false;
  form.action = row.dataset.claim;
  form.requestSubmit();
  return true;
}

// Editing: e goes to what there is to edit, and sends it once it is edited.

const changed = (field) =>
  field.matches("select")
    ? ![...field.options].every((option) => option.selected === option.defaultSelected) &&
      [...field.options].some((option) => option.defaultSelected)
    : field.value !== field.defaultValue;

function edit(button) {
  if (button.dataset.edits === "label") {
    const other = document.querySelector("[name=pick-other], [name=label]");
    const picked = document.querySelector("[name=pick]:checked");
    if (picked || (other && other.value)) button.click();
    else (other || document.querySelector("[name=pick]") || button).focus();
    return;
  }
  const fields = all("[data-argument]");
  if (!fields.length || fields.some(changed)) button.click();
  else fields[0].focus();
}

function pick(number) {
  const radio = document.querySelector(`[data-pick="${number}"]`);
  if (!radio) return false;
  radio.checked = true;
  radio.focus();
  const other = document.querySelector("[name=pick-other], [name=label]:not([type=radio])");
  if (other) other.value = "";
  return true;
}

function act(element) {
  if (element.matches("input, textarea, select")) element.focus();
  else if (element.dataset.edits) edit(element);
  else element.click();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (document.querySelector("dialog[open]")) return;
  if (typing(event.target)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const bound = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
  if (event.key === "j") move(1);
  else if (event.key === "k") move(-1);
  else if (/^[1-9]$/.test(event.key) && pick(event.key)) event.preventDefault();
  else if (bound && !event.repeat) {
    event.preventDefault();
    act(bound);
  } else if (event.key === "c" && !event.repeat) claimRow();
});

document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-opens]");
  if (opener) document.getElementById(opener.dataset.opens).showModal();
});
all("[data-opens]").forEach((button) => (button.hidden = false));

// A form is sent once, however often its button is pressed.
document.addEventListener("submit", (event) => {
  if (event.target.dataset.sent) event.preventDefault();
  else if (event.target.method === "post") event.target.dataset.sent = "yes";
});
window.addEventListener("pageshow", () => all("[data-sent]").forEach((form) => delete form.dataset.sent));

// How long an answer may be taken back.
all(".undo[data-left]").forEach((bar) => {
  const ends = performance.now() + 1000 * Number(bar.dataset.left);
  const left = bar.querySelector(".left");
  const tick = () => {
    const seconds = Math.ceil((ends - performance.now()) / 1000);
    if (seconds <= 0) bar.remove();
    else {
      left.textContent = seconds;
      setTimeout(tick, 200);
    }
  };
  tick();
});

// News: when the ledger has another event, what shows its state is fetched again.

function refresh(part) {
  let address = part.dataset.live;
  if (!address) {
    const here = new URL(location.href);
    const rows = part.querySelectorAll(".row").length;
    here.searchParams.set("limit", Math.min(200, Math.max(50, rows)));
    ["decided", "after"].forEach((word) => here.searchParams.delete(word));
    address = here.pathname + here.search;
  }
  const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
  htmx.ajax("GET", address, { target: part, swap: "innerHTML" }).then(() => {
    const again = focused && document.getElementById(focused);
    if (again) again.focus({ preventScroll: true });
  });
}

// What has not changed stays, so that nobody hears it read out again.
const before = new WeakMap();
document.addEventListener("htmx:beforeSwap", (event) => {
  const { target, xhr } = event.detail;
  if (!target.matches("[data-live]")) return;
  if (before.get(target) === xhr.responseText) event.detail.shouldSwap = false;
  before.set(target, xhr.responseText);
});

let source = null;
let seen = null;

function listen() {
  // Only while it can be seen: browsers allow few lines to one place.
  if (document.hidden || !document.body.dataset.events || !document.querySelector("[data-live]")) {
    if (source) source.close();
    source = null;
    return;
  }
  if (source) return;
  source = new EventSource(document.body.dataset.events);
  source.addEventListener("head", (event) => {
    if (seen !== null && seen !== event.data) all("[data-live]").forEach(refresh);
    seen = event.data;
  });
  // A browser tries again by itself, unless it was refused: the ledger may be away.
  source.addEventListener("error", (event) => {
    if (event.target.readyState !== EventSource.CLOSED) return;
    source = null;
    setTimeout(listen, 5000);
  });
}

document.addEventListener("visibilitychange", listen);
window.addEventListener("pagehide", () => source && source.close());
listen();
