"use strict";
// The curves of training, a line a run.
{
  const { format } = report;
  const LABELS = {
    loss: "Training loss",
    grad_norm: "Gradient norm",
    learning_rate: "Learning rate",
    step: "Step",
    tokens: "Tokens",
  };
  const curveForm = document.getElementById("curve-axes");
  if (curveForm) {
    const has = (name) => report.data.histories.some((history) => history?.[name]);
    const names = ["loss", "grad_norm", "learning_rate"].filter(has);
    const chosen = { x: "step", y: names[0], smooth: report.rows.length > 3 };
    const WINDOW = 9; // points; single steps of a small batch say more of the batch than of the run
    const smoothed = (values) =>
      values.map((value, at) => {
        const near = values.slice(Math.max(0, at - WINDOW + 1), at + 1).filter((one) => typeof one === "number");
        return value === null || !near.length ? null : near.reduce((sum, one) => sum + one, 0) / near.length;
      });
    const shownCurve = (history) =>
      chosen.smooth && chosen.y !== "learning_rate" ? smoothed(history[chosen.y]) : history[chosen.y];
    const runs = () => report.kept.filter((row) => report.data.histories[row.row]?.[chosen.y]);
    const curve = () => {
      const values = () =>
        runs().flatMap((row) => {
          const history = report.data.histories[row.row];
          return shownCurve(history)
            .map((y, at) => ({ row: row.row, group: row.method ?? "n/a", x: history[chosen.x]?.[at], y }))
            .filter(({ x, y: value }) => typeof x === "number" && typeof value === "number");
        });
      const last = (row) => {
        const history = report.data.histories[row.row];
        return history[chosen.y].filter((value) => value !== null).pop();
      };
      report.draw(document.getElementById("curve"), {
        spec: () => {
          const found = structuredClone(report.data.charts.line);
          const rows = values();
          report.apart(found, "Method", report.distinct("method"));
          found.encoding.x.title = LABELS[chosen.x];
          found.encoding.y.title = LABELS[chosen.y];
          if (chosen.y !== "learning_rate" && report.wantsLog(rows.map(({ y }) => y)))
            found.encoding.y.scale = { type: "log" };
          if (runs().length > 12) found.mark.opacity = 0.5;
          found.datasets = { rows: rows.map((one) => ({ ...one, words: report.title(report.rows[one.row]) })) };
          return found;
        },
        lines: ({ row: at }) => [
          report.title(report.rows[at]),
          report.rows[at].id,
          `${LABELS[chosen.y]} at the end: ${format({ format: "number" }, last(report.rows[at]))}`,
        ],
        empty: runs().length === 0,
        caption: `${LABELS[chosen.y]} by ${LABELS[chosen.x].toLowerCase()}, ${runs().length} runs${chosen.smooth && chosen.y !== "learning_rate" ? `; each point is the mean of the last ${WINDOW} logged` : ""}. Long curves are thinned evenly.`,
        table: () => ({
          head: ["Run", "Seed", `${LABELS[chosen.y]} at the start`, "At the end"],
          rows: runs().map((row) => {
            const history = report.data.histories[row.row];
            return [
              report.runButton(row, row.label ?? row.id),
              String(row.seed ?? "n/a"),
              format(
                { format: "number" },
                history[chosen.y].find((value) => value !== null),
              ),
              format({ format: "number" }, last(row)),
            ];
          }),
        }),
      });
    };
    curveForm.append(
      report.choice(
        "Up (y)",
        names.map((name) => [name, LABELS[name]]),
        chosen.y,
        (y) => {
          chosen.y = y;
          curve();
        },
      ),
      report.choice(
        "Across (x)",
        ["step", "tokens"].filter(has).map((name) => [name, LABELS[name]]),
        chosen.x,
        (x) => {
          chosen.x = x;
          curve();
        },
      ),
      report.check("smoothed", chosen.smooth, (smooth) => {
        chosen.smooth = smooth;
        curve();
      }),
    );
    report.follow(curve);
  }
}
