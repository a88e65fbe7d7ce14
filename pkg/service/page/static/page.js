// Keeps a page that is looked at up to date: <main> comes from the service whole and is morphed into the one that is shown,
// so that focus, selection, what is typed and what is folded open stay. Without this script the page is the same, and loads
// itself anew.
"use strict";
(() => {
  const main = () => document.getElementById("main");
  const live = document.getElementById("live"), said = document.getElementById("said");
  let source, heard = Date.now(), shownAt = "", boot = main().dataset.boot, series, plots = [];

  // Times are shown in the reader's zone, with UTC in the tooltip.
  const two = n => String(n).padStart(2, "0");
  const minute = d => `${two(d.getHours())}:${two(d.getMinutes())}`, clock = d => `${minute(d)}:${two(d.getSeconds())}`;
  function local(root) {
    for (const t of root.querySelectorAll("time")) {
      const d = new Date(t.dateTime);
      t.textContent = "clock" in t.dataset ? clock(d) : `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ${clock(d)}`;
    }
    for (const b of root.querySelectorAll(".copy[hidden]")) b.hidden = false;
  }

  function tell() {
    const d = main().dataset;
    document.title = d.title;
    const icon = document.getElementById("icon"), href = `/icon.svg?s=${d.colour}`;
    if (icon.getAttribute("href") !== href) icon.setAttribute("href", href);
    if (said.dataset.last !== d.said) {
      if (said.dataset.last !== undefined) said.textContent = d.said;
      said.dataset.last = d.said;
    }
  }

  const callbacks = {
    // A chart is the script's own, and so is the list of changes; what the reader has folded open stays so.
    beforeNodeMorphed: old => !(old.classList && (old.classList.contains("plot") && old.dataset.drawn || old.classList.contains("own"))),
    beforeAttributeUpdated: (name, node) => !(node.tagName === "DETAILS" && name === "open") && !(node.classList.contains("copy") && name === "hidden"),
  };
  function renew(html) {
    const next = new DOMParser().parseFromString(html, "text/html").getElementById("main");
    if (next.dataset.boot !== boot) return location.reload();
    local(next);
    // A fold stays as the reader has it until the service has another reason to have it open, or has that no more.
    for (const fold of next.querySelectorAll("details.group")) {
      const old = document.getElementById(fold.id);
      if (old && old.dataset.open !== fold.dataset.open) old.open = fold.open;
    }
    Idiomorph.morph(main(), next, {ignoreActiveValue: true, callbacks});
    tell();
  }

  // Charts
  const number = v => v == null ? "–" : v >= 1e6 ? `${+(v / 1e6).toPrecision(3)} M` : v >= 1e4 ? `${+(v / 1e3).toPrecision(3)} k` : `${+v.toPrecision(3)}`;
  const bytes = v => { let u = 0; while (v >= 1024 && u < 5) { v /= 1024; u++; } return `${+v.toPrecision(3)} ${["B", "KiB", "MiB", "GiB", "TiB", "PiB"][u]}`; };
  const span = v => v < 0.1 && v > 0 ? `${+(v * 1000).toPrecision(2)} ms` : v < 120 ? `${+v.toPrecision(3)} s` : v < 7200 ? `${+(v / 60).toPrecision(3)} min` : `${+(v / 3600).toPrecision(3)} h`;
  // Steps of the axes that are round in their unit.
  const powers = [...Array(60).keys()].map(i => 2 ** i);
  const times = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400, 604800];
  const steps = {B: powers, s: times}, minutes = [1, 2, 5, 10, 15, 30, 60, 120, 240, 360].map(n => n * 60);
  const forms = {s: span, B: bytes, "/s": number, "": number};
  // A colour of light-dark() is resolved by asking an element that has it.
  function resolved(name) {
    const probe = document.createElement("span");
    probe.className = name;
    document.body.append(probe);
    const c = getComputedStyle(probe).color;
    probe.remove();
    return c;
  }
  const hour = t => minute(new Date(t * 1000));

  // A limit that is far away would make a flat line of what matters: it is in the picture from a quarter of it on.
  function top(data, c) {
    const highest = c.lines.map((_, j) => data[j + 1].reduce((a, b) => Math.max(a, b ?? 0), 0));
    const most = Math.max(...highest.filter((_, j) => !c.limit[j]));
    return Math.max(most, ...highest.filter((h, j) => c.limit[j] && h <= 4 * most));
  }

  // What happened is an element over the chart, that is pointed at, or reached by Tab and the arrows; the table below has it, too.
  function mark(u) {
    const was = new Map([...u.over.querySelectorAll(".mark")].map(m => [m.dataset.at, m])), {min, max} = u.scales.x;
    series.marks.forEach(({events, more}, i, all) => {
      const at = events[0].at, m = was.get(at) || u.over.appendChild(document.createElement("span"));
      was.delete(at);
      m.className = "mark";
      m.dataset.at = at;
      m.title = ""; // that of the chart would hide the text
      m.tabIndex = i === all.length - 1 ? 0 : -1;
      m.setAttribute("role", "img");
      m.setAttribute("aria-label", events.map(e => `${clock(new Date(e.at))} ${e.text}`).join("\n") + (more ? `\nand ${more} more: see Events` : ""));
      m.style.marginLeft = `${u.valToPos(Math.min(Math.max(Date.parse(at) / 1000, min), max), "x") - 4}px`;
    });
    for (const m of was.values()) m.remove();
  }

  function draw() {
    if (!series || !window.uPlot) return;
    const ink = resolved("grey"), edge = "rgba(128,128,128,0.25)";
    const strokes = [resolved("blue"), resolved("key line-1"), resolved("amber")];
    series.charts.forEach((c, i) => {
      const box = document.getElementById(`plot-${i}`);
      if (!box) return;
      const data = [series.times, ...c.data];
      if (plots[i] && box.contains(plots[i].root)) return plots[i].setData(data);
      if (series.times.length < 2) return;
      const form = forms[c.kind];
      box.replaceChildren();
      box.dataset.drawn = "1";
      plots[i] = new uPlot({
        width: box.clientWidth, height: box.clientHeight, padding: [6, 16, 0, 0],
        cursor: {sync: {key: "hour"}, y: false, points: {size: 5}}, legend: {show: false},
        scales: {y: {range: u => [0, top(u.data, c) * 1.1 || 1]}},
        axes: [
          {stroke: ink, grid: {show: false}, ticks: {show: false}, size: 20, font: "11px system-ui", incrs: minutes, values: (u, ticks) => ticks.map(hour), space: 50},
          {stroke: ink, grid: {stroke: edge, width: 1}, ticks: {show: false}, size: 56, font: "11px system-ui", incrs: steps[c.kind], values: (u, ticks) => ticks.map(form), space: 28},
        ],
        series: [{}, ...c.lines.map((name, j) => ({label: name, stroke: strokes[j % 3], width: 1.5, points: {show: false}, dash: c.limit[j] ? [4, 3] : undefined, spanGaps: false}))],
        hooks: {draw: [mark], setCursor: [u => {
          const at = u.cursor.idx;
          box.title = at == null ? "" : `${hour(u.data[0][at])}  ` + c.lines.map((name, j) => u.data[j + 1].some(v => v != null) && `${name} ${u.data[j + 1][at] == null ? "–" : form(u.data[j + 1][at])}`).filter(Boolean).join(", ");
        }]},
      }, data, box);
      new ResizeObserver(() => plots[i].setSize({width: box.clientWidth, height: box.clientHeight})).observe(box);
    });
  }
  function redraw() {
    for (const p of plots) if (p) p.destroy();
    plots = [];
    draw();
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  // The stream. A page that is not seen has none: browsers have few connections for a host.
  function open() {
    if (source) source.close();
    source = new EventSource(main().dataset.stream || "/stream" + location.search);
    const hear = () => { heard = Date.now(); document.body.classList.remove("stale"); };
    source.addEventListener("boot", e => { hear(); if (e.data !== boot) location.reload(); });
    source.addEventListener("main", e => { hear(); renew(e.data); });
    source.addEventListener("series", e => { hear(); series = JSON.parse(e.data); draw(); });
    source.addEventListener("now", e => {
      hear();
      shownAt = clock(new Date(e.data));
      live.textContent = `live ${shownAt}`;
    });
    source.onerror = () => { if (source.readyState === EventSource.CLOSED) setTimeout(open, 2000); };
  }
  setInterval(() => {
    const silent = Math.round((Date.now() - heard) / 1000);
    if (silent < 5 || document.hidden) return;
    document.body.classList.add("stale");
    live.textContent = `no answer for ${silent} s, last data ${shownAt}; trying every 2 s`;
    if (!document.title.startsWith("? ")) document.title = `? ${document.title}`;
  }, 1000);
  document.addEventListener("visibilitychange", () => {
    follow();
    if (document.hidden) { source.close(); return; }
    heard = Date.now();
    open();
  });
  addEventListener("pagehide", () => { source.close(); if (changes) changes.close(); });

  // The changes of a table, as long as their fold is open.
  let changes;
  function follow() {
    const fold = document.getElementById("changes");
    if (changes) changes.close();
    changes = undefined;
    if (!fold || !fold.open || document.hidden) return;
    const say = text => { fold.querySelector("p").textContent = text; }, list = fold.querySelector("ol");
    say("asking Kafka");
    changes = new EventSource(fold.dataset.changes);
    changes.addEventListener("begin", e => say(e.data));
    changes.addEventListener("change", e => {
      const line = document.createElement("li");
      line.textContent = e.data;
      list.prepend(line);
      while (list.children.length > 200) list.lastChild.remove();
      say("the newest first; times are of the commit");
    });
    changes.addEventListener("end", e => { changes.close(); say(`ended: ${e.data}. Closed and opened again, it goes on.`); });
  }
  // What is shown goes into the address, and comes from there.
  function address(query) {
    history.replaceState(null, "", query.size ? `/?${query}` : "/");
    open();
  }
  // So does which groups the reader has opened; the rows of a large one come only then.
  document.addEventListener("toggle", e => {
    const fold = e.target;
    if (fold.id === "changes") follow();
    if (!fold.classList.contains("group") || fold.open === ("open" in fold.dataset)) return;
    const query = new URLSearchParams(location.search), others = query.getAll("open").filter(name => name !== fold.dataset.name);
    query.delete("open");
    for (const name of fold.open ? [...others, fold.dataset.name] : others) query.append("open", name);
    if (fold.open || query.size !== new URLSearchParams(location.search).size) address(query);
  }, true);

  let typing;
  document.addEventListener("input", e => {
    if (e.target.id !== "q" && e.target.id !== "state") return;
    clearTimeout(typing);
    typing = setTimeout(() => {
      const query = new URLSearchParams(new FormData(e.target.form));
      for (const [name, v] of [...query]) if (!v) query.delete(name);
      address(query);
    }, 200);
  });

  document.addEventListener("click", e => {
    const button = e.target.closest(".copy");
    if (button) {
      const code = button.previousElementSibling;
      const done = () => {
        button.textContent = "Copied";
        setTimeout(() => { button.textContent = "Copy"; }, 1500);
      };
      // Over plain HTTP from another host there is no clipboard: then the command is selected, to be copied by hand.
      if (navigator.clipboard) navigator.clipboard.writeText(code.textContent).then(done);
      else getSelection().selectAllChildren(code);
    }
    if (e.target.id === "help") document.getElementById("keys").showModal();
  });
  document.getElementById("help").hidden = false;
  const on = document.getElementById("keys-on");
  try { on.checked = localStorage.getItem("keys") !== "off"; } catch {}
  on.addEventListener("change", () => { try { localStorage.setItem("keys", on.checked ? "on" : "off"); } catch {} });
  document.addEventListener("keydown", e => {
    if (e.target.className === "mark") {
      const next = {ArrowLeft: e.target.previousSibling, ArrowRight: e.target.nextSibling}[e.key];
      if (next && next.className === "mark") { next.focus(); e.preventDefault(); }
      if (e.key === "Escape") e.target.blur();
    }
    const q = document.getElementById("q"), within = e.target.closest("input, select, textarea, dialog");
    if (e.key === "Escape" && e.target === q && q.value) {
      q.value = "";
      q.dispatchEvent(new Event("input", {bubbles: true}));
      e.preventDefault();
    }
    if (within || e.ctrlKey || e.metaKey || e.altKey || !on.checked) return;
    if (e.key === "/" && q) { q.focus(); q.select(); e.preventDefault(); }
    if (e.key === "?") document.getElementById("keys").showModal();
    if (e.key === "n") {
      const all = [...document.querySelectorAll(".need")];
      const next = all[(all.indexOf(document.activeElement) + 1) % all.length];
      if (next) {
        for (const fold of next.querySelectorAll("details")) fold.open = true;
        next.focus();
        next.scrollIntoView({block: "nearest"});
      }
    }
  });

  local(document);
  tell();
  open();
})();
