"use strict";
// Inputs with the base's answer, the tuned answer of one run or of two, and the reference.
{
  const { make } = report;
  const form = document.getElementById("sample-choices");
  const runs = report.rows.filter((row) => report.data.samples[row.row].length);
  if (form && runs.length) {
    const best = runs.reduce(
      (one, row) =>
        report.has(row, "score") &&
        (!report.has(one, "score") || (row.higher_is_better === false ? row.score < one.score : row.score > one.score))
          ? row
          : one,
      runs[0],
    );
    const chosen = { one: best.row, other: "" };
    const answer = (text, reference, isRun) => {
      const right = isRun && text !== "" && text === reference;
      return make(
        "td",
        {},
        text,
        ...(right ? [make("span", { class: "right", text: " ✓", "aria-label": "as the reference" })] : []),
      );
    };
    const draw = () => {
      const picked = [chosen.one, chosen.other].filter((at) => at !== "").map(Number);
      const tables = picked.map((at) => report.data.samples[at]);
      const names = picked.map((at) => `Tuned: ${report.title(report.rows[at])}`);
      document
        .querySelector("#sample-table thead")
        .replaceChildren(
          make("tr", {}, ...["Input", "Base", ...names, "Reference"].map((text) => make("th", { scope: "col", text }))),
        );
      // Runs of the same task have the same inputs; where they do not, the second run's answer is missing.
      const same = (entry, table) =>
        table.find((other) => other.input === entry.input && other.reference === entry.reference);
      document.querySelector("#sample-table tbody").replaceChildren(
        ...tables[0].map((entry) =>
          make(
            "tr",
            {},
            make("th", { scope: "row", text: entry.input }),
            answer(entry.base, entry.reference, true),
            ...tables.map((table) => {
              const found = same(entry, table);
              return found
                ? answer(found.tuned, entry.reference, true)
                : make("td", { class: "na", text: "not asked" });
            }),
            answer(entry.reference, entry.reference, false),
          ),
        ),
      );
    };
    const options = runs.map((row) => [String(row.row), `${report.title(row)} (${row.id})`]);
    form.append(
      report.choice("Run", options, String(chosen.one), (one) => {
        chosen.one = Number(one);
        draw();
      }),
      report.choice("Beside", [["", "no other run"], ...options], "", (other) => {
        chosen.other = other;
        draw();
      }),
    );
    draw();
  }
}
