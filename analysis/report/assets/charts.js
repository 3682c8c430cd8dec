"use strict";
// Vega-Lite in the page's colours: drawn when it comes into view, with a tooltip of text and a table that says the same.
{
  const { make } = report;
  const SHAPES = [
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "cross",
    "triangle-down",
    "triangle-right",
    "triangle-left",
    "wedge",
    "arrow",
  ];
  const probe = make("span", { hidden: true });
  document.body.append(probe);
  const colour = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const series = () => Array.from({ length: 10 }, (_, at) => colour(`series-${at}`));
  const config = () => {
    const [text, quiet, line] = [colour("text"), colour("quiet"), colour("line")];
    const font = getComputedStyle(document.body).fontFamily;
    return {
      background: "transparent",
      font,
      axis: {
        labelColor: quiet,
        titleColor: text,
        gridColor: line,
        domainColor: quiet,
        tickColor: quiet,
        labelFontSize: 12,
        titleFontSize: 13,
        titleFontWeight: 500,
        labelLimit: 220,
      },
      legend: {
        labelColor: text,
        titleColor: quiet,
        labelFontSize: 12,
        titleFontSize: 12,
        orient: "bottom",
        columns: innerWidth < 640 ? 2 : 8,
        labelLimit: 280,
        symbolOpacity: 1,
      },
      view: { stroke: null },
      range: { category: series() },
    };
  };

  const hover = document.getElementById("hover");
  const show = (event, lines) => {
    const [first, ...others] = lines;
    hover.replaceChildren(make("b", { text: first }), ...others.map((text) => make("span", { text })));
    hover.hidden = false;
    const left = Math.min(event.clientX + 14, innerWidth - hover.offsetWidth - 8);
    const top =
      event.clientY + 14 + hover.offsetHeight > innerHeight
        ? event.clientY - hover.offsetHeight - 10
        : event.clientY + 14;
    Object.assign(hover.style, { left: `${Math.max(8, left)}px`, top: `${Math.max(8, top)}px` });
  };
  const tooltip = (lines) => (handler, event, item, value) => {
    if (value && item.datum && event.clientX !== undefined) show(event, lines(item.datum));
    else hover.hidden = true;
  };

  // One scale for a field in every chart: the same run has the same colour and shape wherever it stands.
  report.coloured = (field, title, values) => {
    const domain = [...values].sort((a, b) => String(a).localeCompare(String(b), "en", { numeric: true }));
    const range = domain.map((_, at) => series()[at % 10]);
    const shapes = domain.map((_, at) => SHAPES[at % SHAPES.length]);
    return {
      color: { field, type: "nominal", title, scale: { domain, range } },
      shape: { field, type: "nominal", title, scale: { domain, range: shapes } },
    };
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

  const drawn = new Map();
  const seen = new IntersectionObserver(
    (entries) => {
      for (const entry of entries)
        if (entry.isIntersecting) {
          seen.unobserve(entry.target);
          paint(entry.target);
        }
    },
    { rootMargin: "200px" },
  );
  const paint = async (figure) => {
    const { spec, lines, view, empty } = drawn.get(figure);
    const turn = (figure.turn = (figure.turn ?? 0) + 1);
    const plot = figure.querySelector(".plot");
    view?.finalize();
    if (empty) {
      drawn.get(figure).view = { finalize() {} };
      plot.replaceChildren(make("p", { class: "empty", text: "None of these runs has the numbers for this chart." }));
      figure.dataset.drawn = String(turn);
      return;
    }
    const wide = {
      width: "container",
      height: innerWidth < 640 ? 300 : 400,
      autosize: { type: "fit-x", contains: "padding" },
      ...spec(),
      config: config(),
    };
    const result = await vegaEmbed(plot, wide, {
      ast: true,
      renderer: "svg",
      actions: false,
      defaultStyle: false,
      tooltip: tooltip(lines),
    });
    if (turn !== figure.turn) {
      result.finalize();
      return;
    }
    drawn.get(figure).view = result;
    plot.removeAttribute("role");
    plot.querySelector("svg")?.setAttribute("aria-label", figure.querySelector("figcaption").textContent);
    result.view.addEventListener("click", (_, item) => {
      if (item?.datum?.row !== undefined) report.openRun(item.datum.row);
    });
    figure.dataset.drawn = String(turn);
    performance.mark("drawn");
  };

  // spec() is called anew at each painting, for its colours change with the theme.
  report.draw = (figure, { spec, lines, caption, table, empty = false }) => {
    if (!figure.querySelector(".plot")) {
      const details = make(
        "details",
        { on: { toggle: () => fill(figure) } },
        make("summary", { text: "The same as a table" }),
        make(
          "div",
          { class: "scroll", tabindex: "0", role: "region", "aria-label": "Values of the chart" },
          make("table"),
        ),
      );
      figure.append(make("div", { class: "plot" }), make("figcaption"), details);
    }
    figure.querySelector("figcaption").textContent = caption;
    const before = drawn.get(figure);
    drawn.set(figure, { spec, lines, table, empty, view: before?.view });
    fill(figure);
    if (before?.view) paint(figure);
    else seen.observe(figure);
  };
  const fill = (figure) => {
    if (!figure.querySelector("details").open) return;
    const { head, rows } = drawn.get(figure).table();
    const cells = (name, texts, scope) =>
      texts.map((text, at) =>
        text instanceof Node
          ? make("th", { scope: "row" }, text)
          : make(name, { text, scope: name === "th" ? scope : undefined, class: at ? "number" : undefined }),
      );
    figure
      .querySelector("table")
      .replaceChildren(
        make("caption", { text: figure.querySelector("figcaption").textContent }),
        make("thead", {}, make("tr", {}, ...cells("th", head, "col"))),
        make("tbody", {}, ...rows.map((texts) => make("tr", {}, ...cells("td", texts)))),
      );
  };
  report.repaint = () => {
    for (const [figure, { view }] of drawn) if (view) paint(figure);
  };
}
