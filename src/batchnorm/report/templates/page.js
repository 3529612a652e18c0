"use strict";
(() => {
  const THEMES = {
    light: { ink: "#1b1f24", grid: "#e3e7eb", line: "#8b949e", page: "#ffffff" },
    dark: { ink: "#e7eaee", grid: "#2d333b", line: "#6e7781", page: "#1d2127" },
  };
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const config = {
    displaylogo: false,
    showSendToCloud: false, plotlyServerURL: "",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
  };
  const darker = JSON.parse(document.getElementById("dark-colours").textContent);
  const figures = [];
  const choices = {};
  let printing = false;

  const theme = () => THEMES[dark.matches && !printing ? "dark" : "light"];

  // Zoom belongs to one choice of the controls; what the legend hides stays hidden through all of them.
  function dressed(layout, choice) {
    const colours = theme();
    const result = {
      ...layout,
      font: { ...layout.font, color: colours.ink },
      hoverlabel: { ...layout.hoverlabel, bgcolor: colours.page, bordercolor: colours.line, font: { color: colours.ink } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colours.line, activecolor: colours.ink },
    };
    for (const name of Object.keys(layout)) {
      if (/^[xy]axis/.test(name)) {
        result[name] = {
          ...layout[name], gridcolor: colours.grid, linecolor: colours.line,
          tickcolor: colours.line, zerolinecolor: colours.line, uirevision: choice,
        };
      }
    }
    return result;
  }

  // Lines, bands and markers in their shade for dark pages; data are left as they are.
  function shaded(value) {
    if (typeof value === "string") return darker[value] ?? value;
    if (value === null || typeof value !== "object" || Array.isArray(value)) return value;
    return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, shaded(part)]));
  }

  const isNarrow = (figure) => figure.element.clientWidth < 480;

  function tracesOf(figure, plot) {
    const traces = plot.data.map((trace) => (theme() === THEMES.dark ? shaded(trace) : { ...trace }));
    for (const trace of traces.filter((each) => each.type === "heatmap" && isNarrow(figure))) {
      trace.showscale = false;
      trace.textfont = { ...trace.textfont, size: 9 };
    }
    return traces;
  }

  // A legend of several rows gets room of its own: within the height of the figure it would eat the plot.
  function heightFor(figure, plot) {
    const names = plot.data.filter((trace) => trace.showlegend !== false && trace.name && trace.type !== "heatmap")
      .map((trace) => trace.name);
    const widest = Math.max(0, ...names.map((name) => 7.5 * name.length)) + 62;
    const columns = Math.max(1, Math.floor((figure.element.clientWidth - 80) / widest));
    return figure.height + 29 * Math.max(0, Math.ceil(names.length / columns) - 1);
  }

  function keyOf(figure) {
    return figure.controls.map((name) => choices[figure.group][name]).join("|");
  }

  function draw(figure) {
    const choice = keyOf(figure);
    const plot = figure.plots[choice];
    if (!plot) return;
    const layout = dressed(plot.layout, choice);
    // Both sides are given: plotly's own fitting, at work beside this, can leave a plot at its default height.
    figure.width = figure.element.clientWidth;
    layout.width = printing ? Math.min(figure.width, 680) : figure.width;
    layout.height = heightFor(figure, plot);
    figure.element.style.height = layout.height + "px";
    Plotly.react(figure.element, tracesOf(figure, plot), layout, config);
  }

  function fits(rule, chosen) {
    return rule.split("&").every((part) => {
      const [name, value] = part.split("=");
      return chosen[name] === value;
    });
  }

  function follow(group) {
    const chosen = choices[group];
    for (const root of document.querySelectorAll(`figure[data-group="${group}"]`)) {
      for (const part of root.querySelectorAll("[data-when]")) part.hidden = !fits(part.dataset.when, chosen);
      const title = root.querySelector(".finding:not([hidden])");
      if (title) {
        root.querySelector(".plot").setAttribute("aria-label", title.textContent + ". The data stand in the table below.");
      }
    }
    figures.filter((figure) => figure.group === group).forEach(draw);
  }

  function readControls() {
    for (const box of document.querySelectorAll(".controls")) {
      const group = box.dataset.group;
      choices[group] = {};
      for (const control of box.querySelectorAll("[data-control]")) {
        const name = control.dataset.control;
        const now = () => (control.matches("fieldset") ? control.querySelector("input:checked").value : control.value);
        choices[group][name] = now();
        control.addEventListener("change", () => {
          choices[group][name] = now();
          follow(group);
        });
      }
    }
  }

  function readFigures() {
    for (const element of document.querySelectorAll(".plot")) {
      const source = document.getElementById("json-" + element.id.slice("plot-".length));
      figures.push({ element, height: parseFloat(element.style.height), ...JSON.parse(source.textContent) });
    }
  }

  function redraw() {
    figures.forEach(draw);
  }

  function resized() {
    const changed = (figure) => figure.element.clientWidth > 0 && figure.element.clientWidth !== figure.width;
    if (!printing) figures.filter(changed).forEach(draw);
  }

  function beforePrint() {
    printing = true;
    for (const fold of document.querySelectorAll("details:not([open])")) {
      fold.open = true;
      fold.dataset.folded = "yes";
    }
    redraw();
  }

  function afterPrint() {
    printing = false;
    for (const fold of document.querySelectorAll("details[data-folded]")) {
      fold.open = false;
      delete fold.dataset.folded;
    }
    redraw();
  }

  function markContents() {
    const links = new Map();
    for (const link of document.querySelectorAll(".page > nav a")) links.set(link.hash.slice(1), link);
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        for (const link of links.values()) link.removeAttribute("aria-current");
        links.get(entry.target.id)?.setAttribute("aria-current", "true");
      }
    }, { rootMargin: "-15% 0px -75% 0px" });
    for (const id of links.keys()) seen.observe(document.getElementById(id));
  }

  async function buildTable() {
    const table = document.getElementById("table-predictions");
    if (!table) return;
    const source = JSON.parse(document.getElementById("table-widget").textContent);
    const { default: DataTable } = await import("data:text/javascript;charset=utf-8," + encodeURIComponent(source));
    const last = table.tHead.rows[0].cells.length - 1;
    const shown = new DataTable(table, {
      order: [[last, "asc"], [1, "asc"]],
      pageLength: 10,
      lengthMenu: [10, 25, 50, 100, { label: "all", value: -1 }],
      autoWidth: false,
      columnDefs: [{ targets: 0, orderable: false }],
      layout: { topStart: "pageLength", topEnd: "search", bottomStart: "info", bottomEnd: "paging" },
      language: { search: "Search", lengthMenu: "_MENU_ samples a page", info: "_START_ to _END_ of _TOTAL_ samples",
        infoEmpty: "no samples", infoFiltered: "(of _MAX_)", emptyTable: "no samples", zeroRecords: "no sample fits" },
    });
    const rules = {
      all: () => true,
      mistakes: (row) => row.dataset.mistake === "yes",
      disagreements: (row) => row.dataset.kind === "disagreement",
    };
    const buttons = [...document.querySelectorAll("[data-filter]")];
    for (const button of buttons) {
      button.addEventListener("click", () => {
        for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
        const rule = rules[button.dataset.filter];
        shown.search.fixed("kind", (text, data, index) => rule(shown.row(index).node())).draw();
      });
    }
    table.dataset.ready = "yes";
  }

  readControls();
  readFigures();
  Object.keys(choices).forEach(follow);
  figures.filter((figure) => !figure.group).forEach(draw);
  dark.addEventListener("change", redraw);
  const watcher = new ResizeObserver(resized);
  for (const figure of figures) watcher.observe(figure.element);
  window.addEventListener("beforeprint", beforePrint);
  window.addEventListener("afterprint", afterPrint);
  markContents();
  buildTable().then(() => { document.documentElement.dataset.ready = "yes"; });
})();
