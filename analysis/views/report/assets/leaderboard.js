"use strict";
// The table of runs: sorted by a click or a key on a column's head, filtered, its columns chosen.
{
  const { make, format } = report;
  const many = (key) => report.distinct(key).length > 1;
  const shown = new Set(
    report.columns
      .filter((column) => column.shown || (["model", "task", "status"].includes(column.key) && many(column.key)))
      .map((column) => column.key),
  );
  const higher = report.rows.find((row) => report.has(row, "higher_is_better"))?.higher_is_better ?? true;
  const order = { key: report.column("score") ? "score" : "label", down: report.column("score") ? higher : false };

  const compare = (one, other) => {
    const [a, b] = [one[order.key], other[order.key]];
    const [lacksA, lacksB] = [a === null || a === undefined, b === null || b === undefined];
    if (lacksA || lacksB) return lacksA - lacksB; // what is missing stands last in either order
    const difference =
      typeof a === "number" && typeof b === "number"
        ? a - b
        : String(a).localeCompare(String(b), "en", { numeric: true });
    return order.down ? -difference : difference;
  };

  const svg = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  const spans = {};
  for (const { key, low, high } of report.columns.filter((column) => column.low)) {
    const values = report.rows
      .flatMap((row) => [row[key], row[low], row[high]])
      .filter((value) => typeof value === "number");
    spans[key] = [Math.min(...values), Math.max(...values)];
  }
  const range = (column, row) => {
    const [least, most] = spans[column.key];
    const at = (value) => 3 + (94 * (value - least)) / (most - least || 1);
    const picture = svg("svg", {
      class: "range",
      viewBox: "0 0 100 8",
      preserveAspectRatio: "none",
      "aria-hidden": "true",
    });
    const [low, high] = [at(row[column.low]), at(row[column.high])];
    picture.append(
      svg("rect", { x: low, y: 2.5, width: Math.max(1, high - low), height: 3 }),
      svg("rect", { class: "at", x: at(row[column.key]) - 1, y: 0, width: 2, height: 8 }),
    );
    return picture;
  };

  const cell = (column, row) => {
    const numeric = column.format !== "text";
    if (column.key === "status")
      return make("td", {}, make("span", { class: `status ${row.status}`, text: row.status.replace("_", " ") }));
    const element = make("td", { class: numeric ? "number" : "text" });
    if (!report.has(row, column.key)) {
      element.append(make("span", { class: "na", text: "n/a" }));
      return element;
    }
    element.append(format(column, row[column.key]));
    const interval = report.interval(column, row);
    if (interval) element.append(" ", make("span", { class: "interval", text: interval }), range(column, row));
    return element;
  };

  const visible = () => report.columns.filter((column) => shown.has(column.key) && column.key !== "label");
  const head = document.querySelector("#runs thead");
  const body = document.querySelector("#runs tbody");
  const sortBy = (key) => {
    if (order.key === key) order.down = !order.down;
    else Object.assign(order, { key, down: report.column(key).format !== "text" });
    drawHead();
    drawBody();
    head.querySelector(`button[data-key="${CSS.escape(key)}"]`).focus();
  };
  const heading = (column) => {
    const button = make("button", {
      type: "button",
      text: column.label,
      title: column.hint || undefined,
      "data-key": column.key,
      on: { click: () => sortBy(column.key) },
    });
    const sorted = order.key === column.key ? (order.down ? "descending" : "ascending") : "none";
    return make(
      "th",
      { scope: "col", class: column.format === "text" ? undefined : "number", "aria-sort": sorted },
      button,
    );
  };
  const drawHead = () =>
    head.replaceChildren(make("tr", {}, heading(report.column("label")), ...visible().map(heading)));
  const drawBody = () => {
    const columns = visible();
    const rows = [...report.kept].sort(compare);
    body.replaceChildren(
      ...rows.map((row) => {
        const name = make("th", { scope: "row" }, report.runButton(row, row.label ?? row.id));
        if (row.foreign) name.append(" ", make("small", { text: "(not trained here)" }));
        return make("tr", {}, name, ...columns.map((column) => cell(column, row)));
      }),
    );
  };

  const filters = document.getElementById("filters");
  const facets = ["status", "model", "task", "method", "rank", "seed"].filter(many);
  const sorted = (values) => [...values].sort((a, b) => String(a).localeCompare(String(b), "en", { numeric: true }));
  const differing = Object.entries(report.data.settings.differing).filter(([key]) => key.startsWith("config."));
  const valuesOf = (key) => sorted(new Set(report.data.settings.differing[key].map(String)));
  const drawFilters = () => {
    const search = make("input", {
      type: "search",
      placeholder: "method, id, setting …",
      on: {
        input: () => {
          report.filters.text = search.value;
          report.refilter();
        },
      },
    });
    const value = report.choice("is", [["", "anything"]], "", (chosen) => {
      report.filters.value = chosen;
      report.refilter();
    });
    const setting = report.choice(
      "Any setting",
      [["", "–"], ...differing.map(([key]) => [key, key.slice("config.".length)])],
      "",
      (key) => {
        Object.assign(report.filters, { setting: key, value: "" });
        const options = [["", "anything"], ...(key ? valuesOf(key).map((text) => [text, text]) : [])];
        value
          .querySelector("select")
          .replaceChildren(...options.map(([chosen, text]) => make("option", { value: chosen, text })));
        report.refilter();
      },
    );
    const chosen = facets.map((key) =>
      report.choice(
        report.column(key).label,
        [["", "all"], ...sorted(report.distinct(key)).map((text) => [String(text), String(text).replace("_", " ")])],
        "",
        (wanted) => {
          report.filters.facets[key] = wanted;
          report.refilter();
        },
      ),
    );
    filters.replaceChildren(report.field("Search", search), ...chosen, ...(differing.length ? [setting, value] : []));
  };
  filters.addEventListener("submit", (event) => event.preventDefault());
  const reset = document.getElementById("reset");
  reset.addEventListener("click", () => {
    report.filters = { text: "", facets: {}, setting: "", value: "" };
    drawFilters();
    report.refilter();
    filters.querySelector("input").focus();
  });

  document.getElementById("columns").append(
    ...report.columns
      .filter((column) => column.key !== "label")
      .map((column) =>
        report.check(column.label, shown.has(column.key), (checked) => {
          if (checked) shown.add(column.key);
          else shown.delete(column.key);
          drawHead();
          drawBody();
        }),
      ),
  );
  report.follow(() => {
    const [kept, all] = [report.kept.length, report.rows.length];
    document.getElementById("count").textContent = kept === all ? `${all} runs` : `${kept} of ${all} runs`;
    reset.hidden = kept === all;
    drawBody();
  });
  drawFilters();
  drawHead();
}
