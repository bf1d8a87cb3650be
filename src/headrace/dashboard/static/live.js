// Keeps the page as the gateway is: reads its events with fetch (EventSource cannot send a key) and changes only what changed.
"use strict";

const live = (() => {
  const shown = document.getElementById("shown"), link = document.getElementById("link"), title = document.title;
  let rows = new Map(), reading = null, changed = 0;

  function state(name, text) {
    if (link.dataset.state === name) return;
    link.dataset.state = name;
    link.textContent = text;
  }

  function index() {
    rows = new Map();
    for (const row of shown.querySelectorAll("[data-row]")) {
      const cells = rows.get(row.dataset.row) ?? { rows: [], cells: new Map() };
      cells.rows.push(row);
      for (const cell of row.querySelectorAll("[data-cell]")) {
        const name = cell.dataset.cell;
        cells.cells.set(name, [...(cells.cells.get(name) ?? []), cell]);
      }
      rows.set(row.dataset.row, cells);
    }
    times(shown);
    filter();
  }

  function update(name, cells) {
    const row = rows.get(name);
    if (!row) return false;
    for (const [cell, text] of Object.entries(cells)) {
      for (const element of row.cells.get(cell) ?? []) {
        if (element.textContent !== text) element.textContent = text;
        if (cell === "errors" || cell === "failed") element.toggleAttribute("data-bad", !["0", "–"].includes(text));
      }
      if (cell === "phase" || cell === "state") for (const element of row.rows) element.dataset.phase = text;
    }
    if (!name && "failed" in cells) document.title = (cells.failed === "0" ? "" : `${cells.failed} failed · `) + title;
    return !("replicas" in cells || "state" in cells);
  }

  // Parts that the server draws are fetched again, not more often than twice a second.
  function redraw() {
    clearTimeout(changed);
    changed = setTimeout(() => document.body.dispatchEvent(new Event("headrace:changed")), 500);
  }

  function take(message, first) {
    let same = true;
    for (const [name, cells] of Object.entries(message.rows ?? {})) same = update(name, cells) && same;
    if (!same && !first) redraw();
    if (message.rows) filter();
    if (message.decisions) {
      for (const one of message.decisions) decided(one);
      document.body.dispatchEvent(new CustomEvent("headrace:decided"));
    }
  }

  function decided([at, , said]) {
    const list = document.getElementById("decisions");
    if (!list) return;
    const item = document.createElement("li"), time = document.createElement("time"), text = document.createElement("span");
    time.dataset.at = at;
    text.textContent = said;
    item.append(time, " ", text);
    item.className = "new";
    list.prepend(item);
    while (list.children.length > 50) list.lastElementChild.remove();
    times(item);
  }

  function times(within) {
    for (const time of within.querySelectorAll("time[data-at]:empty")) {
      const when = new Date(time.dataset.at * 1000);
      time.dateTime = when.toISOString();
      const today = when.toDateString() === new Date().toDateString();
      time.textContent = today ? when.toLocaleTimeString() : when.toLocaleString();
    }
  }

  function filter() {
    const field = document.getElementById("filter"), busy = document.getElementById("busy")?.checked;
    if (!document.getElementById("models")) return;
    const wanted = field?.value.trim().toLowerCase() ?? "";
    let some = false;
    for (const [name, row] of rows) {
      if (!name) continue;
      const text = (cell) => row.cells.get(cell)?.[0].textContent ?? "";
      const used = text("waiting") !== "0" || !text("running").startsWith("0 ") || ["failed", "loading"].includes(text("phase"));
      const hidden = !name.toLowerCase().includes(wanted) || (busy && !used);
      for (const element of row.rows) if (element.hidden !== hidden) element.hidden = hidden;
      some ||= !hidden;
    }
    document.getElementById("none").hidden = some;
  }

  async function read() {
    const model = shown.dataset.live;
    const url = "/admin/pages/live" + (model ? "?model=" + encodeURIComponent(model) : "");
    const response = await headrace.get(url);
    if (!response.ok) throw new Error(await headrace.reason(response));
    state("live", "live");
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "", first = true;
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
      const events = text.split("\n\n");
      text = events.pop();
      for (const event of events) { take(JSON.parse(event.slice("data: ".length)), first); first = false; }
    }
  }

  async function follow() {
    for (let pause = 500; ; pause = Math.min(pause * 2, 15000)) {
      try { await read(); pause = 500; } catch { /* it is said below */ }
      state("lost", "connection lost");
      await new Promise((resolve) => setTimeout(resolve, pause));
      document.body.dispatchEvent(new Event("headrace:again"));
    }
  }

  shown.addEventListener("htmx:afterSettle", () => { index(); reading ??= follow(); });
  shown.addEventListener("input", (event) => { if (["filter", "busy"].includes(event.target.id)) filter(); });
  return { times };
})();
