// Keeps a page up to date: <main> comes whole and is morphed into the one that is shown, so that focus, selection, what is typed
// and folds stay. Without this the page is the same, and loads itself anew.
"use strict";
(() => {
  const by = id => document.getElementById(id), main = () => by("main"), on = (event, f) => document.addEventListener(event, f, true);
  const {boot} = main().dataset, plots = [], callbacks = { // charts and changes are ours
    beforeNodeMorphed: old => !old.classList?.contains("own"),
    beforeAttributeUpdated: name => name !== "open",
  };
  let source, changes, series, typing, told = {}, heard = Date.now(), last = "";

  // Times are told in the reader's zone, as ISO 8601 and Swedes write them; UTC is in the tooltip.
  const clock = t => new Date(t).toLocaleTimeString("sv"), minute = t => clock(t * 1000).slice(0, 5);
  function local(root) {
    for (const t of root.querySelectorAll("time")) t.textContent = "clock" in t.dataset ? clock(t.dateTime) : new Date(t.dateTime).toLocaleString("sv");
  }

  function tell() {
    const {title, colour, said} = main().dataset;
    document.title = title;
    if (colour !== told.colour) by("icon").href = `/icon.svg?s=${colour}`;
    if (said !== (told.said ?? said)) by("said").textContent = said;
    told = {colour, said};
  }
  function renew(html) {
    const next = new DOMParser().parseFromString(html, "text/html").getElementById("main");
    if (next.dataset.boot !== boot) return location.reload();
    local(next);
    // A fold stays as the reader has it until the service has another reason to open it, or has it no more.
    for (const fold of next.querySelectorAll(".group")) {
      const old = by(fold.id);
      if (old && old.dataset.open !== fold.dataset.open) old.open = fold.open;
    }
    Idiomorph.morph(main(), next, {ignoreActiveValue: true, callbacks});
    tell();
  }

  // Charts have the colours of what stands around them; what happened is the grid of a third axis.
  const when = mark => Math.max(Date.parse(mark.events[0].at) / 1000, series.times[0]);
  function draw() {
    if (series.times.length > 1) series.charts.forEach((c, i) => {
      const data = [series.times, ...c.data.map(line => line.map(v => v && v / c.per))];
      if (plots[i]) return plots[i].setData(data);
      const box = by(`plot-${i}`), now = () => series.charts[i], form = v => v == null ? "–" : `${+v.toPrecision(3)} ${now().unit}`;
      const size = () => ({width: box.clientWidth, height: box.clientHeight});
      const colour = of => getComputedStyle(box.parentNode.querySelector(of) ?? box).color, stroke = () => colour("summary");
      const axis = {stroke, ticks: {show: false}};
      box.replaceChildren();
      box.classList.add("own");
      plots[i] = new uPlot({
        ...size(), cursor: {sync: {key: "all"}, y: false}, legend: {show: false},
        scales: {y: {range: () => [0, now().top / now().per * 1.1 || 1]}},
        axes: [
          {...axis, size: 20, space: 40, grid: {show: false}, incrs: [60, 300, 900, 3600, 21600], values: (u, ticks) => ticks.map(minute)},
          {...axis, size: 64, grid: {stroke: "#8884", width: 1}, values: (u, ticks) => ticks.map(form)},
          {...axis, size: 0, scale: "x", side: 0, grid: {stroke, width: 1, dash: [2, 4]}, splits: () => series.marks.map(when), values: () => []},
        ],
        series: [{}, ...c.lines.map((_, j) => ({stroke: () => colour(`.line-${j}`), width: 1.5, points: {show: false}, dash: c.limit[j] ? [4, 3] : []}))],
        hooks: {setCursor: [u => {
          const at = u.cursor.idx, t = at == null ? 0 : u.data[0][at], span = u.scales.x.max - u.scales.x.min;
          box.dataset.says = !t ? "" : [
            `${minute(t)}: ` + c.lines.map((name, j) => `${name} ${form(u.data[j + 1][at])}`).join(", "),
            ...series.marks.filter(m => Math.abs(when(m) - t) < span / 48).flatMap(m => m.events).map(e => `${clock(e.at)} ${e.text}`),
          ].join("\n");
        }]},
      }, data, box);
      new ResizeObserver(() => plots[i].setSize(size())).observe(box);
    });
  }

  // The stream. A page that is not seen has none: browsers have few connections for a host.
  function open() {
    source?.close();
    source = new EventSource(main().dataset.stream || "/stream" + location.search);
    const hear = (event, f) => source.addEventListener(event, e => { heard = Date.now(); f(e.data); });
    hear("main", renew);
    hear("series", data => { series = JSON.parse(data); draw(); });
    hear("now", data => { by("live").textContent = `live ${last = clock(data)}`; });
    source.onerror = () => { if (source.readyState === EventSource.CLOSED) setTimeout(open, 2000); };
  }
  setInterval(() => {
    const silent = Math.round((Date.now() - heard) / 1000), stale = silent >= 5 && !document.hidden;
    document.body.classList.toggle("stale", stale);
    if (!stale) return;
    by("live").textContent = `no answer for ${silent} s, last data ${last}; trying every 2 s`;
    document.title = document.title.replace(/^(\? )?/, "? ");
  }, 1000);
  on("visibilitychange", () => {
    follow();
    if (document.hidden) return source.close();
    heard = Date.now();
    open();
  });

  // The changes of a table, as long as their fold is open.
  function follow() {
    const fold = by("changes"), list = fold?.querySelector("ol");
    changes?.close();
    if (!fold?.open || document.hidden) return;
    changes = new EventSource(fold.dataset.changes);
    changes.onerror = () => changes.close();
    changes.addEventListener("say", e => { fold.querySelector("p").textContent = e.data; });
    changes.addEventListener("change", e => {
      list.prepend(Object.assign(document.createElement("li"), {textContent: e.data}));
      if (list.children.length > 200) list.lastChild.remove();
    });
  }

  // Filter and open groups stand in the address.
  function address(query) {
    history.replaceState(null, "", query.size ? `/?${query}` : "/");
    open();
  }
  on("toggle", ({target: fold}) => {
    if (fold.id === "changes") follow();
    const query = new URLSearchParams(location.search), {name, open} = fold.dataset;
    query.delete("open", name);
    if (fold.open) query.append("open", name);
    if (name && fold.open !== (open != null)) address(query);
  });
  on("input", ({target: {form}}) => {
    if (form?.className !== "filter") return;
    clearTimeout(typing);
    typing = setTimeout(() => address(new URLSearchParams([...new FormData(form)].filter(([, v]) => v))), 200);
  });

  on("click", ({target: button}) => {
    if (button.className !== "copy") return;
    const code = button.previousElementSibling, say = text => button.textContent = text;
    // Over plain HTTP from afar there is no clipboard: the command is selected.
    if (!navigator.clipboard) return getSelection().selectAllChildren(code);
    navigator.clipboard.writeText(code.textContent).then(() => by("said").textContent = say("Copied"));
    setTimeout(say, 1500, "Copy");
  });
  on("keydown", e => {
    const q = by("q"), needs = [...document.querySelectorAll(".need")], next = needs[(needs.indexOf(document.activeElement) + 1) % needs.length];
    if (e.key === "Escape" && e.target === q) {
      q.value ? q.value = "" : q.blur();
      q.dispatchEvent(new Event("input", {bubbles: true}));
    }
    if (e.target.closest("input, select") || e.ctrlKey || e.metaKey || e.altKey || !wanted.checked) return;
    if (e.key === "/" && q) { q.select(); e.preventDefault(); }
    if (e.key === "?") by("keys").togglePopover();
    if (e.key === "n" && next) {
      for (const fold of document.querySelectorAll(".needs details")) fold.open ||= fold.contains(next) || next.contains(fold);
      next.focus();
    }
  });

  const wanted = by("keys-on");
  wanted.addEventListener("change", () => localStorage.setItem("keys", wanted.checked));
  local(document);
  tell();
  open();
  wanted.checked = localStorage.getItem("keys") !== "false"; // the last: a browser may forbid it
})();
