"use strict";
// Everything about one run, in a dialog: results, the command that trains it again, settings, environment.
{
  const { make, data, format } = report;
  const dialog = document.getElementById("run");
  const list = (caption, pairs) =>
    make(
      "table",
      {},
      make("caption", { text: caption }),
      make(
        "tbody",
        {},
        ...pairs.map(([name, value]) =>
          make("tr", {}, make("th", { scope: "row", text: name }), make("td", { text: value })),
        ),
      ),
    );
  const shown = (value) =>
    value === null || value === undefined ? "none" : typeof value === "object" ? JSON.stringify(value) : String(value);
  const block = (label, text) => {
    const copy = make("button", { type: "button", text: `Copy ${label}` });
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        copy.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        copy.textContent = "Selected: copy it with the keyboard";
      }
    });
    const code = make("pre", { text, tabindex: "0", "aria-label": label });
    return [code, copy];
  };
  const results = (row) =>
    report.columns
      .filter((column) => column.key !== "label" && report.has(row, column.key))
      .map((column) => [column.label, `${format(column, row[column.key])} ${report.interval(column, row)}`.trim()]);
  const settings = (at, test) => {
    const differing = Object.entries(data.settings.differing)
      .filter(([key]) => test(key))
      .map(([key, values]) => [key.replace(/^config\./, ""), values[at]])
      .filter(([, value]) => value !== null);
    const common = Object.entries(data.settings.common)
      .filter(([key]) => test(key))
      .map(([key, value]) => [key.replace(/^config\./, ""), value]);
    return [differing, common].map((pairs) => pairs.map(([key, value]) => [key, shown(value)]));
  };
  const folded = (title, pairs) =>
    make("details", {}, make("summary", { text: `${title} (${pairs.length})` }), list(title, pairs));
  const again = (row) => {
    const { command, problem } = data.commands[row.row];
    const parts = [make("h3", { text: "Reproduce and cite" })];
    if (command)
      parts.push(
        ...block("command", [row.commit ? `git checkout ${row.commit}` : null, command].filter(Boolean).join("\n")),
      );
    if (problem) parts.push(make("p", { class: "warning", text: `Take care: ${problem}.` }));
    else
      parts.push(
        make("p", {
          text: "Read back, this command gives this run's id. It writes to a folder of its own, for here the run is done.",
        }),
      );
    if (row.dirty)
      parts.push(
        make("p", {
          class: "warning",
          text: "The run's commit had changes that were not committed: the commit alone is not the code that ran.",
        }),
      );
    const version =
      data.settings.common["version.peft-harness"] ?? data.settings.differing["version.peft-harness"]?.[row.row] ?? "";
    const cited = `PEFT Harness ${version}${row.commit ? `, commit ${row.commit}` : ""}, run ${row.id}${row.model ? `: ${row.model} on ${row.task}` : ""}, ${row.label}, seed ${row.seed ?? "n/a"}${row.started ? `, ${row.started.slice(0, 10)}` : ""}.`;
    return [...parts, ...block("citation", cited)];
  };

  const RATE = { format: "rate" };
  const SHARE = { format: "share" };
  const rateName = (one) => `${format(RATE, one.learning_rate)}${one.chosen ? ", chosen" : ""}`;
  const rateScore = (one) =>
    one.value === null
      ? (one.reason ?? "no score")
      : `${format(SHARE, one.value)} [${format(SHARE, one.low)}, ${format(SHARE, one.high)}], ${format({ format: "whole" }, one.items)} items`;
  const search = (at) => {
    const found = data.searches.find(({ rows }) => rows.includes(at));
    if (!found) return [];
    const caption = `Validation ${found.metric} at each rate, seed ${found.seed}, 95 % intervals`;
    return [
      make("h3", { text: "Search for the learning rate" }),
      list(
        caption,
        found.tried.map((one) => [rateName(one), rateScore(one)]),
      ),
      make("p", { class: found.warning ? "warning" : undefined, text: `Ended: ${found.why}.` }),
    ];
  };

  const show = (title, parts) => {
    document.getElementById("run-title").textContent = title;
    document.getElementById("run-body").replaceChildren(...parts);
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    document.getElementById("run-title").tabIndex = -1;
    document.getElementById("run-title").focus();
  };
  // The runs behind a point: one opens, of several its reader chooses.
  report.openRuns = (rows) => {
    if (rows.length === 1) report.openRun(rows[0]);
    else
      show(`${rows.length} runs`, [
        make("ul", {}, ...rows.map((at) => make("li", {}, report.runButton(report.rows[at], report.title(report.rows[at]))))),
      ]);
  };
  report.openRun = (at) => {
    const row = report.rows[at];
    const parts = [
      make("p", {}, make("span", { class: `status ${row.status}`, text: row.status.replace("_", " ") }), ` ${row.id}`),
    ];
    if (row.foreign)
      parts.push(
        make("p", {
          class: "warning",
          text: "A number from elsewhere: its items are not known, so it is never paired with runs of your own.",
        }),
      );
    if (row.reason) parts.push(make("p", { text: row.reason }));
    if (data.tracebacks[at])
      parts.push(
        make(
          "details",
          {},
          make("summary", { text: "Traceback" }),
          make("pre", { text: data.tracebacks[at], tabindex: "0" }),
        ),
      );
    parts.push(
      ...again(row),
      make("h3", { text: "Results and costs" }),
      list("Test split unless said otherwise, 95 % intervals", results(row)),
    );
    parts.push(...search(at));
    const [differing, common] = settings(at, (key) => key.startsWith("config."));
    const [hereOnly, everywhere] = settings(at, (key) => !key.startsWith("config."));
    parts.push(make("h3", { text: "Configuration" }));
    if (differing.length) parts.push(list("What differs between the runs of this page", differing));
    if (common.length) parts.push(folded("The same in all runs", common));
    parts.push(make("h3", { text: "Environment, data and hashes" }), folded("Of this run", hereOnly));
    if (everywhere.length) parts.push(folded("Of all runs", everywhere));
    if (row.folder) parts.push(make("p", {}, make("small", { text: `Folder: ${row.folder}` })));
    show(report.title(row), parts);
  };
  document.getElementById("run-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-run]");
    if (button) report.openRun(Number(button.dataset.run));
  });
}
