"use strict";
// The figures, of one model and task at a time, as analysis.figures draws them.
{
  const { make, format } = report;
  const { pages } = report.data.charts;
  const box = document.getElementById("figure-list");
  const MOST = 1000; // rows of a table; the CSV of analysis.figures has all
  const NAMES = { of_rank: "rank", null: "control" };
  const words = (name) => (NAMES[name] ?? name).replaceAll("_", " ");
  const cell = (value) => (typeof value === "number" ? format({ format: "number" }, value) : String(value ?? "n/a"));
  const button = (at) => report.runButton(report.rows[at], report.title(report.rows[at]));
  const buttons = (ids) => make("span", { class: "runs" }, ...ids.slice(0, 12).map(button));
  const known = (datum) => (field) => datum[field] !== null && datum[field] !== undefined;
  const named = ([first, ...others]) =>
    others.length ? `${report.rows[first].label}, ${others.length + 1} runs` : report.title(report.rows[first]);
  const fill = (element, { title, said, spec, fields }) => {
    element.setAttribute("aria-label", title);
    let datasets = null;
    const sets = () => Object.entries(spec.datasets).map(([key, set]) => [key, report.unpacked(set)]);
    const unpack = () => (datasets ??= Object.fromEntries(sets()));
    const rows = () =>
      Object.values(unpack())
        .filter(([first]) => first?.ids)
        .flat();
    report.draw(element, {
      spec: () => ({ ...structuredClone({ ...spec, datasets: undefined }), datasets: unpack() }),
      lines: (datum, mark) =>
        datum.ids?.length && !["line", "area"].includes(mark)
          ? [named(datum.ids), ...fields.filter(known(datum)).map((field) => `${words(field)}: ${cell(datum[field])}`)]
          : null,
      caption: `${title}. ${said}`,
      table: () => ({
        head: ["Runs", ...fields.map(words)],
        rows: rows()
          .slice(0, MOST)
          .map((row) => [buttons(row.ids ?? []), ...fields.map((field) => cell(row[field]))]),
      }),
    });
    return element;
  };
  const figure = (one) => fill(make("figure", { id: `figure-${one.name}` }), one);
  for (const element of document.querySelectorAll("figure.answer")) {
    const page = pages.find(({ place }) => JSON.stringify(place) === JSON.stringify(JSON.parse(element.dataset.place)));
    const lead = page?.groups.flatMap(({ figures }) => figures).find(({ name }) => name === page.lead);
    if (lead) fill(element, lead);
    else element.remove();
  }
  const show = (at) => {
    report.forget(box.querySelectorAll("figure"));
    const parts = ({ title, figures }) => [make("h3", { text: title }), ...figures.map(figure)];
    box.replaceChildren(...pages[at].groups.flatMap(parts));
  };
  if (pages.length > 1)
    document.getElementById("figure-choices").append(
      report.choice(
        "Model and task",
        pages.map(({ name }, at) => [String(at), name]),
        "0",
        (at) => show(Number(at)),
      ),
    );
  if (pages.length) show(0);
}
