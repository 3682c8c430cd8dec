"use strict";
// Comparisons: all of them, those that show a difference, those of one configuration.
{
  const form = document.getElementById("pair-choices");
  if (form) {
    const rows = [...document.querySelectorAll("#pairs tr[data-pair]")];
    const names = (row) => [row.cells[0].textContent, row.cells[1].textContent];
    const chosen = { name: "", shown: false };
    const count = report.make("span", { role: "status" });
    const filter = () => {
      for (const row of rows)
        row.hidden =
          (chosen.name !== "" && !names(row).includes(chosen.name)) || (chosen.shown && !row.querySelector(".verdict"));
      count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} comparisons, ${rows.filter((row) => row.querySelector(".verdict")).length} show a difference`;
    };
    const every = [...new Set(rows.flatMap(names))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    form.append(
      report.choice("Configuration", [["", "all"], ...every.map((name) => [name, name])], "", (name) => {
        chosen.name = name;
        filter();
      }),
      report.check("only where a difference is shown", false, (shown) => {
        chosen.shown = shown;
        filter();
      }),
      report.make("p", { class: "count" }, count),
    );
    filter();
  }
}
