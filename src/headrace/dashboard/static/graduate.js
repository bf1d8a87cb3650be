// Moving a model to another engine, and back: asked for once it is confirmed; how it goes is drawn by the server.
"use strict";

(() => {
  const shown = document.getElementById("shown"), PATH = "/admin/graduations";

  async function ask(path, body, said) {
    try {
      const response = await headrace.get(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
      headrace.say(response.ok ? said : await headrace.reason(response));
    } catch { headrace.say("The gateway cannot be reached."); }
    document.body.dispatchEvent(new Event("headrace:graduated"));
  }

  async function begin(form) {
    const model = form.dataset.graduate, to = form.to.value, steps = form.steps.value.split(",").map(Number);
    const note = "Both run at once meanwhile. It goes back by itself when a guard is broken, and you can send it back.";
    if (await headrace.confirmed(`Move ${model} to ${to}: ${steps.join(", ")} % of the traffic?`, note)) {
      await ask(PATH, { model, to, rules: { steps } }, "Begun.");
    }
  }

  async function abort(form) {
    const model = form.dataset.abort;
    if (await headrace.confirmed(`Send ${model} back from ${form.dataset.to}?`)) await ask(PATH + "/abort", { model }, "It goes back.");
  }

  shown.addEventListener("submit", (event) => {
    const form = event.target;
    if (!form.dataset.graduate && !form.dataset.abort) return;
    event.preventDefault();
    if (form.dataset.graduate) begin(form); else abort(form);
  });
  shown.addEventListener("htmx:afterSettle", () => live.times(shown));
})();
