"use strict";
/* The page's own script. Text reaches the document through textContent alone. */
(() => {
  const palettes = JSON.parse(document.getElementById("palettes").textContent);
  const root = document.documentElement;
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const printing = matchMedia("print");
  const status = document.getElementById("status");
  const drawn = new Set();

  const scheme = () => {
    if (printing.matches) return "light";
    return root.dataset.scheme || (prefersDark.matches ? "dark" : "light");
  };
  const element = (name, text = "", kind = "") => {
    const made = document.createElement(name);
    if (text !== "") made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  const read = (place) => JSON.parse(document.getElementById(place.dataset.source).textContent);

  /* Charts ---------------------------------------------------------------------------------- */

  /* Put colours and numbers in place of "$names"; data are left as they are. */
  const fill = (spec, tokens) => {
    if (typeof spec === "string") {
      if (spec[0] === "$" && spec.slice(1) in tokens) return tokens[spec.slice(1)];
      return "floor" in tokens ? spec.replaceAll("$floor", String(tokens.floor)) : spec;
    }
    if (Array.isArray(spec)) return spec.map((one) => fill(one, tokens));
    if (spec === null || typeof spec !== "object") return spec;
    return Object.fromEntries(
      Object.entries(spec).map(([name, one]) => [name, name === "data" ? one : fill(one, tokens)]),
    );
  };
  /* The shortest text of a number: equal texts are equal numbers. */
  const raised = (power) =>
    power.replace("+", "").replace("-", "⁻").replace(/\d/g, (digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]);
  const written = (value) => {
    const size = Math.abs(value);
    if (size === 0 || (size >= 1e-4 && size < 1e6)) {
      return size.toLocaleString("en-US", { maximumSignificantDigits: 12, useGrouping: size >= 1e4 });
    }
    const [front, power] = Number(size.toPrecision(12)).toExponential().split("e");
    return (front === "1" ? "" : `${front}·`) + `10${raised(power)}`;
  };
  const thousands = (value) => {
    const power = [9, 6, 3].find((one) => Math.abs(value) >= 10 * 10 ** (one - 1)) || 0;
    return written(value / 10 ** power) + { 0: "", 3: "k", 6: "M", 9: "G" }[power];
  };
  const tick = (value, form) => {
    const [kind, signed] = form.split(" ");
    const sign = value < 0 ? "−" : signed && value > 0 ? "+" : "";
    if (kind === "share") return `${sign}${written(100 * value)} %`;
    return sign + (kind === "count" ? thousands(value) : written(value));
  };
  /* Larger on a projector, as the page's own text is. */
  const letters = () => (innerWidth >= 1800 ? 14 : 11);
  const look = (colors) => ({
    background: null,
    font: "system-ui, sans-serif",
    padding: { left: 2, right: 8, top: 6, bottom: 2 },
    view: { stroke: null },
    axis: {
      labelColor: colors.ink, titleColor: colors.ink, tickColor: colors.muted,
      domainColor: colors.muted, gridColor: colors.grid, labelFontSize: letters(),
      titleFontSize: letters(), titleFontWeight: "normal", labelOverlap: "greedy",
      labelSeparation: 8,
    },
    legend: {
      labelColor: colors.ink, titleColor: colors.ink, symbolStrokeWidth: 2,
      labelFontSize: letters(),
    },
    aria: false,
    customFormatTypes: true,
  });
  const draw = async (place, spec, tokens, title) => {
    const theme = scheme();
    const colors = palettes[theme];
    const full = fill(spec, { ...colors, ...tokens });
    const old = place.view;
    const result = await vegaEmbed(
      place,
      { ...full, width: "container", height: "container", autosize: { type: "fit", contains: "padding" } },
      { actions: false, ast: true, renderer: "svg", config: look(colors), tooltip: { theme }, expressionFunctions: { tick } },
    );
    if (old) old.finalize();
    place.view = result;
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", title);
  };
  const guarded = (work) => work.catch((error) => console.error(error));

  const chart = (figure) => {
    const data = read(figure);
    const place = figure.querySelector(".plot");
    const own = figure.querySelectorAll(".choices input");
    const board = figure.closest("article").querySelectorAll(".switchboard input");
    const boxes = [...(own.length ? own : board)];
    const paint = () => {
      const hidden = new Set(boxes.filter((box) => !box.checked).map((box) => box.value));
      // What belongs to a curve has its name and a hyphen before its own.
      const layers = data.spec.layer?.filter((one) => !hidden.has(one.name?.split("-")[0]));
      const spec = layers ? { ...data.spec, layer: layers } : data.spec;
      return guarded(draw(place, spec, {}, data.title));
    };
    for (const box of boxes) {
      box.addEventListener("change", () => (drawn.has(figure) ? paint() : undefined));
    }
    return paint;
  };

  /* The slider ------------------------------------------------------------------------------ */

  const rowsOf = ({ edges, columns }, fields) => {
    const names = Object.keys(fields);
    const count = edges.length - 1;
    const write = (value) => Number(value.toPrecision(4));
    const rows = [];
    for (let bin = 0; bin <= count; bin += 1) {
      const l = edges[bin];
      const r = edges[Math.min(bin + 1, count)];
      const row = { l, r, range: `${write(l)} … ${write(r)}` };
      for (const name of names) row[name] = columns[fields[name]][Math.min(bin, count - 1)];
      rows.push(row);
    }
    return rows;
  };
  /* Least and largest bar of some layers; on a logarithmic scale the least is still visible. */
  const heights = (span) => {
    const bars = span.flatMap((view) => Object.values(view.columns));
    let [least, top] = [Infinity, 0];
    for (const one of bars) {
      for (const bar of one) {
        if (bar > 0 && bar < least) least = bar;
        if (bar > top) top = bar;
      }
    }
    top = top || 1;
    return { top, low: 0.7 * Math.max(Math.min(least, top), top * 1e-7) };
  };
  const browser = (figure) => {
    const data = read(figure);
    const layer = figure.querySelector(".layer");
    const group = figure.querySelector(".group");
    const where = figure.querySelector(".where");
    const panels = figure.querySelector(".panels");
    const table = figure.querySelector(".numbers");
    const largest = figure.querySelectorAll(".largest");
    const groupName = () => (group ? group.value : Object.keys(data.groups)[0]);
    const frames = () => data.groups[groupName()];
    const chosen = (kind) => figure.querySelector(`${kind} :checked`)?.value;
    const [site, start] = data.first;
    if (group && site) group.value = site;
    layer.max = String(start);
    layer.value = String(start);
    let busy = null;

    const panel = (kind, title, index) => {
      let place = panels.children[index];
      if (!place) {
        place = element("div", "", "panel");
        place.append(element("h3"), element("div", "", "plot"));
        panels.append(place);
      }
      place.querySelector("h3").textContent = title;
      place.querySelector("h3").hidden = !title;
      place.querySelector("h3").className = kind;
      return place.querySelector(".plot");
    };
    const tabulate = (table, numbers) => {
      const rows = numbers.map((line, n) => {
        const row = element("tr");
        line.forEach((text, column) => {
          const cell = element(n === 0 || column === 0 ? "th" : "td", text);
          if (cell.tagName === "TH") cell.scope = n === 0 ? "col" : "row";
          row.append(cell);
        });
        return row;
      });
      table.tHead.replaceChildren(rows[0]);
      table.tBodies[0].replaceChildren(...rows.slice(1));
    };
    const viewOf = (frame) => {
      const views = frame.views[chosen(".values")];
      return views[chosen(".span")] || views.all;
    };
    /* The heights of all layers, until the reader asks for those of this layer. */
    const heightAxis = (view) => {
      const span = chosen(".span") === "all" ? frames().map(viewOf) : [view];
      const isLog = chosen(".counts") === "log";
      const { low, top } = heights(span);
      const floor = isLog ? low : 0;
      return {
        heights: [floor, isLog ? top * (top / floor) ** 0.08 : top * 1.08],
        scale: isLog ? "log" : "linear",
        unit: view.tokens.unit + (isLog ? " (log)" : ""),
        floor,
        difference: [-1, 1].map((sign) => sign * Math.max(...span.map((one) => one.most || 0))),
      };
    };
    const paint = async () => {
      const frame = frames()[Number(layer.value)];
      const view = viewOf(frame);
      const shared = heightAxis(view);
      while (panels.children.length > view.panels.length) panels.lastElementChild.remove();
      for (const [index, one] of view.panels.entries()) {
        const colors = palettes[scheme()];
        const tones = {
          light: colors[`${one.phase}-light`], dark: colors[`${one.phase}-dark`],
          outline: colors.before,
        };
        const spec = { ...data.specs[one.spec], data: { values: rowsOf(view, one.fields) } };
        const tokens = { ...tones, ...view.tokens, ...shared, ...(one.tokens || {}) };
        if (one.tokens) tokens.heights = shared.difference;
        const plot = panel(one.phase, one.title, index);
        await draw(plot, spec, tokens, [frame.label, one.title].filter(Boolean).join(": "));
      }
    };
    /* One painting at a time; while one is under way only the last wish is remembered. */
    const repaint = () => {
      if (busy) {
        busy.again = true;
        return busy.work;
      }
      busy = { again: false };
      busy.work = guarded(paint()).then(() => {
        const { again } = busy;
        busy = null;
        return again ? repaint() : undefined;
      });
      return busy.work;
    };
    const show = () => {
      const frame = frames()[Number(layer.value)];
      where.textContent = frame.label;
      layer.setAttribute("aria-valuetext", frame.label);
      figure.querySelector(".note").textContent = frame.note;
      figure.querySelector(".outside").replaceChildren(
        ...viewOf(frame).outside.map((line) => element("p", line)),
      );
      tabulate(table, frame.numbers);
      for (const one of largest) {
        const rows = frame[one.dataset.of];
        one.hidden = !rows;
        if (rows) tabulate(one, rows);
      }
      return repaint();
    };
    const step = (by) => {
      const wanted = Math.min(Math.max(Number(layer.value) + by, 0), Number(layer.max));
      if (wanted === Number(layer.value)) return;
      layer.value = String(wanted);
      show();
    };
    const choose = () => {
      layer.max = String(frames().length - 1);
      for (const one of figure.querySelectorAll(".one-of-many")) one.hidden = layer.max === "0";
      const preset = (kind, usual) => {
        if (!figure.dataset[kind]) figure.querySelector(`.${kind} [value=${usual}]`).checked = true;
      };
      preset("values", data.scales[groupName()]);
      preset("counts", frames()[0].views[chosen(".values")].all.tokens.scale);
      if (Number(layer.value) > Number(layer.max)) layer.value = layer.max;
      return show();
    };
    layer.addEventListener("input", show);
    for (const one of figure.querySelectorAll(".switch input")) {
      one.addEventListener("change", () => {
        figure.dataset[one.closest("fieldset").dataset.kind] = one.value;
        choose();
      });
    }
    if (group) group.addEventListener("change", choose);
    figure.querySelector(".back").addEventListener("click", () => step(-1));
    figure.querySelector(".forth").addEventListener("click", () => step(1));
    figure.step = step;
    figure.addEventListener("keydown", (event) => {
      if (["INPUT", "SELECT"].includes(event.target.tagName)) return;
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      event.stopPropagation();
      step(by);
    });
    return choose;
  };
  /* Arrow keys without a focus walk through the figure that is in view. */
  document.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.target !== document.body || event.altKey || event.ctrlKey || event.metaKey) return;
    const seen = [...document.querySelectorAll(".browser")].find((one) => {
      const box = one.getBoundingClientRect();
      return box.top < innerHeight && box.bottom > 0;
    });
    if (seen) seen.step(by);
  });

  /* Tables ---------------------------------------------------------------------------------- */

  const full = (cell) => cell.dataset.v ?? cell.textContent;
  const quoted = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const piped = (text) =>
    text.replace(/[\\|`*_<>[\]]/g, "\\$&").replace(/\s*[\n\r]+\s*/g, " ");
  const asCsv = (rows) => rows.map((row) => row.map(quoted).join(",")).join("\n") + "\n";
  const asMarkdown = ([head, ...rows]) => {
    const line = (row) => `| ${row.map(piped).join(" | ")} |`;
    return [line(head), `|${head.map(() => "---").join("|")}|`, ...rows.map(line)].join("\n") + "\n";
  };
  const copy = async (text, button) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = element("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    const label = button.textContent;
    status.textContent = "Copied";
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = label; status.textContent = ""; }, 1200);
  };
  const tabled = (place) => {
    const table = place.querySelector("table");
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    const shown = () => [...body.rows].filter((row) => !row.hidden);

    const sort = (head) => {
      const column = heads.indexOf(head);
      const isNumeric = head.classList.contains("n");
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const one of heads) one.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const keyed = [...body.rows].map((row) => {
        const text = full(row.cells[column]);
        return { row, key: isNumeric ? Number.parseFloat(text) : text };
      });
      const order = isNumeric
        ? (a, b) => a - b
        : (a, b) => a.localeCompare(b, "en", { numeric: true });
      const isMissing = ({ key }) => Number.isNaN(key) || key === "";
      keyed.sort((a, b) => {
        if (isMissing(a) || isMissing(b)) return isMissing(a) - isMissing(b);
        return down ? order(b.key, a.key) : order(a.key, b.key);
      });
      body.append(...keyed.map(({ row }) => row));
    };
    const filter = (wanted) => {
      const words = wanted.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of body.rows) {
        const cells = [...row.cells].map((cell) => cell.textContent.toLowerCase());
        row.hidden = !words.every((word) => cells.some((cell) => cell.includes(word)));
      }
      place.querySelector(".count").textContent = `${shown().length.toLocaleString("en-US")} of ${body.rows.length.toLocaleString("en-US")} rows`;
    };
    const copied = () => [
      heads.map((head) => head.textContent.trim()),
      ...shown().map((row) => [...row.cells].map(full)),
    ];
    for (const head of heads) head.firstElementChild.addEventListener("click", () => sort(head));
    const box = place.querySelector(".filter");
    box.addEventListener("input", () => filter(box.value));
    for (const button of place.querySelectorAll(".copy")) {
      const write = button.dataset.form === "csv" ? asCsv : asMarkdown;
      button.addEventListener("click", () => copy(write(copied()), button));
    }
  };

  /* The page -------------------------------------------------------------------------------- */

  const painters = new Map();
  const redraw = () => Promise.all([...drawn].map((figure) => painters.get(figure)()));
  const paintOnce = (figure) => {
    if (drawn.has(figure)) return undefined;
    drawn.add(figure);
    return painters.get(figure)();
  };
  const start = async () => {
    for (const figure of document.querySelectorAll(".browser")) painters.set(figure, browser(figure));
    for (const figure of document.querySelectorAll(".chart")) painters.set(figure, chart(figure));
    for (const place of document.querySelectorAll(".tabled")) tabled(place);
    for (const button of document.querySelectorAll(".copy-command")) {
      const code = button.parentElement.querySelector("code");
      button.addEventListener("click", () => copy(code.textContent, button));
    }
    for (const fold of document.querySelectorAll("details.fold")) {
      fold.addEventListener("toggle", () => {
        if (fold.open) for (const figure of fold.querySelectorAll(".chart,.browser")) paintOnce(figure);
      });
    }
    for (const figure of painters.keys()) {
      if (!figure.closest("details.fold")) await paintOnce(figure);
    }
    root.dataset.ready = "yes";
  };
  const toggle = document.getElementById("scheme");
  const label = () => {
    toggle.textContent = scheme() === "dark" ? "Light" : "Dark";
    toggle.setAttribute("aria-label", `Use the ${toggle.textContent.toLowerCase()} colours`);
  };
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    root.dataset.scheme = scheme() === "dark" ? "light" : "dark";
    label();
    redraw();
  });
  prefersDark.addEventListener("change", () => { label(); redraw(); });
  printing.addEventListener("change", redraw);
  /* Charts take a moment, which printing does not grant: those that were not asked for stay away. */
  addEventListener("beforeprint", () => {
    for (const fold of document.querySelectorAll("details.fold")) {
      if (!fold.querySelector(".chart,.browser")) fold.open = true;
    }
  });
  label();
  start();
})();
