"use strict";
// What the searches for learning rates tried: validation score by rate, the chosen rate encircled.
{
  const { format, data } = report;
  const RATE = { format: "rate" };
  const SHARE = { format: "share" };
  report.searchOf = (at) => data.searches.find(({ rows }) => rows.includes(at));
  report.rateName = (one) => `${format(RATE, one.learning_rate)}${one.chosen ? ", chosen" : ""}`;
  report.rateScore = (one) =>
    one.value === null
      ? (one.reason ?? "no score")
      : `${format(SHARE, one.value)} [${format(SHARE, one.low)}, ${format(SHARE, one.high)}], ${format({ format: "whole" }, one.items)} items`;

  const rateForm = document.getElementById("rate-choices");
  if (rateForm) {
    const places = [...new Set(data.searches.map(({ where }) => where))];
    const chosen = { where: places[0] };
    const shown = () =>
      data.searches.filter(
        ({ where, rows }) => where === chosen.where && report.kept.some(({ row }) => rows.includes(row)),
      );
    const values = () =>
      shown().flatMap((search) => search.tried.map((one) => ({ ...one, name: search.name, row: search.rows[0] })));
    const layer = (mark, filter, more = {}) => ({
      mark: { tooltip: { content: "data" }, cursor: "pointer", ...mark },
      transform: [{ filter }],
      encoding: { y: { field: "value", type: "quantitative" }, ...more },
    });
    const known = "datum.value !== null";
    const draw = () => {
      const found = shown();
      const metric = found[0]?.metric ?? "score";
      report.draw(document.getElementById("rate"), {
        spec: () => {
          const { color, shape } = report.coloured("name", "Configuration", [
            ...new Set(data.searches.map(({ name }) => name)),
          ]);
          // Given, for a layer without points, as that of rates that diverged may be, has no extent of its own.
          const rates = values().map((one) => one.learning_rate);
          return {
            data: { values: values() },
            encoding: {
              x: {
                field: "learning_rate",
                type: "quantitative",
                title: "Learning rate",
                scale: { type: "log", nice: false, domain: [Math.min(...rates) / 1.5, Math.max(...rates) * 1.5] },
                axis: { format: ".0e" },
              },
              color,
            },
            layer: [
              layer({ type: "line", strokeWidth: 1.75 }, known),
              layer({ type: "rule" }, known, {
                y: {
                  field: "low",
                  type: "quantitative",
                  title: `Validation ${metric}`,
                  scale: { zero: false },
                },
                y2: { field: "high" },
              }),
              layer({ type: "point", filled: true, opacity: 1, size: 60 }, known, { shape }),
              layer({ type: "point", shape: "circle", filled: false, size: 320, strokeWidth: 2 }, "datum.chosen"),
              layer({ type: "text", text: "×", fontSize: 22, baseline: "bottom" }, "datum.value === null", {
                y: { value: "height" },
              }),
            ],
          };
        },
        lines: (one) => [one.name, report.rateName(one), report.rateScore(one)],
        empty: found.length === 0,
        caption: `Validation ${metric} by learning rate, ${found.length} ${found.length === 1 ? "search" : "searches"}, 95 % intervals over items. ${found
          .filter(({ warning }) => warning)
          .map(({ name, why }) => `${name}: ${why}.`)
          .join(" ")}`.trim(),
        table: () => ({
          head: ["Configuration", "Rate", `Validation ${metric}`],
          rows: found.flatMap((search) =>
            search.tried.map((one) => [
              report.runButton(report.rows[search.rows[0]], search.name),
              report.rateName(one),
              report.rateScore(one),
            ]),
          ),
        }),
      });
    };
    if (places.length > 1)
      rateForm.append(
        report.choice(
          "Model and task",
          places.map((where) => [where, where]),
          chosen.where,
          (where) => {
            chosen.where = where;
            draw();
          },
        ),
      );
    else rateForm.remove();
    report.follow(draw);
  }
}
