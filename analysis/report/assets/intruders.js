"use strict";
// Intruder dimensions of one run, by layer, by kind of matrix, over ε and over k, beside its null controls.
{
  const form = document.getElementById("intruder-choices");
  const rowsOf = (columns) =>
    columns.control.map((_, at) =>
      Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, values[at]])),
    );
  const found = report.data.intruders.map(
    (run) => run && { ...run, by: run.by.map(rowsOf), over_eps: rowsOf(run.over_eps), over_k: rowsOf(run.over_k) },
  );
  const CHANGES = {
    none: "fine-tuning",
    spectrum: "random, same spectrum",
    dense: "random, equal norm",
    low_rank: "random, equal norm and rank",
    quantisation: "quantising alone",
  };
  const VIEWS = [
    ["layer", "by layer"],
    ["kind", "by kind of matrix"],
    ["over_eps", "over ε"],
    ["over_k", "over k"],
  ];
  const runs = report.rows.filter((row) => found[row.row]);
  if (form && runs.length) {
    const most = runs.reduce((best, row) => (row.intruders > best.intruders ? row : best), runs[0]);
    const chosen = { run: most.row, view: "layer", clustered: false, reference: null };
    const references = () => [...new Set(found[chosen.run].over_eps.map((entry) => entry.reference))];
    const entries = () => {
      const { by, over_eps: overEps, over_k: overK } = found[chosen.run];
      const reference = references().includes(chosen.reference) ? chosen.reference : references()[0];
      const rows = { layer: by[0], kind: by[1], over_eps: overEps, over_k: overK }[chosen.view];
      return rows
        .filter(
          (entry) =>
            entry.reference === reference &&
            (entry.clustered ?? false) === (chosen.clustered && entry.clustered !== undefined),
        )
        .map((entry) => ({
          x: entry.value ?? entry.eps ?? entry.k,
          change: CHANGES[entry.control] ?? entry.control,
          count: entry.intruders,
          low: entry.low,
          high: entry.high,
          vectors: entry.vectors,
        }));
    };
    const random = new Set([CHANGES.spectrum, CHANGES.dense, CHANGES.low_rank]);
    const between = ({ change, low, high }) => (random.has(change) ? ` [${[low, high].map((end) => Number(end.toPrecision(3))).join(", ")}]` : "");
    const title = { layer: "Layer", kind: "Kind of matrix", over_eps: "ε", over_k: "k" };
    const caption = () => {
      const { k, eps } = found[chosen.run];
      const fixed = { over_eps: `k = ${k}`, over_k: `ε = ${eps}` }[chosen.view] ?? `k = ${k}, ε = ${eps}`;
      return `Intruder dimensions of ${report.title(report.rows[chosen.run])}, ${VIEWS.find(([name]) => name === chosen.view)[1]} (${fixed}), beside random changes.`;
    };
    const draw = () =>
      report.draw(document.getElementById("intruder-chart"), {
        caption: caption(),
        lines: (datum) => [
          `${title[chosen.view]} ${datum.x}`,
          `${datum.change}: ${datum.count}${between(datum)} of ${datum.vectors} vectors`,
        ],
        spec: () => {
          const { color } = report.coloured("change", "Change", Object.values(CHANGES));
          const present = new Set(entries().map((entry) => entry.change));
          color.scale = {
            domain: color.scale.domain.filter((name) => present.has(name)),
            range: color.scale.range.filter((_, at) => present.has(color.scale.domain[at])),
          };
          const lineUp = ["over_eps", "over_k"].includes(chosen.view);
          const x = {
            field: "x",
            type: lineUp ? "quantitative" : "ordinal",
            title: title[chosen.view],
            sort: null,
            axis: { labelAngle: chosen.view === "kind" ? -30 : 0 },
          };
          const y = { field: "count", type: "quantitative", title: "Intruder dimensions", axis: { tickMinStep: 1 } };
          const bars = {
            mark: { type: "bar", tooltip: { content: "data" } },
            encoding: { x, y, color, xOffset: { field: "change" } },
          };
          const line = {
            mark: { type: "line", point: { size: 60 }, tooltip: { content: "data" } },
            encoding: { x, y, color, strokeDash: { field: "change", legend: null } },
          };
          return { data: { values: entries() }, ...(lineUp ? line : bars) };
        },
        table: () => ({
          head: [title[chosen.view], "Change", "Intruders (random: median [5 %, 95 %])", "Of"],
          rows: entries().map((entry) => [
            String(entry.x),
            entry.change,
            `${entry.count}${between(entry)}`,
            String(entry.vectors),
          ]),
        }),
      });
    const references_ = { w0: "the base", dequantised: "the quantised base" };
    const every = [...new Set(runs.flatMap((row) => found[row.row].over_eps.map((entry) => entry.reference)))];
    form.append(
      report.choice(
        "Run",
        runs.map((row) => [String(row.row), `${report.title(row)} (${row.intruders})`]),
        String(chosen.run),
        (run) => {
          chosen.run = Number(run);
          draw();
        },
      ),
      report.choice("View", VIEWS, chosen.view, (view) => {
        chosen.view = view;
        draw();
      }),
      report.check("clusters of near-equal base values as one", false, (clustered) => {
        chosen.clustered = clustered;
        draw();
      }),
      ...(every.length > 1
        ? [
            report.choice(
              "Against",
              every.map((name) => [name, references_[name] ?? name]),
              every[0],
              (reference) => {
                chosen.reference = reference;
                draw();
              },
            ),
          ]
        : []),
    );
    draw();
  }
}
