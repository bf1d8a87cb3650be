// A chat with any served model, or the same chat with two of them side by side, over the API that everybody uses.
"use strict";

(() => {
  const $ = (id) => document.getElementById(id);
  const sides = [...document.querySelectorAll(".side")].map((element, index) => ({
    element, title: element.querySelector("h2"), status: element.querySelector("p"), log: element.querySelector(".turns"),
    choice: $("model-" + index), turns: [],
  }));
  let stopping = null, language = "curl";

  const active = () => ($("compare").checked ? sides : sides.slice(0, 1));

  function request(side, messages) {
    const system = $("system").value.trim(), body = { model: side.choice.value, messages };
    if (system) body.messages = [{ role: "system", content: system }, ...messages];
    if ($("temperature").value !== "") body.temperature = Number($("temperature").value);
    if ($("most").value !== "") body.max_tokens = Number($("most").value);
    return body;
  }

  // What is typed now, or was sent last, as it could be sent from elsewhere; the key is left to the environment.
  function code() {
    const side = sides[0], text = $("text").value.trim();
    const said = side.turns.filter((turn) => turn.role === "user");
    const messages = text ? [...side.turns, { role: "user", content: text }] : side.turns.slice(0, side.turns.lastIndexOf(said.at(-1)) + 1);
    const body = request(side, messages.length ? messages : [{ role: "user", content: "Explain what a queue is, briefly." }]);
    const keyed = Boolean(headrace.key());
    const json = JSON.stringify(body, null, 2);
    if (language === "curl") {
      return "curl " + location.origin + "/v1/chat/completions \\\n" + (keyed ? "  -H \"Authorization: Bearer $HEADRACE_KEY\" \\\n" : "")
        + "  -H 'Content-Type: application/json' \\\n  -d '" + json.replaceAll("'", "'\\''") + "'";
    }
    const fields = Object.entries(body).map(([name, value]) => "    " + name + "=" + JSON.stringify(value, null, 4).replaceAll("\n", "\n    ") + ",").join("\n");
    return (keyed ? "import os\n\n" : "") + "from openai import OpenAI\n\nclient = OpenAI(base_url=\"" + location.origin + "/v1\", api_key="
      + (keyed ? "os.environ[\"HEADRACE_KEY\"]" : "\"unused\"") + ")\nanswer = client.chat.completions.create(\n" + fields + "\n)\nprint(answer.choices[0].message.content)";
  }

  function show() {
    $("code").textContent = code();
    $("other").hidden = sides[1].element.hidden = !$("compare").checked;
    for (const side of sides) side.title.textContent = side.choice.selectedOptions[0]?.textContent || "–";
  }

  function turn(side, kind, text) {
    const element = document.createElement("div");
    element.className = "turn " + kind;
    element.textContent = text;
    side.log.append(element);
    side.log.scrollTop = side.log.scrollHeight;
    return element;
  }

  function speed(side, began, first, tokens, said) {
    const parts = [];
    if (first) parts.push("first token " + (first - began < 999.5 ? Math.round(first - began) + " ms" : ((first - began) / 1000).toFixed(1) + " s"));
    const seconds = (performance.now() - first) / 1000;
    if (tokens > 1 && seconds > 0) parts.push(((tokens - 1) / seconds).toFixed(1) + " tokens/s", tokens + " tokens");
    if (said) parts.push(said);
    side.status.textContent = parts.join(" · ");
  }

  async function answer(side, signal) {
    const turns = side.turns, current = () => side.turns === turns;  // "Start over" may begin another chat meanwhile
    const body = { ...request(side, side.turns), stream: true, stream_options: { include_usage: true } };
    const began = performance.now();
    const element = turn(side, "assistant", "");
    let first = 0, tokens = 0, text = "";
    const tell = (said) => { if (current()) speed(side, began, first, tokens, said); };
    side.status.textContent = "waiting";
    try {
      const response = await headrace.get("/v1/chat/completions", {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal,
      });
      if (!response.ok) throw new Error(await headrace.reason(response));
      for await (const event of events(response)) {
        if (event.error) throw new Error(event.error.message);
        const delta = event.choices?.[0]?.delta ?? {}, piece = delta.content || delta.reasoning_content || "";
        if (piece) {
          first ||= performance.now();
          tokens += 1;
          text += piece;
          element.textContent = text;
          side.log.scrollTop = side.log.scrollHeight;
        }
        if (event.usage?.completion_tokens) tokens = event.usage.completion_tokens;
        tell("");
      }
      tell("done");
    } catch (error) {
      if (signal.aborted) tell("stopped");
      else if (current()) { turn(side, "failed", error.message); side.status.textContent = "failed"; }
    }
    if (text) turns.push({ role: "assistant", content: text }); else { element.remove(); turns.pop(); }
  }

  async function* events(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
      const found = text.split(/\r?\n\r?\n/);
      text = found.pop();
      for (const event of found) {
        const data = event.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
        if (data === "[DONE]") return;
        if (data) yield JSON.parse(data);
      }
    }
  }

  async function send() {
    const text = $("text").value.trim();
    if (!text || stopping || !sides[0].choice.value) return;
    stopping = new AbortController();
    $("text").value = "";
    $("send").disabled = true;
    $("stop").disabled = false;
    for (const side of active()) {
      side.turns.push({ role: "user", content: text });
      turn(side, "user", text);
    }
    show();
    await Promise.all(active().map((side) => answer(side, stopping.signal)));
    stopping = null;
    $("send").disabled = false;
    $("stop").disabled = true;
    show();
    $("text").focus();
  }

  function clear() {
    stopping?.abort();
    for (const side of sides) { side.turns = []; side.log.replaceChildren(); side.status.textContent = ""; }
    show();
  }

  async function models() {
    // Who is no administrator may still talk to models: then it is not known here which of them can.
    const told = await fetch("/admin/pages/models", { headers: headrace.key() ? { Authorization: "Bearer " + headrace.key() } : {} });
    if (told.ok) return (await told.json()).filter((model) => !model.task || model.task === "generate");
    const response = await headrace.get("/v1/models");
    if (!response.ok) throw new Error(await headrace.reason(response));
    return (await response.json()).data.map((model) => ({ name: model.id, engine: "" }));
  }

  async function begin() {
    try {
      const found = await models();
      for (const [index, side] of sides.entries()) {
        side.choice.replaceChildren(...found.map(({ name, engine }) => new Option(engine ? name + " · " + engine : name, name)));
        side.choice.selectedIndex = Math.min(index, found.length - 1);
      }
      if (!found.length) headrace.say("No model here generates text.");
    } catch (error) { headrace.say(error.message); }
    show();
  }

  $("talk").addEventListener("submit", (event) => { event.preventDefault(); send(); });
  $("text").addEventListener("keydown", (event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); } });
  $("talk").addEventListener("input", show);
  $("stop").addEventListener("click", () => stopping?.abort());
  $("clear").addEventListener("click", clear);
  for (const button of document.querySelectorAll("[data-code]")) {
    button.addEventListener("click", () => {
      language = button.dataset.code;
      for (const one of document.querySelectorAll("[data-code]")) one.setAttribute("aria-pressed", String(one === button));
      show();
    });
  }
  begin();
})();
