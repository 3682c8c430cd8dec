"use strict";
// Any number against any other, a point a run.
{
  const { make, format } = report;
  const FIGURES = [
    ["Learning and forgetting", "forgetting", "score"],
    ["Score and trainable parameters", "trainable", "score"],
    ["Score and learning rate", "learning_rate", "score"],
    ["Score and training time", "train_seconds", "score"],
    ["Time and memory", "train_seconds", "train_peak_bytes"],
    ["Learning and tokens", "tokens", "score"],
    ["Forgetting and tokens", "tokens", "forgetting"],
    ["Intruders and forgetting", "intruders", "forgetting"],
    ["Intruders and rank", "rank", "intruders"],
    ["Effective rank and rank", "rank", "effective_rank"],
  ].filter(([, x, y]) => [x, y].every((key) => report.column(key)));
  const differing = report.data.settings.differing;
  const few = (values) => {
    const count = new Set(values.filter((value) => value !== null).map(String)).size;
    return count > 1 && count <= 10;
  };
  const colours = ["method", "label", "rank", "model", "task", "status", "learning_rate", "seed"]
    .filter((key) => report.column(key) && (key === "method" || few(report.rows.map((row) => row[key]))))
    .map((key) => [key, report.column(key).label]);
  colours.push(
    ...Object.keys(differing)
      .filter((key) => key.startsWith("config.") && few(differing[key]))
      .map((key) => [key, key.slice(7), "Settings"]),
  );
  const groupOf = (row, key) => {
    const value = key.startsWith("config.") ? differing[key][row.row] : row[key];
    return value === null || value === undefined ? "n/a" : String(value);
  };

  const first = report.numeric[0]?.key;
  const state = {
    x: FIGURES[0]?.[1] ?? first,
    y: FIGURES[0]?.[2] ?? first,
    colour: "method",
    logX: null,
    logY: null,
    intervals: true,
  };
  const options = report.numeric.map((column) => [
    column.key,
    column.label,
    column.setting
      ? "Settings"
      : column.key.startsWith("probe.")
        ? "Probes"
        : column.key.startsWith("seconds.")
          ? "Time"
          : "Results",
  ]);
  const form = document.getElementById("axes");
  const redraw = (change) => {
    Object.assign(state, change);
    controls();
    scatter();
  };
  const focusing = (action) => {
    // the controls are made anew: what had the focus keeps it
    const at = [...form.querySelectorAll("select, input")].indexOf(document.activeElement);
    action();
    if (at >= 0) form.querySelectorAll("select, input")[at]?.focus();
  };
  const logFor = (axis) =>
    state[`log${axis.toUpperCase()}`] ?? report.wantsLog(report.kept.map((row) => row[state[axis]]));
  const controls = () =>
    focusing(() => {
      const figure = FIGURES.findIndex(([, x, y]) => x === state.x && y === state.y);
      form.replaceChildren(
        report.choice(
          "Figure",
          [["-1", "own choice"], ...FIGURES.map(([name], at) => [String(at), name])],
          String(figure),
          (at) => {
            if (at >= 0) redraw({ x: FIGURES[at][1], y: FIGURES[at][2], logX: null, logY: null });
          },
        ),
        report.choice("Across (x)", options, state.x, (x) => redraw({ x, logX: null })),
        report.choice("Up (y)", options, state.y, (y) => redraw({ y, logY: null })),
        report.choice("Colour and shape", colours, state.colour, (colour) => redraw({ colour })),
        report.check("log x", logFor("x"), (logX) => redraw({ logX })),
        report.check("log y", logFor("y"), (logY) => redraw({ logY })),
        report.check("intervals", state.intervals, (intervals) => redraw({ intervals })),
      );
    });

  const points = () => {
    const [x, y] = [report.column(state.x), report.column(state.y)];
    const [byX, byY] = [report.scaled(x).by, report.scaled(y).by];
    const fits = (value, log) => typeof value === "number" && (!log || value > 0);
    const end = (row, key, by, log) => (key && fits(row[key], log) ? row[key] / by : null);
    return report.kept
      .filter((row) => fits(row[state.x], logFor("x")) && fits(row[state.y], logFor("y")))
      .map((row) => ({
        row: row.row,
        x: row[state.x] / byX,
        y: row[state.y] / byY,
        group: groupOf(row, state.colour),
        xLow: end(row, x.low, byX, logFor("x")),
        xHigh: end(row, x.high, byX, logFor("x")),
        yLow: end(row, y.low, byY, logFor("y")),
        yHigh: end(row, y.high, byY, logFor("y")),
      }));
  };
  const said = (key, row) => {
    const column = report.column(key);
    return `${column.label}: ${format(column, row[key])} ${report.interval(column, row)}`.trim();
  };
  const lines = ({ row: at }) => {
    const row = report.rows[at];
    const keys = [...new Set([state.x, state.y, "score", "learning_rate"])].filter((key) => report.column(key));
    return [report.title(row), row.id, ...keys.map((key) => said(key, row))];
  };
  const spec = () => {
    const found = structuredClone(report.data.charts.scatter);
    const name = colours.find(([key]) => key === state.colour)[1];
    report.apart(found, name, new Set(report.rows.map((row) => groupOf(row, state.colour))));
    for (const [channel, encoding] of report.encodings(found))
      if (channel === "x" || channel === "y") {
        encoding.title = report.scaled(report.column(state[channel])).title;
        if (logFor(channel)) encoding.scale = { type: "log", padding: 14 };
      }
    const bare = state.intervals ? {} : { xLow: null, yLow: null };
    const rows = points().map((one) => ({ ...one, ...bare, words: lines(one).join("; ") }));
    // A layer without rows, as that of intervals may be, has no extent.
    const absent = ["xLow", "yLow"].filter((name) => rows.every((row) => row[name] === null));
    found.layer = found.layer.filter(({ encoding: { x, y } }) => !absent.includes(x.field) && !absent.includes(y.field));
    found.datasets = { rows };
    return found;
  };
  const scatter = () => {
    const count = points().length;
    const [x, y] = [report.column(state.x), report.column(state.y)];
    const missing = report.kept.length - count;
    report.draw(document.getElementById("explorer"), {
      spec,
      lines,
      empty: count === 0,
      caption: `${y.label} against ${x.label}, ${count} runs${missing ? `; ${missing} without both numbers left out` : ""}${x.low || y.low ? "; bars are 95 % intervals" : ""}.`,
      table: () => ({
        head: ["Run", "Seed", x.label, y.label],
        rows: points().map(({ row: at }) => {
          const row = report.rows[at];
          return [
            report.runButton(row, row.label ?? row.id),
            report.has(row, "seed") ? String(row.seed) : "n/a",
            said(state.x, row).split(": ").pop(),
            said(state.y, row).split(": ").pop(),
          ];
        }),
      }),
    });
  };
  form.addEventListener("submit", (event) => event.preventDefault());
  report.follow(() => {
    controls();
    scatter();
  });
}
