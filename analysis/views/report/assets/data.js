"use strict";
// The page's data as rows, what a number looks like in words, and which runs the filters leave.
const report = {};
{
  const data = JSON.parse(document.getElementById("data").textContent);
  const keys = Object.keys(data.rows);
  const size = data.commands.length;
  report.data = data;
  report.rows = Array.from({ length: size }, (_, at) => {
    const row = { row: at };
    for (const key of keys) row[key] = data.rows[key][at];
    return row;
  });

  // Settings that are numbers and differ between runs can be axes too.
  const settings = Object.entries(data.settings.differing)
    .filter(
      ([key, values]) =>
        key.startsWith("config.") && values.every((value) => value === null || typeof value === "number"),
    )
    .map(([key]) => ({
      key,
      label: key.slice("config.".length),
      format: "number",
      hint: "setting",
      shown: false,
      setting: true,
    }));
  for (const { key } of settings) for (const row of report.rows) row[key] = data.settings.differing[key][row.row];
  report.columns = data.columns;
  report.numeric = [...data.columns.filter((column) => column.format !== "text"), ...settings];
  report.column = (key) =>
    report.numeric.find((column) => column.key === key) ?? data.columns.find((column) => column.key === key);
  report.has = (row, key) => row[key] !== null && row[key] !== undefined;
  report.distinct = (key, rows = report.rows) => [
    ...new Set(rows.map((row) => row[key]).filter((value) => value !== null && value !== undefined)),
  ];

  const trimmed = (value, digits) => String(Number(value.toPrecision(digits)));
  const unit = (value, step, names) => {
    let at = 0;
    while (Math.abs(value) >= step && at < names.length - 1) {
      value /= step;
      at += 1;
    }
    return `${trimmed(value, 3)} ${names[at]}`;
  };
  const clock = (seconds) => {
    if (seconds < 60) return `${trimmed(seconds, 3)} s`;
    const minutes = Math.round(seconds / 60);
    return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  };
  const formats = {
    text: String,
    share: (value) => (Math.abs(value) <= 1 ? value.toFixed(3).replace(/^(-?)0\./, "$1.") : value.toFixed(1)),
    change: (value) =>
      Math.abs(value) < 10
        ? `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3).replace(/^0\./, ".")}`
        : trimmed(value, 4),
    percent: (value) => `${trimmed(100 * value, 3)} %`,
    whole: (value) => value.toLocaleString("en"),
    rate: (value) => (value >= 0.01 ? trimmed(value, 3) : value.toExponential().replace(/(\.\d\d)\d*e/, "$1e")),
    bytes: (value) => unit(value, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]),
    seconds: clock,
    number: (value) => (Math.abs(value) >= 1e4 ? Math.round(value).toLocaleString("en") : trimmed(value, 4)),
  };
  report.format = (column, value) => (value === null || value === undefined ? "n/a" : formats[column.format](value));
  report.interval = (column, row) =>
    column.low && report.has(row, column.low) && report.has(row, column.high)
      ? `[${report.format(column, row[column.low])}, ${report.format(column, row[column.high])}]`
      : "";
  report.title = (row) => `${row.label ?? row.id}${report.has(row, "seed") ? `, seed ${row.seed}` : ""}`;

  // Which runs are shown: one state, which the leaderboard and the charts follow.
  const listeners = [];
  report.filters = { text: "", facets: {}, setting: "", value: "" };
  report.words = report.rows.map((row) =>
    [
      row.label,
      row.id,
      row.model,
      row.task,
      row.status,
      row.reason,
      row.metric,
      ...Object.entries(data.settings.differing)
        .filter(([key]) => key.startsWith("config."))
        .map(([, values]) => values[row.row]),
    ]
      .filter((word) => word !== null && word !== undefined)
      .join(" ")
      .toLowerCase(),
  );
  const matches = (row) => {
    const { text, facets, setting, value } = report.filters;
    if (
      !text
        .toLowerCase()
        .split(/\s+/)
        .every((word) => report.words[row.row].includes(word))
    )
      return false;
    if (setting && value !== "" && String(data.settings.differing[setting][row.row]) !== value) return false;
    return Object.entries(facets).every(([key, wanted]) => wanted === "" || String(row[key]) === wanted);
  };
  report.follow = (listener) => listeners.push(listener);
  report.refilter = () => {
    report.kept = report.rows.filter(matches);
    for (const listener of listeners) listener();
  };

  // Elements are made here and nowhere by markup: text from runs is only ever text.
  report.make = (name, options = {}, ...children) => {
    const { text, dataset, on, ...attributes } = options;
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes))
      if (value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
    if (text !== undefined) element.textContent = text;
    for (const [event, handler] of Object.entries(on ?? {})) element.addEventListener(event, handler);
    element.append(...children);
    return element;
  };
  let fields = 0;
  report.field = (label, input) => {
    input.id = `field-${(fields += 1)}`;
    return report.make("div", { class: "field" }, report.make("label", { text: label, for: input.id }), input);
  };
  report.choice = (label, options, chosen, change) => {
    const select = report.make("select", { on: { change: () => change(select.value) } });
    for (const option of options) {
      const [value, text, group] = option;
      let parent = select;
      if (group) {
        parent =
          [...select.children].find((child) => child.label === group) ??
          select.appendChild(report.make("optgroup", { label: group }));
      }
      parent.append(report.make("option", { value, text }));
    }
    select.value = chosen;
    return report.field(label, select);
  };
  report.check = (label, checked, change) => {
    const box = report.make("input", { type: "checkbox", on: { change: () => change(box.checked) } });
    box.checked = checked;
    return report.make("label", { class: "check" }, box, label);
  };
  report.runButton = (row, text) =>
    report.make("button", { type: "button", class: "link", text, "data-run": String(row.row) });
}
