"use strict";
// Charts as analysis/drawing describes them: in the page's theme and width, reached by keyboard, with a table that says
// the same. One is drawn when it comes into view, and all of them before the page is printed.
{
  const { make } = report;
  const { config, shapes } = report.data.charts;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let printing = false;
  const theme = () => {
    const chosen = document.documentElement.dataset.theme;
    return !printing && (chosen === "dark" || (!chosen && dark.matches)) ? config.dark : config.light;
  };

  const below = ({ spec, layer = [], concat = [], vconcat = [] }) => [...(spec ? [spec] : []), ...layer, ...concat, ...vconcat];
  const views = (spec) => [spec, ...below(spec).flatMap(views)];
  report.encodings = (spec) => views(spec).flatMap((view) => Object.entries(view.encoding ?? {}));
  report.unpacked = ({ size, columns }) => {
    const cells = Object.entries(columns).map(([name, column]) => [
      name,
      column.of ? (at) => column.of[column.at[at]] : (at) => column[at],
    ]);
    return Array.from({ length: size }, (_, at) => Object.fromEntries(cells.map(([name, cell]) => [name, cell(at)])));
  };
  // One scale for a field in every chart: the same method has the same colour and shape wherever it stands.
  report.apart = (spec, title, values) => {
    const domain = [...values].sort((a, b) => String(a).localeCompare(String(b), "en", { numeric: true }));
    for (const [name, encoding] of report.encodings(spec))
      if (encoding.field === "group") {
        Object.assign(encoding, { title, scale: { domain } });
        if (name === "shape") encoding.scale.range = domain.map((_, at) => shapes[at % shapes.length]);
      }
  };

  // Bytes and shares are drawn in the unit that they are read in.
  const UNITS = { bytes: [2 ** 30, "GiB"], percent: [0.01, "%"], seconds: [1, "s"] };
  report.scaled = (column) => {
    const [by, unit] = UNITS[column.format] ?? [1, ""];
    return { by, title: unit ? `${column.label} (${unit})` : column.label };
  };
  report.wantsLog = (values) => {
    const numbers = values.filter((value) => typeof value === "number");
    return numbers.length > 1 && Math.min(...numbers) > 0 && Math.max(...numbers) / Math.min(...numbers) > 20;
  };

  // Panels side by side as many as fit, as wide as that leaves them.
  const LEAST = 230;
  const fit = (spec, width) => {
    for (const part of spec.vconcat ?? [spec]) {
      const panels = part.spec ? [part.spec] : (part.concat ?? [part]);
      if (part.spec) part.columns = Math.max(1, Math.min(part.columns ?? 1, Math.floor(width / LEAST)));
      const across = part.spec || part.concat ? (part.columns ?? 1) : 1;
      const beside = report.encodings(part).some(([, { legend }]) => legend?.orient === "right") ? 70 : 0;
      for (const panel of panels) panel.width = Math.max(110, Math.floor((width - beside - 50) / across - 40));
    }
    for (const [, { legend }] of report.encodings(spec))
      if (legend?.columns) legend.columns = Math.max(1, Math.floor((legend.columns * width) / 800));
    return spec;
  };

  const hover = document.getElementById("hover");
  const show = (place, lines) => {
    const [first, ...others] = lines;
    hover.replaceChildren(make("b", { text: first }), ...others.map((text) => make("span", { text })));
    hover.hidden = false;
    const left = Math.min(place.x + 14, innerWidth - hover.offsetWidth - 8);
    const top = place.y + 14 + hover.offsetHeight > innerHeight ? place.y - hover.offsetHeight - 10 : place.y + 14;
    Object.assign(hover.style, { left: `${Math.max(8, left)}px`, top: `${Math.max(8, top)}px` });
  };
  const hide = () => (hover.hidden = true);
  const open = (datum) => {
    const rows = datum?.row === undefined ? (datum?.ids ?? []) : [datum.row];
    if (rows.length) report.openRuns(rows);
  };
  const tooltip = (lines) => (handler, event, item, value) => {
    const said = value && item.datum && event.clientX !== undefined && lines(item.datum, item.mark.marktype);
    if (said) show({ x: event.clientX, y: event.clientY }, said);
    else hide();
  };
  // One stop of the tab key a chart; its arrows go from point to point, Enter opens the runs behind one.
  const reach = (plot, lines) => {
    const points = [...plot.querySelectorAll("[role='graphics-symbol']")].filter((one) => {
      const datum = one.__data__?.datum;
      return datum && (datum.ids !== undefined || datum.row !== undefined);
    });
    const go = (at) => {
      for (const point of points) point.setAttribute("tabindex", "-1");
      points[at].setAttribute("tabindex", "0");
      points[at].focus();
    };
    points[0]?.setAttribute("tabindex", "0");
    plot.onkeydown = (event) => {
      const at = points.indexOf(event.target);
      if (at < 0) return;
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (step) go((at + step + points.length) % points.length);
      else if (event.key === "Enter" || event.key === " ") open(event.target.__data__.datum);
      else return;
      event.preventDefault();
    };
    for (const point of points) {
      point.addEventListener("focus", () => {
        const { right, bottom } = point.getBoundingClientRect();
        const { datum, mark } = point.__data__;
        show({ x: right, y: bottom }, lines(datum, mark.marktype) ?? [point.getAttribute("aria-label")]);
      });
      point.addEventListener("blur", hide);
    }
  };

  const drawn = new Map();
  const seen = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) if (isIntersecting) paint(target);
    },
    { rootMargin: "200px" },
  );
  const MOST = 4000; // marks that a browser draws well as elements; more go on a canvas, with the table for the keyboard
  // One painting of a chart after the other: two at once would draw into the same place.
  const paint = (figure) => {
    seen.unobserve(figure);
    figure.painting = (figure.painting ?? Promise.resolve()).then(() => drawn.has(figure) && repaint(figure));
  };
  const repaint = async (figure) => {
    const { spec, lines, view, empty } = drawn.get(figure);
    const turn = String((figure.turn = (figure.turn ?? 0) + 1));
    const plot = figure.querySelector(".plot");
    view?.finalize();
    if (empty) {
      drawn.get(figure).view = { finalize() {} };
      plot.replaceChildren(make("p", { class: "empty", text: "None of these runs has the numbers for this chart." }));
      figure.dataset.drawn = turn;
      return;
    }
    const whole = { ...fit(spec(), plot.clientWidth || 800), config: theme() };
    const marks = Math.max(...Object.values(whole.datasets).map((rows) => rows.length));
    const options = { ast: true, renderer: marks > MOST ? "canvas" : "svg", actions: false, defaultStyle: false };
    const result = await vegaEmbed(plot, whole, { ...options, tooltip: tooltip(lines) });
    if (!drawn.has(figure)) {
      result.finalize();
      return;
    }
    drawn.get(figure).view = result;
    plot.removeAttribute("role");
    const picture = plot.querySelector("svg, canvas");
    picture.setAttribute("aria-label", figure.querySelector("figcaption").textContent);
    if (marks > MOST) picture.setAttribute("role", "img");
    result.view.addEventListener("click", (_, item) => open(item?.datum));
    reach(plot, lines);
    figure.dataset.drawn = turn;
    performance.mark("drawn");
  };

  // spec() is called anew at each painting, for its width and colours change with the page.
  report.draw = (figure, { spec, lines, caption, table, empty = false }) => {
    if (!figure.querySelector(".plot")) {
      const region = { class: "scroll", tabindex: "0", role: "region", "aria-label": "Values of the chart" };
      const summary = make("summary", { text: "The same as a table" });
      const details = make("details", { on: { toggle: () => fill(figure) } }, summary, make("div", region, make("table")));
      figure.append(make("div", { class: "plot" }), make("figcaption"), details);
    }
    figure.querySelector("figcaption").textContent = caption;
    const before = drawn.get(figure);
    drawn.set(figure, { spec, lines, table, empty, view: before?.view });
    fill(figure);
    if (before?.view) paint(figure);
    else seen.observe(figure);
  };
  report.forget = (figures) => {
    for (const figure of figures) {
      drawn.get(figure)?.view?.finalize();
      seen.unobserve(figure);
      drawn.delete(figure);
    }
  };
  const fill = (figure) => {
    if (!figure.querySelector("details").open) return;
    const { head, rows } = drawn.get(figure).table();
    const cells = (name, texts) =>
      texts.map((text, at) =>
        text instanceof Node
          ? make("th", { scope: "row" }, text)
          : make(name, { text, scope: name === "th" ? "col" : undefined, class: at ? "number" : undefined }),
      );
    figure
      .querySelector("table")
      .replaceChildren(
        make("caption", { text: figure.querySelector("figcaption").textContent }),
        make("thead", {}, make("tr", {}, ...cells("th", head))),
        make("tbody", {}, ...rows.map((texts) => make("tr", {}, ...cells("td", texts)))),
      );
  };
  report.repaint = () => {
    for (const [figure, { view }] of drawn) if (view) paint(figure);
  };
  // Printed is what was not yet seen too, and in light colours.
  addEventListener("beforeprint", () => {
    const change = theme() !== config.light;
    printing = true;
    for (const [figure, { view }] of drawn) if (!view || change) paint(figure);
  });
  addEventListener("afterprint", () => {
    printing = false;
    if (theme() !== config.light) report.repaint();
  });
}
