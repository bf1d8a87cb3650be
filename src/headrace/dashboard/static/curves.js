// The history of one model as curves that share one time line with the decisions.
"use strict";

(() => {
  const REFRESH = 30000;
  const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000];
  const CURVES = {
    queue: { parts: [["waiting", "waiting"], ["in flight", "running"]], whole: true },
    replicas: { parts: [["ready", "ready", true], ["wanted", "wanted", true]], whole: true },
    rate: { parts: [["out", "rate_out"], ["in", "rate_in"]] },
    latency: { parts: [["first token", "ttft"], ["per output token", "tpot"]], say: seconds, least: 0.001 },
  };
  const shown = document.getElementById("shown");
  let span = "1h", plots = [], last = null, timer = 0, asked = 0;

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const figure = (value) => (value === null ? "–" : value >= 100 ? Math.round(value).toLocaleString() : Number(value.toPrecision(2)).toString());

  function seconds(value) {
    if (!value) return value === null ? "–" : "0";
    return value < 0.9995 ? figure(value * 1000) + " ms" : figure(value) + " s";
  }

  // As the browser's language has it, like the times of decisions.
  function times(_, all) {
    const long = last.until - last.since > 2 * 86400;
    const style = long ? { month: "short", day: "numeric" } : { hour: "2-digit", minute: "2-digit" };
    return all.map((at) => new Date(at * 1000)[long ? "toLocaleDateString" : "toLocaleTimeString"]([], style));
  }

  function marks(decisions) {
    return { hooks: { draw: (plot) => {
      const { ctx, bbox } = plot;
      ctx.save();
      ctx.strokeStyle = colour("--mark");
      ctx.lineWidth = devicePixelRatio;
      ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
      for (const [at] of decisions) {
        const x = Math.round(plot.valToPos(at, "x", true));
        if (x < bbox.left || x > bbox.left + bbox.width) continue;
        ctx.beginPath();
        ctx.moveTo(x, bbox.top);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.stroke();
      }
      ctx.restore();
    } } };
  }

  function series([label, column, steps], index, say) {
    const options = { label, stroke: colour("--curve-" + index), width: 1.5, points: { show: false }, spanGaps: false };
    if (steps) options.paths = uPlot.paths.stepped({ align: 1 });
    options.value = (plot, value) => say(value ?? null);
    return { options, values: last.columns[column] };
  }

  function draw(element, { parts, whole, say = figure, least = 1 }) {
    const made = parts.map((part, index) => series(part, index, say)), place = element.querySelector("div");
    const axis = { stroke: colour("--faint"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const plot = new uPlot({
      width: Math.max(200, place.clientWidth), height: 170,
      series: [{ value: (_, at) => (at === null ? "–" : new Date(at * 1000).toLocaleString()) }, ...made.map((one) => one.options)],
      axes: [
        { ...axis, space: 80, size: 30, values: times },
        { ...axis, size: 56, values: (_, all) => all.map((one) => (say === figure ? one.toLocaleString() : say(one))), ...(whole && { incrs: WHOLE }) },
      ],
      scales: { x: { range: () => [last.since, last.until] }, y: { range: (_, low, high) => [0, Math.max(least, (high ?? least) * 1.1)] } },
      cursor: { sync: { key: "headrace" }, drag: { x: false, y: false } },
      legend: { live: true },
      plugins: [marks(last.decisions)],
    }, [last.columns.at, ...made.map((one) => one.values)], place);
    const said = made.map((one) => {
      const known = one.values.filter((value) => value !== null);
      return one.options.label + (known.length ? " " + say(known.at(-1)) + " now, " + say(known.reduce((a, b) => Math.max(a, b))) + " at most" : " unknown");
    }).join("; ");
    const title = element.querySelector("figcaption").firstChild.textContent.trim();
    const canvas = place.querySelector("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", title + " in the last " + span + ": " + said);
    plots.push({ plot, place });
  }

  function render() {
    for (const { plot } of plots) plot.destroy();
    plots = [];
    const empty = !last.columns.at.length;
    document.getElementById("curves").hidden = empty;
    document.getElementById("history-note").textContent = last.missing || (empty ? "Nothing was recorded in this span." : "");
    if (!empty) for (const element of document.querySelectorAll("[data-curve]")) draw(element, CURVES[element.dataset.curve]);
    const list = document.getElementById("past");
    list.replaceChildren(...last.decisions.map(([at, what, why]) => {
      const item = document.createElement("li"), time = document.createElement("time"), text = document.createElement("span");
      time.dataset.at = at;
      const bold = document.createElement("b");
      bold.textContent = what;
      text.append(bold, " " + why);
      item.append(time, " ", text);
      return item;
    }));
    live.times(list);
  }

  async function load() {
    clearTimeout(timer);
    const mine = ++asked, place = document.getElementById("curves");
    if (!place) return;
    try {
      const response = await headrace.get("/admin/pages/history?span=" + span + "&model=" + encodeURIComponent(place.dataset.model));
      if (!response.ok) throw new Error(await headrace.reason(response));
      const found = await response.json();
      if (mine !== asked) return;
      last = found;
      render();
    } catch (error) { document.getElementById("history-note").textContent = error.message; }
    timer = setTimeout(load, REFRESH);
  }

  shown.addEventListener("htmx:afterSettle", (event) => { if (event.target === shown) load(); });
  shown.addEventListener("click", (event) => {
    const button = event.target.closest("[data-span]");
    if (!button) return;
    span = button.dataset.span;
    for (const one of document.querySelectorAll("[data-span]")) one.setAttribute("aria-pressed", String(one === button));
    load();
  });
  document.body.addEventListener("headrace:decided", () => setTimeout(load, 500)); // once it is written
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => last && render());
  new ResizeObserver(() => {
    for (const { plot, place } of plots) if (place.clientWidth > 0 && plot.width !== place.clientWidth) plot.setSize({ width: place.clientWidth, height: 170 });
  }).observe(shown);
})();
