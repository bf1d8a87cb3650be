// The key of this tab, asked for when an answer says that one is needed; confirmations; what went wrong, said aloud.
"use strict";

const headrace = (() => {
  const STORED = "headrace-key";
  const key = () => sessionStorage.getItem(STORED);
  const rights = () => (key() ? { Authorization: "Bearer " + key() } : {});
  let asking = null;

  // Ask once for a key, however many answers want one; resolves when there is another key.
  function ask(why) {
    asking ??= new Promise((resolve) => {
      const dialog = document.getElementById("key-dialog");
      document.getElementById("key-why").textContent = why;
      dialog.addEventListener("close", () => {
        const given = document.getElementById("key").value.trim();
        document.getElementById("key").value = "";
        asking = null;
        if (given) sessionStorage.setItem(STORED, given);
        shown();
        resolve(Boolean(given));
      }, { once: true });
      dialog.showModal();
    });
    return asking;
  }

  const wants = (status) => status === 401 || status === 403;

  async function reason(response) {
    try { return (await response.json()).error.message; } catch { return "The gateway answered " + response.status + "."; }
  }

  // fetch with the key; asks for one and tries again when it is wanted.
  async function get(url, options = {}) {
    for (;;) {
      const response = await fetch(url, { ...options, headers: { ...options.headers, ...rights() } });
      if (!wants(response.status) || !(await ask(await reason(response)))) return response;
    }
  }

  function say(text) {
    const toast = document.getElementById("said");
    toast.textContent = text;
    toast.hidden = false;
    clearTimeout(say.timer);
    say.timer = setTimeout(() => { toast.hidden = true; }, 8000);
  }

  function confirmed(question, note = "") {
    return new Promise((resolve) => {
      const dialog = document.getElementById("ask");
      document.getElementById("ask-title").textContent = question;
      document.getElementById("ask-note").textContent = note;
      dialog.returnValue = "no";
      dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
      dialog.showModal();
    });
  }

  // Links send no key: they are of use without one only.
  function shown() {
    document.getElementById("forget").hidden = !key();
    for (const link of document.querySelectorAll("footer a")) link.hidden = Boolean(key());
  }

  document.body.addEventListener("htmx:configRequest", (event) => Object.assign(event.detail.headers, rights()));
  document.body.addEventListener("htmx:responseError", async (event) => {
    const { xhr, elt } = event.detail;
    let why = "The gateway answered " + xhr.status + ".";
    try { why = JSON.parse(xhr.responseText).error.message; } catch { /* no JSON */ }
    if (!wants(xhr.status)) {
      const waiting = elt.querySelector && elt.querySelector(".waiting");
      if (waiting) waiting.textContent = why; else say(why);
    } else if (await ask(why)) document.body.dispatchEvent(new Event("headrace:again"));
  });
  document.body.addEventListener("htmx:sendError", () => say("The gateway cannot be reached."));
  document.body.addEventListener("htmx:confirm", async (event) => {
    if (event.detail.question !== "ask") return;
    event.preventDefault();
    const form = event.detail.elt, choice = form.want.selectedOptions[0].textContent;
    const now = document.querySelector("p.state [data-cell=wish]")?.textContent ?? "";
    form.seen.value = now; // what is shown now is known to whoever confirms
    if (await confirmed(form.dataset.model + ": " + choice + "?", now && "Now it is " + now + ".")) event.detail.issueRequest(true);
  });
  document.body.addEventListener("htmx:afterRequest", (event) => {
    if (!event.detail.successful || !event.detail.elt.matches(".wish-form")) return;
    const before = JSON.parse(event.detail.xhr.responseText).instead_of;
    say(before ? "Asked for, instead of what somebody asked meanwhile: " + before + "." : "Asked for. It is carried out with the next look.");
  });
  async function copy(text) {
    try { await navigator.clipboard.writeText(text); say("Copied."); } catch { say("The browser does not allow that; select the text."); }
  }
  document.body.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) copy(document.getElementById(button.dataset.copy).textContent);
  });
  document.getElementById("forget").addEventListener("click", () => { sessionStorage.removeItem(STORED); location.reload(); });
  shown();
  return { confirmed, get, key, reason, say };
})();
